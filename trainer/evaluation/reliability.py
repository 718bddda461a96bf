"""Calibration of probabilities: calibration error, proper scores, reliability table; S3's two-shot calibration."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from trainer.arrays import Flags, Scores
from trainer.evaluation.metrics import Proportion, proportion

Binning = Literal["width", "mass"]


class Bin(BaseModel):
    """Images whose probabilities of *generated* lie close together."""

    model_config = ConfigDict(frozen=True)

    low: float
    """The smallest probability in it."""
    high: float
    """The largest."""
    predicted: float
    """Their mean."""
    observed: Proportion
    """The share of them that is generated."""


class Reliability(BaseModel):
    """How well the probability of *generated* is calibrated; smaller is better everywhere."""

    model_config = ConfigDict(frozen=True)

    brier: float
    log_loss: float
    """Mean negative log-likelihood, in nats."""
    ece_equal_width: float
    ece_equal_mass: float
    table: tuple[Bin, ...]
    """Bins of equal mass."""


def reliability(probabilities: Scores, generated: Flags, bins: int = 15) -> Reliability:
    """Figures of probabilities ``float[N]`` in [0, 1] for images that are generated or not, ``bool[N]``.

    They hold for the share of generated images among these; calibrate for that prior first.

    >>> found = reliability(np.array([0.25, 0.25, 0.25, 0.25]), np.array([True, False, False, False]))
    >>> found.brier, found.ece_equal_mass
    (0.1875, 0.0)
    """
    chances = probabilities.astype(np.float64)
    table = reliability_table(chances, generated, bins, "mass")
    return Reliability(
        brier=float(brier_score_loss(generated, chances, pos_label=True)),
        log_loss=float(log_loss(generated, chances, labels=[False, True])),
        ece_equal_width=expected_calibration_error(reliability_table(chances, generated, bins, "width")),
        ece_equal_mass=expected_calibration_error(table),
        table=table,
    )


def reliability_table(probabilities: Scores, generated: Flags, bins: int, binning: Binning) -> tuple[Bin, ...]:
    """Bins of equal width, or of masses as equal as ties allow: equal probabilities stay in one bin.

    Empty bins are left out. A bin of equal width holds its lower edge; the last one also holds 1.
    """
    if binning == "width":
        place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    else:
        place = np.searchsorted(np.sort(probabilities), probabilities) * bins // len(probabilities)
    return tuple(_bin(probabilities[place == i], generated[place == i]) for i in np.unique(place))


def expected_calibration_error(table: tuple[Bin, ...]) -> float:
    """``sum_b n_b / N |mean probability - share of generated images|`` (Naeini et al., AAAI 2015).

    It takes the probability of *generated*, not the confidence in the likelier of the two kinds. It depends on the bins
    and is never negative, so that on a small set it is above 0 for a perfectly calibrated detector too.
    """
    count = sum(row.observed.count for row in table)
    return sum(row.observed.count / count * abs(row.predicted - row.observed.rate) for row in table)


def two_shot_bias(real_crops: Scores, fake_crops: Scores) -> float:
    """The bias to add to a detector's logits, from crops of one real and one fake image (S3, section A.6, Table 5).

    ``P(generated) = sigmoid(w logit + b)`` is fitted by logistic regression to the logits of 128 random crops of each,
    and only b is kept: the calibrated probability is ``sigmoid(logit + b)``. The crops of two images are mostly
    separable, so that the likelihood has no maximum; S3 does not say what it does then. We take scikit-learn's
    defaults: ``w^2 / 2`` is added to the summed log loss, b is free.

    Args:
        real_crops: ``float[N]``, logits of the real image's crops.
        fake_crops: ``float[M]``, logits of the fake's crops.
    """
    logits = np.concatenate([real_crops, fake_crops]).astype(np.float64)[:, None]
    fake = np.arange(len(logits)) >= len(real_crops)
    return float(LogisticRegression(C=1.0, max_iter=1000).fit(logits, fake).intercept_[0])


def _bin(probabilities: npt.NDArray[np.floating], generated: Flags) -> Bin:
    return Bin(
        low=float(probabilities.min()),
        high=float(probabilities.max()),
        predicted=float(probabilities.mean()),
        observed=proportion(int(generated.sum()), len(generated)),
    )
