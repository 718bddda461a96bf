"""Accuracy as trained on each of the things that one generator's images show (S3, Table 6)."""

import numpy as np

from trainer import bootstrap
from trainer.protocols.generalisation import OneNetwork, generator_of, tested, trained_on
from trainer.protocols.measures import Sample, percent_of
from trainer.protocols.study import Findings, Study

ALL, MEAN = "all", "average"


class Settings(OneNetwork):
    """Whose images are tested."""

    test_on: str
    """The publication's name."""


def run(study: Study) -> Findings:
    """Table ``accuracy``: a column a category of the test images, and their mean; or ``all`` if there are none."""
    settings: Settings = study.settings(Settings)
    generator_of(study, settings.test_on, "test_on")
    pictures = tested(study, settings.test_on)
    nets, _ = trained_on(study, settings.variant, settings.train_on)
    sample = Sample.of(study, pictures, len(nets))
    logits = np.stack([study.outputs(net, pictures).logits for net in nets])[:, None]
    right = (logits > 0) == sample.generated
    categories = np.array([picture.category for picture in pictures])
    estimates = {}
    for category in sorted(set(categories)):
        chosen = categories == category
        estimates[str(category) or ALL] = sample.among(chosen).mean(right[..., chosen])
    found = {("accuracy", name): percent_of(estimate) for name, estimate in estimates.items()}
    if len(estimates) > 1:
        found["accuracy", MEAN] = percent_of(bootstrap.average(list(estimates.values())))
    remarks = ("The corpus does not say what its images show.",) if ALL in estimates else ()
    return Findings(tables=(study.recipe.published("accuracy").beside(found),), remarks=remarks)
