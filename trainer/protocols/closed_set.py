"""Attribution among known generators by the nearest template (S1, Table III); clean and post-processed.

*Errors* are the ratio of the error rates of two variants, paired over photographs: each resample tests both on the same
photographs. Backbones are resampled within each variant, so their numbers may differ; for a variant with a single
backbone the bounds leave out how backbones vary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.arrays import Values
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, measured, percent_of
from trainer.experiments.naming import Namer, confusion_of, make_namer
from trainer.experiments.plots import confusion, embedding_map
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study

TOP1 = "top-1"


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    changes: tuple[str, ...] = ()
    """Post-processing of test images, beside clean ones; see ``trainer.experiments.changes``."""
    reference: str | None = None
    """The variant by whose errors those of the others are divided."""


def run(study: Study) -> Findings:
    """Tables ``top1`` (clean; after each change, their mean and worst), ``recall`` (for each class), ``errors``."""
    settings: Settings = study.settings(Settings)
    classes = study.test_classes(study.generators.values())
    images = [image for some in classes.values() for image in some]
    truth = np.array([image.label for image in images])
    top1: dict[tuple[str, str], Measured] = {}
    recall: dict[tuple[str, str], Measured] = {}
    errors: dict[str, dict[str, Estimate]] = {}
    figures: list[Figure] = []
    remarks: list[str] = []
    for row, variant in settings.variants.items():
        if (variant.train or 0) > fewest(study):
            remarks.append(f"{row} is left out: there are {fewest(study)} training images of a class.")
            continue
        namers = trained_namers(study, variant)
        sample = Sample.of(study, images, len(namers))
        clean = _right(namers, images)
        changes = changes_of(settings.changes)
        after = {change.name: sample.mean(_right(namers, images, change)) for change in changes}
        accuracies = {TOP1: sample.mean(clean), **summary(after, changes), **after}
        top1 |= {(row, column): percent_of(found) for column, found in accuracies.items()}
        errors[row] = {column: Estimate(1 - found.found) for column, found in accuracies.items()}
        for name, own in classes.items():
            recall[row, name] = percent_of(Sample.of(study, own, len(namers)).mean(clean[:, :, truth == name]))
        if variant.system != "prnu":  # noise patterns are no embeddings to map
            figures += _figures(row, namers[0], images)
    alone = Sample.of(study, images, 1)
    for floor in floors_of(study, tuple(study.generators.values())):
        seen = [change for change in changes_of(settings.changes) if floor.sees(change)]
        after = {change.name: alone.mean(floor.right(images, change)) for change in seen}
        accuracies = {TOP1: alone.mean(floor.right(images)), **summary(after, seen), **after}
        top1 |= {(floor.row, column): percent_of(found) for column, found in accuracies.items()}
    tables = [study.recipe.published("top1").beside(top1), study.recipe.published("recall").beside(recall)]
    if settings.reference in errors:
        others = [row for row in errors if row != settings.reference]
        ratios = {place: one for row in others for place, one in _ratios(errors, row, settings.reference).items()}
        tables.append(study.recipe.published("errors").beside(ratios))
    return Findings(tables=tuple(tables), figures=tuple(figures), remarks=tuple(remarks))


def fewest(study: Study) -> int:
    """The number of training images of the smallest class."""
    train = study.corpus.classes(study.generators.values(), "train", study.scale.train)
    return min(len(images) for images in train.values())


def trained_namers(study: Study, variant: Variant) -> list[Namer]:
    """A backbone for each seed, trained on all generators, with its templates."""
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


def _ratios(
    errors: Mapping[str, Mapping[str, Estimate]], variant: str, reference: str
) -> dict[tuple[str, str], Measured]:
    """Ratios on clean images and on track P; none where the reference makes too few errors for a finite bound."""
    ratios = {
        name: errors[variant][column] / errors[reference][column]
        for name, column in (("clean", TOP1), ("P mean", "P mean"))
        if column in errors[variant]
    }
    row = f"{variant} / {reference}"
    found = {(row, name): measured(ratio) for name, ratio in ratios.items() if np.isfinite(ratio.found[0])}
    return {place: one for place, one in found.items() if one.high is not None and np.isfinite(one.high)}


def _right(namers: Sequence[Namer], images: Sequence[CorpusImage], change: Transform = CLEAN) -> Values:
    """``bool[S, 1, N]``."""
    return np.stack([namer.right(images, change) for namer in namers])[:, None]


def _figures(row: str, namer: Namer, images: Sequence[CorpusImage]) -> list[Figure]:
    labels = namer.library.labels
    truth = [image.label for image in images]
    return [
        Figure(
            title=f"{row}: confusion",
            image=confusion(labels, confusion_of(namer.name(images), images, labels)),
            caption="First backbone, clean.",
        ),
        Figure(
            title=f"{row}: embeddings",
            image=embedding_map(namer.embed(images), truth),
            caption="t-SNE of test images, first backbone: neighbours stay neighbours, distances mean nothing.",
        ),
    ]
