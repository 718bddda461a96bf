"""When the detector had better say *unsure*: conformal sets over real and generated, and what is left undecided."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.abstention import ConformalKinds, RiskCoverage, selective
from trainer.plots import curves
from trainer.protocols.changes import changes_of
from trainer.protocols.corpus import Picture, SplitName
from trainer.protocols.recipe import Variant
from trainer.protocols.section import Figure, Measured
from trainer.protocols.study import Findings, Study, Trained, percent
from trainer.transforms import CLEAN, Transform


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
    generators = tuple(study.generators.values())
    for name, variant in settings.variants.items():
        train = study.corpus.classes(generators, "train", study.least(variant))
        net = study.train(study.config(variant, 0), train, study.corpus.classes(generators, "val", study.scale.val))
        calib, test = (_balanced(study, split) for split in ("calib", "test"))
        kinds = ConformalKinds.of(*_pooled(study, net, calib, (CLEAN, *changes_of(settings.calibrate))))
        for track, risk in settings.risks.items():
            changes = (CLEAN,) if track == "clean" else changes_of([track])
            logits, generated = _pooled(study, net, test, changes)
            at_alpha = selective(kinds.decide(logits, settings.alpha), generated)
            likelier, confidence = kinds.likelier(logits)
            curve = RiskCoverage.of(confidence, likelier != generated)
            row = f"{name}, {track}"
            decided = at_alpha.decided
            found[row, "decided"] = percent(decided.rate, decided.low, decided.high)
            if at_alpha.wrong is not None:
                found[row, "wrong"] = percent(at_alpha.wrong.rate, at_alpha.wrong.low, at_alpha.wrong.high)
            found[row, "coverage at the risk"] = percent(curve.coverage_at(risk))
            lines[row] = [(100 * c, 100 * r) for c, r in zip(curve.coverage, curve.risk, strict=True)]
    image = curves(lines, x="coverage, %", y="error among decided, %")
    return Findings(
        tables=(study.recipe.published("unsure").beside(found),),
        figures=(Figure(title="Risk and coverage", image=image),),
    )


def _balanced(study: Study, split: SplitName) -> list[Picture]:
    """All photographs, and as many fakes: an equal share of each generator's."""
    count, generators = study.scale.calib, study.generators
    if split == "test":
        count, generators = study.scale.test, study.tested
        study.both_kinds(generators.values())
    photographs = study.corpus.photographs(split, count)
    share = max(1, len(photographs) // len(generators))
    fakes = [p for name in generators.values() for p in study.corpus.fakes(name, split, share)]
    return [*photographs, *fakes]


def _pooled(
    study: Study, net: Trained, pictures: Sequence[Picture], changes: Sequence[Transform]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and kinds of all images after each change."""
    logits = np.concatenate([study.outputs(net, pictures, change).logits for change in changes])
    return logits, np.tile([picture.generated for picture in pictures], len(changes))
