"""Who made it, among known generators: the nearest template's label (S1, Table III); clean and post-processed.

*Errors* are those of one variant over those of another, paired over photographs: both are judged on the same resampled
ones. Backbones are resampled within each variant, so they need not be as many; of one that has a single backbone the
bounds do not know how it varies.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import Picture
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, Values, measured, percent_of
from trainer.experiments.naming import Namer, confusion_of, make_namer
from trainer.experiments.plots import confusion, embedding_map
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study

TOP1 = "top-1"


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    changes: tuple[str, ...] = ()
    """Post-processing, beside clean images; see ``changes.py``."""
    faithful: str | None = None
    """A variant whose errors those of the others are divided by."""


def run(study: Study) -> Findings:
    """Tables ``top1`` (clean; after each change, their mean and worst), ``recall`` (a column a class), ``errors``."""
    settings: Settings = study.settings(Settings)
    classes = study.test_classes(study.generators.values())
    pictures = [picture for some in classes.values() for picture in some]
    truth = np.array([picture.label for picture in pictures])
    top1: dict[tuple[str, str], Measured] = {}
    recall: dict[tuple[str, str], Measured] = {}
    errors: dict[str, dict[str, Estimate]] = {}
    figures: list[Figure] = []
    remarks: list[str] = []
    for row, variant in settings.variants.items():
        if (variant.train or 0) > fewest(study):
            remarks.append(f"{row} is left out: there are {fewest(study)} training images a class.")
            continue
        namers = trained_namers(study, variant)
        sample = Sample.of(study, pictures, len(namers))
        clean = _right(namers, pictures)
        changes = changes_of(settings.changes)
        after = {change.name: sample.mean(_right(namers, pictures, change)) for change in changes}
        accuracies = {TOP1: sample.mean(clean), **summary(after, changes), **after}
        top1 |= {(row, column): percent_of(found) for column, found in accuracies.items()}
        errors[row] = {column: Estimate(1 - found.found) for column, found in accuracies.items()}
        for name, own in classes.items():
            recall[row, name] = percent_of(Sample.of(study, own, len(namers)).mean(clean[:, :, truth == name]))
        if variant.system != "prnu":  # noise patterns have no neighbourhoods to show
            figures += _figures(row, namers[0], pictures)
    alone = Sample.of(study, pictures, 1)
    for floor in floors_of(study, tuple(study.generators.values())):
        seen = [change for change in changes_of(settings.changes) if floor.sees(change)]
        after = {change.name: alone.mean(floor.right(pictures, change)) for change in seen}
        accuracies = {TOP1: alone.mean(floor.right(pictures)), **summary(after, seen), **after}
        top1 |= {(floor.row, column): percent_of(found) for column, found in accuracies.items()}
    tables = [study.recipe.published("top1").beside(top1), study.recipe.published("recall").beside(recall)]
    if settings.faithful in errors:
        others = [row for row in errors if row != settings.faithful]
        ratios = {place: one for row in others for place, one in _ratios(errors, row, settings.faithful).items()}
        tables.append(study.recipe.published("errors").beside(ratios))
    return Findings(tables=tuple(tables), figures=tuple(figures), remarks=tuple(remarks))


def fewest(study: Study) -> int:
    """Training images of the class with the fewest."""
    train = study.corpus.classes(study.generators.values(), "train", study.scale.train)
    return min(len(pictures) for pictures in train.values())


def trained_namers(study: Study, variant: Variant) -> list[Namer]:
    """A backbone a seed, trained on all generators, with its templates."""
    train, val = study.training_classes(variant, study.generators.values())
    nets = study.train_seeds(variant, train, val)
    return [make_namer(study, variant, trained, train, seed=seed) for seed, trained in enumerate(nets)]


def summary(after: dict[str, Estimate], changes: Sequence[Transform]) -> dict[str, Estimate]:
    """Mean and worst over the changes of track P, and the mean of those held out of training."""
    track = [after[change.name] for change in changes if change.track == "post-processed"]
    held_out = [after[change.name] for change in changes if change.held_out]
    found = {}
    if track:
        found = {"P mean": bootstrap.average(track), "P worst": bootstrap.worst(track)}
    if held_out:
        found["P held out, mean"] = bootstrap.average(held_out)
    return found


def _ratios(errors: Mapping[str, Mapping[str, Estimate]], ours: str, faithful: str) -> dict[tuple[str, str], Measured]:
    """Clean and on track P; nothing where the faithful one makes so few errors that there is no bound."""
    ratios = {
        name: errors[ours][column] / errors[faithful][column]
        for name, column in (("clean", TOP1), ("P mean", "P mean"))
        if column in errors[ours]
    }
    row = f"{ours} / {faithful}"
    found = {(row, name): measured(ratio) for name, ratio in ratios.items() if np.isfinite(ratio.found[0])}
    return {place: one for place, one in found.items() if one.high is not None and np.isfinite(one.high)}


def _right(namers: Sequence[Namer], pictures: Sequence[Picture], change: Transform = CLEAN) -> Values:
    """``bool[S, 1, N]``."""
    return np.stack([namer.right(pictures, change) for namer in namers])[:, None]


def _figures(row: str, namer: Namer, pictures: Sequence[Picture]) -> list[Figure]:
    labels = namer.library.labels
    truth = [picture.label for picture in pictures]
    return [
        Figure(
            title=f"{row}: confusion",
            image=confusion(labels, confusion_of(namer.name(pictures), pictures, labels)),
            caption="First backbone, clean.",
        ),
        Figure(
            title=f"{row}: embeddings",
            image=embedding_map(namer.embed(pictures), truth),
            caption="t-SNE of test images, first backbone: neighbours stay neighbours, distances mean nothing.",
        ),
    ]
