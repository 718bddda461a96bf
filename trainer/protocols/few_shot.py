"""A new type of generator from a few images of it (S1, Table IV and Fig. 3): one family left out after another.

Published are two columns for each family: *others*, the accuracy on all types but the new one, and *new*, on the new
one alone. Beside the means we give the worst family, and how bad the unlucky draws of the few images are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer import bootstrap
from trainer.bootstrap import Estimate
from trainer.plots import curves
from trainer.protocols.changes import changes_of
from trainer.protocols.corpus import Picture, draw
from trainer.protocols.measures import Sample, percent_of
from trainer.protocols.naming import Flags, Namer, make_namer
from trainer.protocols.recipe import Variant
from trainer.protocols.section import Figure, Measured
from trainer.protocols.study import Classes, Findings, Study, Trained
from trainer.transforms import CLEAN, Transform

Backbone = tuple[Trained, Classes]
"""A network and the images that it was trained on."""
BEFORE = 0
"""Images of the new type before it is learnt: a template of one image, and no training."""


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    shots: tuple[int, ...]
    """Images of the new type; 0 is before fine-tuning."""
    changes: tuple[str, ...] = ()
    """Post-processing of the test images, beside clean ones."""
    summary: bool = False
    """Also worst families and unlucky draws."""


@dataclass(frozen=True, eq=False)
class Found:
    """Accuracies of one variant, family and number of images: shares, so that photographs can be resampled."""

    new: Estimate
    others: Estimate
    unlucky: Estimate
    """The 10th percentile of the draws on the new type."""


def run(study: Study) -> Findings:
    """Tables ``new`` and ``others``, a row for each variant and number of images; ``summary`` where asked for."""
    settings: Settings = study.settings(Settings)
    new: dict[tuple[str, str], Measured] = {}
    others: dict[tuple[str, str], Measured] = {}
    summary: dict[tuple[str, str], Measured] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    pool = min(len(few_shot_pool(study, family)) for family in study.tested.values())
    enough = [shots for shots in settings.shots if shots <= pool]
    remarks = [f"{shots} images: there are {pool}." for shots in settings.shots if shots not in enough]
    for name, variant in settings.variants.items():
        nets = {paper: backbones_without(study, variant, family) for paper, family in study.tested.items()}
        for shots in enough:
            row = row_of(name, shots)
            learnt = {paper: _learn(study, variant, nets[paper], f, shots) for paper, f in study.tested.items()}
            for change in (CLEAN, *changes_of(settings.changes)):
                found = {paper: _test(study, learnt[paper], f, change) for paper, f in study.tested.items()}
                if change is CLEAN:
                    for paper, one in found.items():
                        new[row, paper], others[row, paper] = percent_of(one.new), percent_of(one.others)
                        lines.setdefault(f"{name}: {paper}", []).append((shots, new[row, paper].value))
                for column, estimate in _summary(found, change).items():
                    summary[row, column] = percent_of(estimate)
    tables = [study.recipe.published("new").beside(new), study.recipe.published("others").beside(others)]
    if settings.summary:
        tables.append(study.recipe.published("summary").beside(summary))
    image = curves(lines, x="images of the new type", y="accuracy on the new type, %", limits=(0, 102))
    figure = Figure(title="Accuracy by images of the new type (S1, Fig. 3)", image=image)
    return Findings(tables=tuple(tables), figures=(figure,), remarks=tuple(remarks))


def backbones_without(study: Study, variant: Variant, family: str) -> list[Backbone]:
    """A network a seed that has never seen ``family``, and the images that it was trained on."""
    known = [generator for generator in study.generators.values() if generator != family]
    train = study.corpus.classes(known, "train", study.least(variant))
    val = study.corpus.classes(known, "val", study.scale.val)
    return [(study.train(study.config(variant, seed), train, val), train) for seed in study.seeds_of(variant)]


def namer_with(
    study: Study,
    variant: Variant,
    backbone: Backbone,
    families: Mapping[str, int],
    seed: int,
) -> Namer:
    """After it has learnt families from so many images of each, drawn by ``seed``; 0 is a template of one image."""
    trained, known = backbone
    fresh = {family: draw(few_shot_pool(study, family), shots or 1, seed) for family, shots in families.items()}
    if variant.adapt == "triplet" and not any(families.values()):
        variant = variant.model_copy(update={"adapt": "none"})
    return make_namer(study, variant, trained, known, fresh, seed)


def few_shot_pool(study: Study, family: str) -> tuple[Picture, ...]:
    """Where the few images come from: training images, or calibration images of those that are never trained on."""
    return study.corpus.fakes(family, "train") or study.corpus.fakes(family, "calib")


def draw_seed(seed: int, number: int) -> int:
    """Another draw for each backbone."""
    return 1000 * seed + number


def row_of(variant: str, shots: int) -> str:
    """In recipes, too."""
    return f"{variant}, before" if shots == BEFORE else f"{variant}, {shots} images"


def _learn(study: Study, variant: Variant, backbones: Sequence[Backbone], family: str, shots: int) -> list[list[Namer]]:
    """A namer for each backbone and draw."""
    return [
        [namer_with(study, variant, one, {family: shots}, draw_seed(seed, n)) for n in study.draws_of(variant)]
        for seed, one in enumerate(backbones)
    ]


def _test(study: Study, namers: Sequence[Sequence[Namer]], family: str, change: Transform) -> Found:
    classes = study.test_classes(study.generators.values(), least=2)
    ours = classes[family]
    rest = [picture for name, pictures in classes.items() if name != family for picture in pictures]

    def right(pictures: Sequence[Picture]) -> Flags:
        return np.array([[namer.right(pictures, change) for namer in row] for row in namers])

    sample = Sample.of(study, ours, len(namers), len(namers[0]))
    new = right(ours)
    return Found(
        new=sample.mean(new),
        others=Sample.of(study, rest, len(namers), len(namers[0])).mean(right(rest)),
        unlucky=bootstrap.quantile_of_draws(new, sample.photograph, sample.resamples, 0.1),
    )


def _summary(found: Mapping[str, Found], change: Transform) -> dict[str, Estimate]:
    after = "" if change is CLEAN else f", {change.name}"
    return {
        f"worst family{after}": bootstrap.worst([one.new for one in found.values()]),
        f"mean{after}": bootstrap.average([one.new for one in found.values()]),
        f"unlucky draw, worst family{after}": bootstrap.worst([one.unlucky for one in found.values()]),
        f"others, mean{after}": bootstrap.average([one.others for one in found.values()]),
    }
