"""Classes added one after another, from a few images each (S1, Table V): accuracy on the rest and on the newest.

As in the paper, a network is trained on one generator and photographs, and at each step this network is fine-tuned on
the few images of all classes added so far. The floors are fitted anew at each step, on the same images.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.evaluation.floors import FloorKind
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import FLOOR_KINDS
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.plots import panels
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study
from trainer.protocols.few_shot import FEWEST, Backbone, draw_seed, few_shot_pool, floors_with, namer_with

REST, NEW = "rest", "new"
Step = dict[str, Estimate]
"""Accuracy on the rest and on the newest class, where there are test images; the first step has no newest class."""
Learner = Callable[[Sequence[str]], list[Step]]
"""Takes families in the order in which they are added, and returns a step for each."""


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    shots: int
    """Images of each new class."""
    orders: int = 1
    """Orders in which classes are added: the publication's, then others that each start from another generator."""
    summary: bool = False
    """Also report means over all steps and orders, and the worst family."""


def run(study: Study) -> Findings:
    """Tables ``rest`` and ``new``, a column for each step; ``summary`` if set."""
    settings: Settings = study.settings(Settings)
    learners: dict[str, Learner] = {
        name: partial(_steps, study, variant, settings.shots) for name, variant in settings.variants.items()
    }
    pool = min(len(few_shot_pool(study, family)) for family in study.generators.values())
    if min(pool, settings.shots) >= FEWEST:
        learners |= {f"floor: {kind}": partial(_floor_steps, study, kind, settings.shots) for kind in FLOOR_KINDS}
    tables: dict[str, dict[tuple[str, str], Measured]] = {REST: {}, NEW: {}, "summary": {}}
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in settings.variants}
    study.test_classes(study.tested.values(), least=2)
    for name, learn in learners.items():
        every: dict[str, list[Estimate]] = {REST: [], NEW: []}
        for number, order in enumerate(orders_of(list(study.generators), settings.orders)):
            suffix = "" if number == 0 else f", order {number + 1}"
            row = name + suffix
            for step, found in enumerate(learn([study.generators[paper] for paper in order])):
                column = f"add {order[step]}" if step else f"{order[0]} + real"
                for part, estimate in found.items():
                    tables[part][row, column] = percent_of(estimate)
                    if name in settings.variants:
                        line = groups[name].setdefault(f"the {part}{suffix}", [])
                        line.append((step, tables[part][row, column].value))
                    if step:
                        every[part].append(estimate)
        tables["summary"] |= {(name, column): percent_of(one) for column, one in _summary(every).items()}
    remarks = (f"Classes are added from {pool} images: there are no more.",) if pool < settings.shots else ()
    shown = [REST, NEW, *(["summary"] if settings.summary else [])]
    image = panels(groups, x="classes added", y="accuracy, %", limits=(0, 102))
    figure = Figure(title="Accuracy by classes added", image=image)
    tables_shown = tuple(study.recipe.published(name).beside(tables[name]) for name in shown)
    return Findings(tables=tables_shown, figures=(figure,), remarks=remarks)


def _summary(every: Mapping[str, Sequence[Estimate]]) -> dict[str, Estimate]:
    """Means over steps and orders, where there are test images, and the worst."""
    found = {f"the {part}, mean": bootstrap.average(estimates) for part, estimates in every.items() if estimates}
    return {**found, **({f"the {NEW}, worst": bootstrap.worst(every[NEW])} if every[NEW] else {})}


def orders_of(names: Sequence[str], count: int) -> list[list[str]]:
    """The names as given, then permutations that each start from another name."""
    found = [list(names)]
    for number in range(1, count):
        first = names[number % len(names)]
        rest = [name for name in names if name != first]
        found.append([first, *np.random.default_rng(number).permutation(rest).tolist()])
    return found


def _steps(study: Study, variant: Variant, shots: int, families: Sequence[str]) -> list[Step]:
    train, val = study.training_classes(variant, families[:1])
    backbones = [(trained, train) for trained in study.train_seeds(variant, train, val)]
    return [_step(study, variant, backbones, families[: step + 1], shots) for step in range(len(families))]


def _step(
    study: Study,
    variant: Variant,
    backbones: Sequence[Backbone],
    families: Sequence[str],
    shots: int,
) -> Step:
    added = dict.fromkeys(families[1:], shots)
    namers = [
        [namer_with(study, variant, one, added, draw_seed(seed, number)) for number in study.draws_of(variant)]
        for seed, one in enumerate(backbones)
    ]
    found = {}
    for part, images in _test_images(study, families).items():
        right = np.array([[namer.right(images) for namer in row] for row in namers])
        found[part] = Sample.of(study, images, *right.shape[:2]).mean(right)
    return found


def _floor_steps(study: Study, kind: FloorKind, shots: int, families: Sequence[str]) -> list[Step]:
    steps = []
    for step in range(len(families)):
        added = dict.fromkeys(families[1 : step + 1], shots)
        (floor,) = (floor for floor in floors_with(study, families[:1], added) if floor.kind == kind)
        parts = _test_images(study, families[: step + 1])
        steps.append({part: Sample.of(study, some, 1).mean(floor.right(some)) for part, some in parts.items()})
    return steps


def _test_images(study: Study, families: Sequence[str]) -> dict[str, Sequence[CorpusImage]]:
    """Test images of the newest family, unless it is the only one, and of all other classes; without empty parts."""
    classes = study.corpus.classes(families, "test", study.scale.test)
    newest = families[-1] if len(families) > 1 else None
    rest = [image for name, images in classes.items() if name != newest for image in images]
    parts = {REST: rest, NEW: classes.get(newest, ()) if newest else ()}
    return {part: images for part, images in parts.items() if images}
