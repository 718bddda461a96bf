"""When the detector had better say *unsure*: conformal sets over real and generated, and what is left undecided.

Each backbone has sets of its own. Bounds come from resampling backbones and photographs; a photograph's copies after
several changes are resampled together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.arrays import Flags, Floats, Scores
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.abstention import UNSURE, ConformalKinds, RiskCoverage
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import Picture
from trainer.experiments.floors import Floor, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.plots import curves
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, Trained

Judge = Callable[[Sequence[Picture], Transform], Floats]
"""The log-odds of *generated* of N images after a change, ``float32[N]``."""


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """Share of either kind that its set may miss."""
    calibrate: tuple[str, ...] = ()
    """What copies of the calibration images go through, which are calibrated on beside the images as they are."""
    risks: dict[str, float]
    """Change -> error among decided images at which coverage is read off; ``P`` is all of the track together."""


def run(study: Study) -> Findings:
    """Table ``unsure``: coverage and error at alpha, and the coverage at a given error; the risk-coverage curves."""
    settings: Settings = study.settings(Settings)
    found: dict[tuple[str, str], Measured] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, variant in settings.variants.items():
        judges = [_judge(study, net) for net in _trained(study, variant)]
        for row, (measured, curve) in _rows(study, settings, name, judges).items():
            found |= {(row, column): figure for column, figure in measured.items()}
            lines[row] = [(100 * c, 100 * r) for c, r in zip(curve.coverage, curve.risk, strict=True)]
    for floor in floors_of(study, tuple(study.generators.values())):
        for row, (measured, _) in _rows(study, settings, floor.row, [_floor_judge(floor)], floor.sees).items():
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
    judges: Sequence[Judge],
    sees: Callable[[Transform], bool] = lambda _: True,
) -> dict[str, tuple[dict[str, Measured], RiskCoverage]]:
    """One for each track whose images the judges see."""
    copies = [change for change in (CLEAN, *changes_of(settings.calibrate)) if sees(change)]
    kinds = _calibrated(study, judges, copies)
    tracks = {track: (CLEAN,) if track == "clean" else changes_of([track]) for track in settings.risks}
    return {
        f"{name}, {track}": _tested(study, judges, kinds, changes, settings.alpha, settings.risks[track])
        for track, changes in tracks.items()
        if all(sees(change) for change in changes)
    }


def _trained(study: Study, variant: Variant) -> list[Trained]:
    return study.train_seeds(variant, *study.training_classes(variant, study.generators.values()))


def _judge(study: Study, net: Trained) -> Judge:
    return lambda pictures, change: study.outputs(net, pictures, change).logits


def _floor_judge(floor: Floor) -> Judge:
    return lambda pictures, change: floor.judge(pictures, change).logits


def _calibrated(study: Study, judges: Sequence[Judge], copies: Sequence[Transform]) -> list[ConformalKinds]:
    """On all calibration images after each of these changes: p-values are of either kind, so neither outweighs."""
    calib = study.calibration(study.generators.values())
    generated = np.tile([picture.generated for picture in calib], len(copies))
    return [ConformalKinds.of(logits, generated) for logits in _logits(judges, calib, copies)]


def _tested(
    study: Study,
    judges: Sequence[Judge],
    kinds: Sequence[ConformalKinds],
    changes: Sequence[Transform],
    alpha: float,
    risk: float,
) -> tuple[dict[str, Measured], RiskCoverage]:
    """A row of the table on test images after all of these changes together, and the first backbone's curve."""
    pictures = _tests(study)
    sample = Sample.of(study, pictures, len(judges)).times(len(changes))
    logits = _logits(judges, pictures, changes)
    decisions = np.stack([one.decide(values, alpha) for one, values in zip(kinds, logits, strict=True)])[:, None]
    decided = decisions != UNSURE
    likelier, confidence = _likelier(kinds, logits)
    coverage = sample.mean(decided)
    figures = {
        "decided": coverage,
        "wrong": sample.mean(decided & (decisions != sample.generated)) / coverage,
        "coverage at the risk": sample.coverage_at(confidence, likelier != sample.generated, risk),
    }
    # There is no error among decided images where none is decided.
    measured = {column: percent_of(one) for column, one in figures.items() if not np.isnan(one.found[0])}
    return measured, RiskCoverage.of(confidence[0, 0], likelier[0, 0] != sample.generated)


def _likelier(kinds: Sequence[ConformalKinds], logits: Floats) -> tuple[Flags, Scores]:
    """What each backbone would decide, and how surely: ``bool[S, 1, N]``, ``float64[S, 1, N]``."""
    likelier, confidence = zip(*(one.likelier(values) for one, values in zip(kinds, logits, strict=True)), strict=True)
    return np.stack(likelier)[:, None], np.stack(confidence)[:, None]


def _tests(study: Study) -> list[Picture]:
    """All photographs, and as many fakes: an equal share of each generator's."""
    study.both_kinds(study.tested.values())
    photographs = study.corpus.photographs("test", study.scale.test)
    share = max(1, len(photographs) // len(study.tested))
    fakes = [p for name in study.tested.values() for p in study.corpus.fakes(name, "test", share)]
    return [*photographs, *fakes]


def _logits(judges: Sequence[Judge], pictures: Sequence[Picture], changes: Sequence[Transform]) -> Floats:
    """Of all images after each change, one change after another: ``float32[S, C * N]``."""
    return np.stack([np.concatenate([judge(pictures, change) for change in changes]) for judge in judges])
