"""Trained on one generator, tested on others (S3, Tables 2 and 4): augmentations, number of classes, size of the data.

AP is computed on each generator's own reals and fakes; mAP is the plain mean. Published means include the generator
that was trained on; *unseen* is the mean without it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.data.entries import REAL
from trainer.errors import NotInCorpus
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.categories import some_categories
from trainer.experiments.corpus import CorpusImage, spread
from trainer.experiments.floors import binary_floors
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Measured
from trainer.experiments.study import Classes, Findings, Study, Trained
from trainer.protocols.simulated import Simulation, simulate

ALL, UNSEEN = "mAP", "mAP, unseen"


class Trial(Variant):
    """A variant, and the images that it is trained on."""

    train_on: str | None = None
    """The generator to train on, by its name in the publication, if another than the experiment's."""
    simulation: Simulation | None = None
    """Fakes made of the generator's photographs, in place of its images."""
    categories: int | None = Field(default=None, ge=1)
    """Train only on images of this many content categories."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Train only on this share of the images, spread evenly."""


class OneNetwork(BaseModel):
    """Settings of experiments with a single network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Trial
    train_on: str
    """The generator to train on, by its name in the publication."""


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Trial]
    train_on: str
    """The generator to train on, by its name in the publication."""
    candidate: str | None = None
    """A variant to compare with each other one, by a paired difference of *mAP, unseen*."""


def run(study: Study) -> Findings:
    """Table ``ap``, and ``paired`` if there is a candidate."""
    settings: Settings = study.settings(Settings)
    found: dict[tuple[str, str], Measured] = {}
    unseen: dict[str, Estimate] = {}
    remarks: set[str] = set()
    missing: dict[str, NotInCorpus] = {}
    for row, trial in settings.variants.items():
        source = trial.train_on or settings.train_on
        try:
            nets, remark = trained_on(study, trial, source)
        except NotInCorpus as error:
            missing[row] = error
            continue
        remarks |= {remark} if remark else set()
        estimates = average_precisions(study, nets)
        for column, estimate in estimates.items():
            found[row, column] = percent_of(estimate)
        found[row, ALL] = percent_of(bootstrap.average(list(estimates.values())))
        known = None if trial.simulation is not None else source
        others = [estimate for name, estimate in estimates.items() if name != known]
        if others:
            unseen[row] = bootstrap.average(others)
            found[row, UNSEEN] = percent_of(unseen[row])
    if len(missing) == len(settings.variants):
        raise next(iter(missing.values()))
    remarks |= {f"{row} is left out: {error}" for row, error in missing.items()}
    trained = study.generators.get(settings.train_on)
    if trained in study.corpus.trainable:
        for column, generator in study.tested.items():
            for floor, value in binary_floors(study, (trained,), (generator,), "AP").items():
                found[floor, column] = value
    else:
        remarks.add(f"There are no floors: no training images of {settings.train_on}.")
    tables = [study.recipe.published("ap").beside(found)]
    if settings.candidate is not None:
        tables.append(study.recipe.published("paired").beside(_paired(settings.candidate, unseen)))
    return Findings(tables=tuple(tables), remarks=tuple(sorted(remarks)))


def trained_on(study: Study, trial: Trial, name: str) -> tuple[list[Trained], str]:
    """A network for each seed, trained on one generator and its reals; and a remark on the data, or none.

    Raises:
        NotInCorpus: the corpus has nothing that stands for the generator, or no images of it to train on.
    """
    generator = generator_of(study, name, "train_on")
    train: Classes = study.corpus.classes([generator], "train")
    if not train[REAL] or (trial.simulation is None and not train[generator]):
        lacking = generator if train[REAL] else f"photographs of {generator}'s"
        raise NotInCorpus(f"{study.corpus.root}: no training images of {lacking}")
    val: Classes = study.corpus.classes([generator], "val")
    remark = ""
    if trial.categories is not None:
        kept, remark = some_categories(train, trial.categories)
        train = {label: kept(images) for label, images in train.items()}
        # A small corpus may have no validation images of these categories; then it takes those of all.
        val = {label: kept(images) or images for label, images in val.items()}
    val = {label: spread(images, study.scale.val) for label, images in val.items()}
    train = {label: spread(images, study.least(trial)) for label, images in train.items()}
    if trial.simulation is not None:
        train, val = simulate(study, train[REAL], trial.simulation)
    train = {label: _part(images, trial.share) for label, images in train.items()}
    return study.train_seeds(trial, train, val), remark


def generator_of(study: Study, name: str, setting: str) -> str:
    """The corpus's generator that stands for one of the publication, which ``setting`` names.

    Raises:
        NotInCorpus: nothing stands for it.
    """
    if name not in study.generators:
        raise NotInCorpus(f"{setting}: nothing in {study.corpus.root} stands for {name}; pass --map {name}=FOLDER")
    return study.generators[name]


def average_precisions(study: Study, nets: Sequence[Trained], **view: Any) -> dict[str, Estimate]:
    """The AP of each generator of the publication; ``view``: further arguments of ``Study.outputs``."""
    found = {}
    for name in study.tested:
        images = tested(study, name)
        logits = np.stack([study.outputs(net, images, **view).logits for net in nets])[:, None]
        found[name] = Sample.of(study, images, len(nets)).average_precision(logits)
    return found


def tested(study: Study, name: str) -> tuple[CorpusImage, ...]:
    """A generator's test images and its reals, see ``Study.both_kinds``."""
    return study.both_kinds([study.generators[name]])


def _part(images: Sequence[CorpusImage], share: float) -> tuple[CorpusImage, ...]:
    return spread(images, max(2, round(len(images) * share)))


def _paired(candidate: str, unseen: Mapping[str, Estimate]) -> dict[tuple[str, str], Measured]:
    """The candidate minus each other variant, paired over photographs and backbones; all need equally many seeds."""
    return {
        (f"{candidate} - {row}", UNSEEN): percent_of(unseen[candidate] - estimate)
        for row, estimate in unseen.items()
        if row != candidate and candidate in unseen
    }
