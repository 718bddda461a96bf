"""Is an unseen generator rejected as unknown, before any image of it? One family left out after another, then others.

The papers reject nothing: the nearest template always wins. Here an image is unknown where the conformal p-value of its
nearest label is not above alpha, calibrated on the calibration images of the known labels alone. Generators that the
corpus keeps from training (``rec_*``) are judged by the backbones that know all families. For floors an image is known
as far as its likeliest label is likely.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.arrays import Flags, Scores
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.evaluation.floors import Kind
from trainer.evaluation.metrics import proportion
from trainer.evaluation.open_set import Calibration, Judged
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import Picture
from trainer.experiments.floors import KINDS, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.naming import Namer, make_namer
from trainer.experiments.plots import curves
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, percent

Opinion = Callable[[Sequence[Picture]], tuple[Scores, Flags]]
"""How known each of N images looks, ``float[N]``, and whether its nearest label is its own, ``bool[N]``."""


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Share of known images that may be rejected."""
    changes: tuple[str, ...] = ()
    """After which known images should still be known."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """One that knows some labels, calibrated."""

    namer: Namer
    generators: tuple[str, ...]
    """Those that it knows."""
    calibration: Calibration

    def judged(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> Judged:
        """Nearest label, p-value and score of each image."""
        return self.calibration.judge(self.namer.distances(pictures, change))

    def opinion(self, pictures: Sequence[Picture]) -> tuple[Scores, Flags]:
        """See ``Opinion``."""
        judged, labels = self.judged(pictures), self.namer.library.labels
        right = [labels[number] == p.label for number, p in zip(judged.nearest, pictures, strict=True)]
        return judged.score, np.array(right)


def run(study: Study) -> Findings:
    """Tables ``auroc``, ``oscr`` (a column a family) and ``false_unknown``; means and worst."""
    settings: Settings = study.settings(Settings)
    auroc: dict[tuple[str, str], Measured] = {}
    oscr: dict[tuple[str, str], Measured] = {}
    false_unknown: dict[tuple[str, str], Measured] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    knowing: dict[str, Callable[[Sequence[str]], list[Opinion]]] = {
        row: partial(_opinions, study, variant) for row, variant in settings.variants.items()
    }
    every = tuple(study.generators.values())
    whole = {row: _backbones(study, variant, every) for row, variant in settings.variants.items()}
    knowing |= {f"floor: {kind}": partial(_floor_opinions, study, kind) for kind in KINDS}
    for row, opinions in knowing.items():
        left_out = {}
        for name, family in study.generators.items():
            if not study.corpus.fakes(family, "test"):
                continue
            known = [generator for generator in every if generator != family]
            left_out[name] = _told_apart(study, opinions(known), known, family)
        of_all = [backbone.opinion for backbone in whole[row]] if row in whole else opinions(every)
        others = {name: _told_apart(study, of_all, every, name) for name in study.kept}
        for table, place in ((auroc, 0), (oscr, 1)):
            for name, found in {**left_out, **others}.items():
                table[row, name] = percent_of(found[place])
            families = [found[place] for found in left_out.values()]
            if not families:
                continue
            table[row, "mean"] = percent_of(bootstrap.average(families))
            table[row, "worst"] = percent_of(bootstrap.worst(families))
    for row, backbones in whole.items():
        rates = _false_unknowns(study, backbones, settings)
        false_unknown |= {(row, column): rate for column, rate in rates.items()}
        lines[row] = _promise(study, backbones)
    tables = {"auroc": auroc, "oscr": oscr, "false_unknown": false_unknown}
    image = curves({"as promised": [(0, 0), (30, 30)], **lines}, x="alpha, %", y="known images rejected, %")
    return Findings(
        tables=tuple(study.recipe.published(name).beside(table) for name, table in tables.items()),
        figures=(Figure(title="False unknowns against alpha, clean test images", image=image),),
    )


def _backbones(study: Study, variant: Variant, generators: Sequence[str]) -> list[Backbone]:
    train, val = study.training_classes(variant, generators)
    calib = study.calibration(generators)
    found = []
    for seed, trained in enumerate(study.train_seeds(variant, train, val)):
        namer = make_namer(study, variant, trained, train, seed=seed)
        numbers = np.array([namer.library.labels.index(picture.label) for picture in calib])
        found.append(Backbone(namer, tuple(generators), Calibration.of(namer.distances(calib), numbers)))
    return found


def _opinions(study: Study, variant: Variant, generators: Sequence[str]) -> list[Opinion]:
    return [backbone.opinion for backbone in _backbones(study, variant, generators)]


def _floor_opinions(study: Study, kind: Kind, generators: Sequence[str]) -> list[Opinion]:
    (floor,) = (floor for floor in floors_of(study, generators) if floor.kind == kind)
    return [lambda pictures: (floor.judge(pictures).confidence, floor.right(pictures)[0, 0])]


def _told_apart(
    study: Study, opinions: Sequence[Opinion], generators: Sequence[str], unknown: str
) -> tuple[Estimate, Estimate]:
    """AUROC and OSCR of known labels, photographs and these generators', against one generator."""
    known = _known_test(study, generators)
    pictures = [*known, *study.corpus.fakes(unknown, "test", study.scale.test)]
    is_known = np.arange(len(pictures)) < len(known)
    sample = Sample.of(study, pictures, len(opinions))
    scores, right = zip(*(opinion(pictures) for opinion in opinions), strict=True)
    values, hits = np.stack(scores)[:, None], np.stack(right)[:, None]
    return (
        bootstrap.auroc(values, is_known, sample.photograph, sample.resamples),
        bootstrap.oscr(values, is_known, hits, sample.photograph, sample.resamples),
    )


def _false_unknowns(study: Study, backbones: Sequence[Backbone], settings: Settings) -> dict[str, Measured]:
    """Share of known test images that is rejected, clean with its exact interval; after changes the mean and all."""
    known = _known_test(study, backbones[0].generators)
    rejected = [backbone.judged(known).p_value <= settings.alpha for backbone in backbones]
    exact = proportion(int(rejected[0].sum()), len(known))
    found = {"clean, first backbone": percent(exact.rate, exact.low, exact.high)}
    sample = Sample.of(study, known, len(backbones))
    found["clean"] = percent_of(sample.mean(np.stack(rejected)[:, None]))
    after = {}
    for change in changes_of(settings.changes):
        lost = np.stack([backbone.judged(known, change).p_value <= settings.alpha for backbone in backbones])
        after[change.name] = sample.mean(lost[:, None])
    if after:
        found["P mean"] = percent_of(bootstrap.average(list(after.values())))
    return {**found, **{name: percent_of(estimate) for name, estimate in after.items()}}


def _promise(study: Study, backbones: Sequence[Backbone]) -> list[tuple[float, float]]:
    p_values = backbones[0].judged(_known_test(study, backbones[0].generators)).p_value
    return [(100 * alpha, 100 * float(np.mean(p_values <= alpha))) for alpha in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)]


def _known_test(study: Study, generators: Sequence[str]) -> list[Picture]:
    classes = study.test_classes(generators)
    return [picture for pictures in classes.values() for picture in pictures]
