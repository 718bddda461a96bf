"""Uncalibrated accuracy on each content category of one generator's images (S3, Table 6)."""

from collections.abc import Sequence

import numpy as np

from trainer.arrays import Floats
from trainer.evaluation import bootstrap
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study
from trainer.protocols.generalisation import OneNetwork, generator_of, tested, trained_on

ALL, MEAN = "all", "average"


class Settings(OneNetwork):
    """The generator whose images are tested."""

    test_on: str
    """Its name in the publication."""


def run(study: Study) -> Findings:
    """Table ``accuracy``: a column for each category of the test images, and their mean; or ``all`` without any."""
    settings: Settings = study.settings(Settings)
    generator_of(study, settings.test_on, "test_on")
    images = tested(study, settings.test_on)
    nets, _ = trained_on(study, settings.variant, settings.train_on)
    logits = {"accuracy": np.stack([study.outputs(net, images).logits for net in nets])}
    for floor in floors_of(study, (study.generators[settings.train_on],)):
        logits[floor.row] = floor.predict(images).logits[None]
    found = {(row, name): one for row, some in logits.items() for name, one in _accuracies(study, images, some).items()}
    remarks = ("The corpus does not say what its images show.",) if ("accuracy", ALL) in found else ()
    return Findings(tables=(study.recipe.published("accuracy").beside(found),), remarks=remarks)


def _accuracies(study: Study, images: Sequence[CorpusImage], logits: Floats) -> dict[str, Measured]:
    """Category -> accuracy of logits ``float32[S, N]``."""
    sample = Sample.of(study, images, len(logits))
    right = (logits[:, None] > 0) == sample.generated
    categories = np.array([image.category for image in images])
    estimates = {}
    for category in sorted(set(categories)):
        chosen = categories == category
        estimates[str(category) or ALL] = sample.among(chosen).mean(right[..., chosen])
    found = {name: percent_of(estimate) for name, estimate in estimates.items()}
    if len(estimates) > 1:
        found[MEAN] = percent_of(bootstrap.average(list(estimates.values())))
    return found
