"""Is an unseen generator rejected as unknown? One family is left out after another, then others.

The papers reject nothing: the nearest template always wins. Here an image is unknown if the conformal p-value of its
nearest label is at most alpha, calibrated on calibration images of the known labels alone. Generators that the corpus
keeps from training (``rec_*``) are tested on the backbones that know all families. Floors score an image by the
log-odds of its likeliest label.
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
from trainer.evaluation.floors import FloorKind
from trainer.evaluation.metrics import proportion
from trainer.evaluation.open_set import DistanceCalibration, LabelMatches
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import FLOOR_KINDS, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.naming import Namer, make_namer
from trainer.experiments.plots import curves
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, percent

OpenSetScores = Callable[[Sequence[CorpusImage]], tuple[Scores, Flags]]
"""Takes N images; returns how well labels explain each, ``float[N]``, and if the nearest is its own, ``bool[N]``."""


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """The share of known images that may be rejected."""
    changes: tuple[str, ...] = ()
    """Post-processing after which known images should still be known."""


@dataclass(frozen=True, eq=False)
class CalibratedBackbone:
    """A backbone trained on some labels, with its templates and their calibration."""

    namer: Namer
    generators: tuple[str, ...]
    """The generators that it was trained on."""
    calibration: DistanceCalibration

    def matches(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> LabelMatches:
        """Nearest label, p-value and score of each image."""
        return self.calibration.match(self.namer.distances(images, change))

    def scores(self, images: Sequence[CorpusImage]) -> tuple[Scores, Flags]:
        """See ``OpenSetScores``."""
        matches, labels = self.matches(images), self.namer.library.labels
        right = [labels[number] == p.label for number, p in zip(matches.nearest, images, strict=True)]
        return matches.score, np.array(right)


def run(study: Study) -> Findings:
    """Tables ``auroc`` and ``oscr`` (columns: each family, mean, worst), and ``false_unknown``."""
    settings: Settings = study.settings(Settings)
    auroc: dict[tuple[str, str], Measured] = {}
    oscr: dict[tuple[str, str], Measured] = {}
    false_unknown: dict[tuple[str, str], Measured] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    scorers_of: dict[str, Callable[[Sequence[str]], list[OpenSetScores]]] = {
        row: partial(_backbone_scores, study, variant) for row, variant in settings.variants.items()
    }
    every = tuple(study.generators.values())
    whole = {row: _backbones(study, variant, every) for row, variant in settings.variants.items()}
    scorers_of |= {f"floor: {kind}": partial(_floor_scores, study, kind) for kind in FLOOR_KINDS}
    for row, scorers in scorers_of.items():
        left_out = {}
        for name, family in study.generators.items():
            if not study.corpus.fakes(family, "test"):
                continue
            known = [generator for generator in every if generator != family]
            left_out[name] = _auroc_and_oscr(study, scorers(known), known, family)
        of_all = [backbone.scores for backbone in whole[row]] if row in whole else scorers(every)
        others = {name: _auroc_and_oscr(study, of_all, every, name) for name in study.kept}
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
        lines[row] = _rejection_curve(study, backbones)
    tables = {"auroc": auroc, "oscr": oscr, "false_unknown": false_unknown}
    image = curves({"as promised": [(0, 0), (30, 30)], **lines}, x="alpha, %", y="known images rejected, %")
    return Findings(
        tables=tuple(study.recipe.published(name).beside(table) for name, table in tables.items()),
        figures=(Figure(title="False unknowns against alpha, clean test images", image=image),),
    )


def _backbones(study: Study, variant: Variant, generators: Sequence[str]) -> list[CalibratedBackbone]:
    train, val = study.training_classes(variant, generators)
    calib = study.calibration(generators)
    found = []
    for seed, trained in enumerate(study.train_seeds(variant, train, val)):
        namer = make_namer(study, variant, trained, train, seed=seed)
        label_ids = np.array([namer.library.labels.index(image.label) for image in calib])
        found.append(
            CalibratedBackbone(namer, tuple(generators), DistanceCalibration.of(namer.distances(calib), label_ids))
        )
    return found


def _backbone_scores(study: Study, variant: Variant, generators: Sequence[str]) -> list[OpenSetScores]:
    return [backbone.scores for backbone in _backbones(study, variant, generators)]


def _floor_scores(study: Study, kind: FloorKind, generators: Sequence[str]) -> list[OpenSetScores]:
    (floor,) = (floor for floor in floors_of(study, generators) if floor.kind == kind)
    return [lambda images: (floor.predict(images).confidence, floor.right(images)[0, 0])]


def _auroc_and_oscr(
    study: Study, scorers: Sequence[OpenSetScores], generators: Sequence[str], unknown: str
) -> tuple[Estimate, Estimate]:
    """AUROC and OSCR of known images (photographs and these generators') against those of an unknown generator."""
    known = _known_test(study, generators)
    images = [*known, *study.corpus.fakes(unknown, "test", study.scale.test)]
    is_known = np.arange(len(images)) < len(known)
    sample = Sample.of(study, images, len(scorers))
    scores, right = zip(*(score(images) for score in scorers), strict=True)
    values, hits = np.stack(scores)[:, None], np.stack(right)[:, None]
    return (
        bootstrap.auroc(values, is_known, sample.photograph, sample.resamples),
        bootstrap.oscr(values, is_known, hits, sample.photograph, sample.resamples),
    )


def _false_unknowns(study: Study, backbones: Sequence[CalibratedBackbone], settings: Settings) -> dict[str, Measured]:
    """The share of known test images that is rejected: clean, with the exact interval, and after changes."""
    known = _known_test(study, backbones[0].generators)
    rejected = [backbone.matches(known).p_value <= settings.alpha for backbone in backbones]
    exact = proportion(int(rejected[0].sum()), len(known))
    found = {"clean, first backbone": percent(exact.rate, exact.low, exact.high)}
    sample = Sample.of(study, known, len(backbones))
    found["clean"] = percent_of(sample.mean(np.stack(rejected)[:, None]))
    after = {}
    for change in changes_of(settings.changes):
        lost = np.stack([backbone.matches(known, change).p_value <= settings.alpha for backbone in backbones])
        after[change.name] = sample.mean(lost[:, None])
    if after:
        found["P mean"] = percent_of(bootstrap.average(list(after.values())))
    return {**found, **{name: percent_of(estimate) for name, estimate in after.items()}}


def _rejection_curve(study: Study, backbones: Sequence[CalibratedBackbone]) -> list[tuple[float, float]]:
    p_values = backbones[0].matches(_known_test(study, backbones[0].generators)).p_value
    return [(100 * alpha, 100 * float(np.mean(p_values <= alpha))) for alpha in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)]


def _known_test(study: Study, generators: Sequence[str]) -> list[CorpusImage]:
    classes = study.test_classes(generators)
    return [image for images in classes.values() for image in images]
