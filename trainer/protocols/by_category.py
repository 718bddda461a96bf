"""Accuracy as trained on each of the things that one generator's images show (S3, Table 6)."""

from collections.abc import Sequence

import numpy as np

from trainer.arrays import Floats
from trainer.evaluation import bootstrap
from trainer.experiments.corpus import Picture
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study
from trainer.protocols.generalisation import OneNetwork, generator_of, tested, trained_on

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
    logits = {"accuracy": np.stack([study.outputs(net, pictures).logits for net in nets])}
    for floor in floors_of(study, (study.generators[settings.train_on],)):
        logits[floor.row] = floor.judge(pictures).logits[None]
    found = {
        (row, name): one for row, some in logits.items() for name, one in _accuracies(study, pictures, some).items()
    }
    remarks = ("The corpus does not say what its images show.",) if ("accuracy", ALL) in found else ()
    return Findings(tables=(study.recipe.published("accuracy").beside(found),), remarks=remarks)


def _accuracies(study: Study, pictures: Sequence[Picture], logits: Floats) -> dict[str, Measured]:
    """Category -> accuracy, of ``float32[S, N]``."""
    sample = Sample.of(study, pictures, len(logits))
    right = (logits[:, None] > 0) == sample.generated
    categories = np.array([picture.category for picture in pictures])
    estimates = {}
    for category in sorted(set(categories)):
        chosen = categories == category
        estimates[str(category) or ALL] = sample.among(chosen).mean(right[..., chosen])
    found = {name: percent_of(estimate) for name, estimate in estimates.items()}
    if len(estimates) > 1:
        found[MEAN] = percent_of(bootstrap.average(list(estimates.values())))
    return found
