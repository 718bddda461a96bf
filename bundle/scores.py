"""From logits and embeddings of views to one calibrated probability and one embedding of an image.

Pure arithmetic, shared by calibration (exporter) and serving (worker), so that both mean the same by a number.
"""

import math
from statistics import fmean
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from bundle.manifest import Calibration, Thresholds

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Band = Literal["low", "middle", "high"]

TRIM = 0.2
"""Share of the views that ``trimmed`` drops at each end."""


def aggregate_logits(logits: Floats, how: Literal["mean", "max", "trimmed"]) -> float:
    """One logit of an image from those of its views, ``float32[V]`` with V >= 1."""
    match how:
        case "mean":
            return fmean(logits.tolist())
        case "max":
            return float(np.max(logits))
        case "trimmed":
            drop = int(len(logits) * TRIM)
            return fmean(np.sort(logits)[drop : len(logits) - drop].tolist())


def aggregate_embeddings(embeddings: Floats, *, l2_normalised: bool) -> Floats:
    """Mean over the views of ``float32[V, D]``, then division by its L2 norm if asked; ``float32[D]``."""
    mean: Floats64 = np.add.reduce(embeddings, axis=0, dtype=np.float64)  # np.mean takes ten times as long for a few
    mean /= len(embeddings)
    if l2_normalised:
        mean /= max(math.sqrt(mean.dot(mean)), 1e-12)
    return np.asarray(mean, np.float32)


def views_disagree(
    logits: Floats, calibration: Calibration, thresholds: Thresholds, prior_generated: float | None = None
) -> bool:
    """Whether one view alone would be called *generated* and another *real*; the prior as in ``probability``."""
    if len(logits) < 2:
        return False
    bands = {band(probability(float(logit), calibration, prior_generated), thresholds) for logit in logits}
    return {"low", "high"} <= bands


def probability(logit: float, calibration: Calibration, prior_generated: float | None = None) -> float:
    """Calibrated probability of *generated*, at another prior than the bundle's if given.

    ``sigmoid(scale * logit + bias + log-odds(prior) - log-odds(calibration prior))``.

    >>> calibration = Calibration(scale=1, bias=0, prior_generated=0.5, count_real=100, count_generated=100)
    >>> probability(0.0, calibration), round(probability(0.0, calibration, prior_generated=0.1), 6)
    (0.5, 0.1)
    """
    shift = 0.0 if prior_generated is None else log_odds(prior_generated) - log_odds(calibration.prior_generated)
    return sigmoid(calibration.scale * logit + calibration.bias + shift)


def band(value: float, thresholds: Thresholds) -> Band:
    """The band of a calibrated probability: below, between or above the two thresholds."""
    if value >= thresholds.high.threshold:
        return "high"
    return "low" if value < thresholds.low.threshold else "middle"


@overload
def conformal_p_value(as_extreme: int, count: int) -> float: ...
@overload
def conformal_p_value(as_extreme: npt.NDArray[np.int64], count: int) -> Floats64: ...
def conformal_p_value(as_extreme: int | npt.NDArray[np.int64], count: int) -> float | Floats64:
    """``(1 + as_extreme) / (count + 1)``: the conformal p-value of one image, or of each of several.

    If an image is exchangeable with the calibration images, its p-value is at or below alpha with a probability of at
    most alpha (Vovk et al. 2005).

    >>> conformal_p_value(1, 99)
    0.02

    Args:
        as_extreme: how many of the calibration images are at least as extreme as the image.
        count: how many calibration images there are.
    """
    return (1 + as_extreme) / (count + 1)


def log_odds(share: float) -> float:
    """``log(p / (1 - p))`` for p in (0, 1)."""
    return math.log(share) - math.log1p(-share)


def sigmoid(x: float) -> float:
    """Logistic function without overflow."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)
