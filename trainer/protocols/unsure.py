"""How many images a detector decides and how many it leaves *unsure*, by conformal sets over real and generated.

Each backbone has its own sets. Bounds come from resampling backbones and photographs; a photograph's copies after
several changes are resampled together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.arrays import Flags, Floats, Scores
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.abstention import UNSURE, ConformalKinds, RiskCoverage
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import StudyFloor, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.plots import curves
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, Trained

LogitsOf = Callable[[Sequence[CorpusImage], Transform], Floats]
"""Takes N images and a change; returns their log-odds of *generated*, ``float32[N]``."""


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """The share of images of either kind whose sets may miss that kind."""
    calibrate: tuple[str, ...] = ()
    """Changes whose copies of the calibration images are calibrated on, beside the pristine images."""
    risks: dict[str, float]
    """Change -> the error among decided images at which coverage is reported; ``P`` is all of the track together."""


def run(study: Study) -> Findings:
    """Table ``unsure``: coverage and error at alpha, and the coverage at a given error; the risk-coverage curves."""
    settings: Settings = study.settings(Settings)
    found: dict[tuple[str, str], Measured] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, variant in settings.variants.items():
        detectors = [_network(study, net) for net in _trained(study, variant)]
        for row, (measured, curve) in _rows(study, settings, name, detectors).items():
            found |= {(row, column): figure for column, figure in measured.items()}
            lines[row] = [(100 * c, 100 * r) for c, r in zip(curve.coverage, curve.risk, strict=True)]
    for floor in floors_of(study, tuple(study.generators.values())):
        for row, (measured, _) in _rows(study, settings, floor.row, [_floor(floor)], floor.sees).items():
            found |= {(row, column): figure for column, figure in measured.items()}
    image = curves(lines, x="coverage, %", y="error among decided, %")
    return Findings(
        tables=(study.recipe.published("unsure").beside(found),),
        figures=(Figure(title="Risk and coverage", image=image, caption="First backbone."),),
    )


def _rows(
    study: Study,
    settings: Settings,
    name: str,
    detectors: Sequence[LogitsOf],
    sees: Callable[[Transform], bool] = lambda _: True,
) -> dict[str, tuple[dict[str, Measured], RiskCoverage]]:
    """Row -> figures and first backbone's curve, for each track whose images the detectors ``see``."""
    copies = [change for change in (CLEAN, *changes_of(settings.calibrate)) if sees(change)]
    kinds = _calibrated(study, detectors, copies)
    tracks = {track: (CLEAN,) if track == "clean" else changes_of([track]) for track in settings.risks}
    return {
        f"{name}, {track}": _tested(study, detectors, kinds, changes, settings.alpha, settings.risks[track])
        for track, changes in tracks.items()
        if all(sees(change) for change in changes)
    }


def _trained(study: Study, variant: Variant) -> list[Trained]:
    return study.train_seeds(variant, *study.training_classes(variant, study.generators.values()))


def _network(study: Study, net: Trained) -> LogitsOf:
    return lambda images, change: study.outputs(net, images, change).logits


def _floor(floor: StudyFloor) -> LogitsOf:
    return lambda images, change: floor.predict(images, change).logits


def _calibrated(study: Study, detectors: Sequence[LogitsOf], copies: Sequence[Transform]) -> list[ConformalKinds]:
    """Conformal sets from all calibration images after each of these changes; the numbers of each kind may differ."""
    calib = study.calibration(study.generators.values())
    generated = np.tile([image.generated for image in calib], len(copies))
    return [ConformalKinds.of(logits, generated) for logits in _logits(detectors, calib, copies)]


def _tested(
    study: Study,
    detectors: Sequence[LogitsOf],
    kinds: Sequence[ConformalKinds],
    changes: Sequence[Transform],
    alpha: float,
    risk: float,
) -> tuple[dict[str, Measured], RiskCoverage]:
    """A row of the table on test images after all of these changes together, and the first backbone's curve."""
    images = _tests(study)
    sample = Sample.of(study, images, len(detectors)).times(len(changes))
    logits = _logits(detectors, images, changes)
    decisions = np.stack([one.decide(values, alpha) for one, values in zip(kinds, logits, strict=True)])[:, None]
    decided = decisions != UNSURE
    likelier, confidence = _likelier(kinds, logits)
    coverage = sample.mean(decided)
    figures = {
        "decided": coverage,
        "wrong": sample.mean(decided & (decisions != sample.generated)) / coverage,
        "coverage at the risk": sample.coverage_at(confidence, likelier != sample.generated, risk),
    }
    # If no image is decided, there is no error among decided ones.
    measured = {column: percent_of(one) for column, one in figures.items() if not np.isnan(one.found[0])}
    return measured, RiskCoverage.of(confidence[0, 0], likelier[0, 0] != sample.generated)


def _likelier(kinds: Sequence[ConformalKinds], logits: Floats) -> tuple[Flags, Scores]:
    """The likelier kind for each backbone, with its confidence: ``bool[S, 1, N]``, ``float64[S, 1, N]``."""
    likelier, confidence = zip(*(one.likelier(values) for one, values in zip(kinds, logits, strict=True)), strict=True)
    return np.stack(likelier)[:, None], np.stack(confidence)[:, None]


def _tests(study: Study) -> list[CorpusImage]:
    """All test photographs, and as many fakes: an equal share of each generator's."""
    study.both_kinds(study.tested.values())
    photographs = study.corpus.photographs("test", study.scale.test)
    share = max(1, len(photographs) // len(study.tested))
    fakes = [p for name in study.tested.values() for p in study.corpus.fakes(name, "test", share)]
    return [*photographs, *fakes]


def _logits(detectors: Sequence[LogitsOf], images: Sequence[CorpusImage], changes: Sequence[Transform]) -> Floats:
    """Logits of all images after each change, one change after another: ``float32[S, C * N]``."""
    return np.stack([np.concatenate([predict(images, change) for change in changes]) for predict in detectors])
