"""From logits of held-out images to a calibrated probability and two thresholds."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from bundle.manifest import Calibration, OperatingPoint, Thresholds
from bundle.scores import log_odds, probability
from trainer.arrays import Flags, Floats
from trainer.evaluation.metrics import proportion

PRIOR = 0.5
"""Calibration weighs reals and generated images alike, however many there are of each; the worker shifts the prior."""


def fit_platt(logits: Floats, generated: Flags) -> Calibration:
    """Platt scaling (Platt 1999), with his targets ``(n + 1)/(n + 2)`` and ``1/(n + 2)`` instead of 1 and 0.

    These keep the slope finite where the two kinds are separable. Both kinds get the same total weight.

    Args:
        logits: ``float32[N]`` of the detector.
        generated: ``bool[N]``.
    """
    count = {True: int(generated.sum()), False: int((~generated).sum())}
    high, low = (count[True] + 1) / (count[True] + 2), 1 / (count[False] + 2)
    target = np.where(generated, high, low)
    weight = np.where(generated, PRIOR / count[True], (1 - PRIOR) / count[False]) * len(logits)
    # Soft targets as pairs of weighted hard ones: the same likelihood.
    x = np.concatenate([logits, logits])[:, None].astype(np.float64)
    y = np.repeat([1, 0], len(logits))
    fit = LogisticRegression(C=1e6, max_iter=1000).fit(
        x, y, sample_weight=np.concatenate([weight * target, weight * (1 - target)])
    )
    scale, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if scale <= 0:  # a detector worse than chance knows nothing, and must not be turned around
        scale, bias = 1e-6, log_odds(float(np.average(target, weights=weight)))
    return Calibration(
        scale=scale,
        bias=bias,
        prior_generated=PRIOR,
        count_real=count[False],
        count_generated=count[True],
    )


def choose_thresholds(logits: Floats, generated: Flags, calibration: Calibration, target: float) -> Thresholds:
    """The narrowest *unsure* band around 1/2 that keeps both errors at or below ``target`` on these images.

    ``high`` is never below 1/2 and ``low`` never above it, also where the kinds are separable.
    """
    chances = np.array([probability(float(logit), calibration) for logit in logits])
    reals, fakes = np.sort(chances[~generated])[::-1], np.sort(chances[generated])
    # All but the `target` most suspicious reals lie below `high`, all but the least suspicious fakes reach `low`.
    high = max(0.5, float(np.nextafter(reals[int(target * len(reals))], 1.0)))
    low = min(0.5, float(fakes[int(target * len(fakes))]))
    return Thresholds(
        low=_point(low, "false_negative_rate", target, int((fakes < low).sum()), len(fakes)),
        high=_point(high, "false_positive_rate", target, int((reals >= high).sum()), len(reals)),
    )


def _point(threshold: float, error: str, target: float, wrong: int, count: int) -> OperatingPoint:
    observed = proportion(wrong, count)
    return OperatingPoint(
        threshold=threshold,
        error="false_positive_rate" if error == "false_positive_rate" else "false_negative_rate",
        target=target,
        observed=observed.rate,
        interval_95=(observed.low, observed.high),
        count=count,
    )
