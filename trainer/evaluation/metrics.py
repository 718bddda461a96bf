"""Figures of merit: how well scores rank, decide and name; by scikit-learn, ours are the frozen values around them.

*Generated* is the positive class, with the higher score, unless a name says otherwise. What probabilities are worth
is the question of ``reliability.py``, what is rejected as unknown of ``open_set.py``, how sure a figure is of
``bootstrap.py``.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from trainer.arrays import Flags, Floats, Numbers, Scores
from trainer.errors import TooFewClasses


class Proportion(BaseModel):
    """A share of a count, with the exact 95 % interval of Clopper and Pearson (1934)."""

    model_config = ConfigDict(frozen=True)

    hits: int
    count: int
    rate: float
    low: float
    high: float


class Binary(BaseModel):
    """How well the logit tells generated from real; *generated* is the positive class."""

    model_config = ConfigDict(frozen=True)

    real: int
    generated: int
    auroc: float
    average_precision: float
    accuracy_at_zero: float
    """At logit > 0, uncalibrated."""


class OperatingPoint(BaseModel):
    """What one threshold does: an image is called generated where its score is at or above it."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    detected: Proportion
    """Of the generated images (Pd)."""
    false_alarms: Proportion
    """Of the reals."""


class Oracle(BaseModel):
    """The threshold that is best on the very images it is judged by: an upper bound, no result (S3, Table 5)."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    """Scores above it are called generated."""
    accuracy: float


class ClosedSet(BaseModel):
    """How often the nearest template has the right label."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    top1: float
    recall: dict[str, float]
    """Share of each label's own images; labels without images are left out."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows: truth; columns: prediction."""


def proportion(hits: int, count: int) -> Proportion:
    """``hits`` of ``count`` > 0, with the exact interval."""
    interval = binomtest(hits, count).proportion_ci(0.95, method="exact")
    return Proportion(hits=hits, count=count, rate=hits / count, low=float(interval.low), high=float(interval.high))


def binary(logits: Floats, generated: Flags) -> Binary | None:
    """``float32[N]``, ``bool[N]``; None where one of the two kinds is missing and no ranking exists."""
    if generated.all() or not generated.any():
        return None
    return Binary(
        real=int((~generated).sum()),
        generated=int(generated.sum()),
        auroc=auroc(logits, generated),
        average_precision=average_precision(logits, generated),
        accuracy_at_zero=float(np.mean((logits > 0) == generated)),
    )


def auroc(scores: Scores, positive: Flags) -> float:
    """The chance that a positive scores above a negative, ties counting half.

    Raises:
        TooFewClasses: all images are of one kind; so do all functions below that need both.
    """
    check_both_kinds(positive)
    return float(roc_auc_score(positive, scores))


def average_precision(scores: Scores, positive: Flags) -> float:
    """The mean of the precision over the recalls that are reached, without interpolation (S3's AP)."""
    check_both_kinds(positive)
    return float(average_precision_score(positive, scores))


def threshold_at_fpr(real_scores: Scores, fpr: float) -> float:
    """The lowest threshold that at most ``fpr`` of these reals reach, from calibration images.

    It lies just above one of the scores: the data know nothing of the gap to the next.
    """
    descending = np.sort(real_scores)[::-1]
    allowed = int(fpr * len(descending) + 1e-9)
    if allowed >= len(descending):
        return float(-np.inf)
    return float(np.nextafter(descending[allowed], np.inf, dtype=descending.dtype))


def operating_point(threshold: float, scores: Scores, generated: Flags) -> OperatingPoint:
    """Pd and false alarms on images that the threshold was not chosen on."""
    check_both_kinds(generated)
    called = scores >= threshold
    return OperatingPoint(
        threshold=threshold,
        detected=proportion(int(called[generated].sum()), int(generated.sum())),
        false_alarms=proportion(int(called[~generated].sum()), int((~generated).sum())),
    )


def oracle(scores: Scores, generated: Flags) -> Oracle:
    """The most accurate threshold, half-way between two scores; the lowest of equally good ones."""
    check_both_kinds(generated)
    values, place = np.unique(scores.astype(np.float64), return_inverse=True)
    fakes = np.bincount(place, weights=generated, minlength=len(values))
    reals = np.bincount(place, weights=~generated, minlength=len(values))
    # Right with the threshold below the lowest score: all fakes. Each score it passes wins reals and loses fakes.
    right = generated.sum() + np.concatenate([[0], np.cumsum(reals - fakes)])
    best = int(right.argmax())
    edges = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    return Oracle(threshold=float(edges[best]), accuracy=float(right[best] / len(scores)))


def oscr(known: Scores, right: Flags, unknown: Scores) -> float:
    """Area under *known images accepted and rightly named* against *unknown images accepted*, over all thresholds.

    Of Dhamija et al. (NeurIPS 2018), here the exact area with ties counting half: the AUROC of rightly named known
    images against unknown ones, times the share of known images that are rightly named.

    Args:
        known: ``float[N]``, how known each image of a known class looks; higher is more.
        right: ``bool[N]``, whether its nearest label is its own.
        unknown: ``float[M]``, the same score of images of unknown classes.
    """
    if not right.any():
        return 0.0
    accepted = np.concatenate([known[right], unknown])
    return auroc(accepted, np.arange(len(accepted)) < right.sum()) * float(right.mean())


def closed_set(truth: Numbers, predicted: Numbers, labels: tuple[str, ...]) -> ClosedSet:
    """``int64[N]`` each, indices into ``labels``."""
    confusion = confusion_matrix(truth, predicted, labels=range(len(labels)))
    totals = confusion.sum(axis=1)
    return ClosedSet(
        labels=labels,
        top1=float(np.trace(confusion) / totals.sum()),
        recall={name: float(confusion[i, i] / totals[i]) for i, name in enumerate(labels) if totals[i]},
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def check_both_kinds(positive: Flags) -> None:
    """Raise where ``bool[N]`` has one kind only, before a library answers with NaN."""
    count = int(positive.sum())
    if count in {0, len(positive)}:
        kinds = f"{count} positive and {len(positive) - count} negative images"
        raise TooFewClasses(f"this figure compares two kinds of images, but there are {kinds}")
