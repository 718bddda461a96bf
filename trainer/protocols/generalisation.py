"""Trained on one generator, tested on others (S3, Tables 2 and 4): augmentations, number of classes, size of the data.

AP is taken on each generator's own reals and fakes; mAP is the plain mean. Published means count the generator that was
trained on: the mean without it stands beside them.
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
from trainer.experiments.corpus import Picture, spread
from trainer.experiments.floors import binary_floors
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Measured
from trainer.experiments.study import Classes, Findings, Study, Trained
from trainer.protocols.simulated import Simulation, simulate

ALL, UNSEEN = "mAP", "mAP, unseen"


class Trial(Variant):
    """A variant, and what it is trained on."""

    train_on: str | None = None
    """Another of the publication's generators than the experiment's."""

    simulation: Simulation | None = None
    """In place of the generator's images: fakes made of its photographs."""
    categories: int | None = Field(default=None, ge=1)
    """Only what shows one of so many things."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the images, spread evenly."""


class OneNetwork(BaseModel):
    """Settings of the experiments that look at a single network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Trial
    train_on: str
    """The publication's name."""


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Trial]
    train_on: str
    """The publication's name."""
    ours: str | None = None
    """A variant that is to beat the best of the others, by a paired difference of *mAP, unseen*."""


def run(study: Study) -> Findings:
    """Table ``ap``; ``paired`` where one variant is to beat the others."""
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
        remarks.add(f"No floors: no training images of {settings.train_on}.")
    tables = [study.recipe.published("ap").beside(found)]
    if settings.ours is not None:
        tables.append(study.recipe.published("paired").beside(_paired(settings.ours, unseen)))
    return Findings(tables=tuple(tables), remarks=tuple(sorted(remarks)))


def trained_on(study: Study, trial: Trial, name: str) -> tuple[list[Trained], str]:
    """A network a seed, trained on one generator and its reals; and what has to be said about the data.

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
        train = {label: kept(pictures) for label, pictures in train.items()}
        # A small corpus may have none to watch that show the same; then all are watched.
        val = {label: kept(pictures) or pictures for label, pictures in val.items()}
    val = {label: spread(pictures, study.scale.val) for label, pictures in val.items()}
    train = {label: spread(pictures, study.least(trial)) for label, pictures in train.items()}
    if trial.simulation is not None:
        train, val = simulate(study, train[REAL], trial.simulation)
    train = {label: _part(pictures, trial.share) for label, pictures in train.items()}
    return study.train_seeds(trial, train, val), remark


def generator_of(study: Study, name: str, setting: str) -> str:
    """What stands for a generator of the publication, which ``setting`` names.

    Raises:
        NotInCorpus: nothing does.
    """
    if name not in study.generators:
        raise NotInCorpus(f"{setting}: nothing in {study.corpus.root} stands for {name}; say --map {name}=FOLDER")
    return study.generators[name]


def average_precisions(study: Study, nets: Sequence[Trained], **how: Any) -> dict[str, Estimate]:
    """Of each generator of the publication; ``how`` the images are seen, see ``Study.outputs``."""
    found = {}
    for name in study.tested:
        pictures = tested(study, name)
        logits = np.stack([study.outputs(net, pictures, **how).logits for net in nets])[:, None]
        found[name] = Sample.of(study, pictures, len(nets)).average_precision(logits)
    return found


def tested(study: Study, name: str) -> tuple[Picture, ...]:
    """A generator's test images and its reals, see ``Study.both_kinds``."""
    return study.both_kinds([study.generators[name]])


def _part(pictures: Sequence[Picture], share: float) -> tuple[Picture, ...]:
    return spread(pictures, max(2, round(len(pictures) * share)))


def _paired(ours: str, unseen: Mapping[str, Estimate]) -> dict[tuple[str, str], Measured]:
    """Ours minus each other, over the same photographs and backbones: of as many seeds each."""
    return {
        (f"{ours} - {row}", UNSEEN): percent_of(unseen[ours] - estimate)
        for row, estimate in unseen.items()
        if row != ours and ours in unseen
    }
