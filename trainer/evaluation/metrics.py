"""Figures of merit: how well scores rank, decide and attribute.

*Generated* is the positive class, with the higher score, unless a name says otherwise. ``reliability.py`` measures
probabilities, ``open_set.py`` rejects unknown images, ``bootstrap.py`` gives intervals.
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
    """Accuracy of calling images with a logit above 0 generated, uncalibrated."""


class DetectionRates(BaseModel):
    """What one threshold detects: an image is called generated if its score is at or above it."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    detected: Proportion
    """The share of generated images that are called generated (Pd)."""
    false_alarms: Proportion
    """The share of reals that are."""


class Oracle(BaseModel):
    """The most accurate threshold on the very images it is chosen on: an upper bound, no result (S3, Table 5)."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    """Scores above it are called generated."""
    accuracy: float


class ClosedSet(BaseModel):
    """How often images get their own label, among known labels."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    top1: float
    recall: dict[str, float]
    """The share of each label's images that get it; labels without images are left out."""
    confusion: tuple[tuple[int, ...], ...]
    """Numbers of images: rows are true labels, columns predicted ones."""


def proportion(hits: int, count: int) -> Proportion:
    """The share ``hits / count``, with its exact 95 % interval; ``count`` is above 0.

    >>> found = proportion(9, 10)
    >>> found.rate, round(found.low, 3), round(found.high, 3)
    (0.9, 0.555, 0.997)
    """
    interval = binomtest(hits, count).proportion_ci(0.95, method="exact")
    return Proportion(hits=hits, count=count, rate=hits / count, low=float(interval.low), high=float(interval.high))


def binary(logits: Floats, generated: Flags) -> Binary | None:
    """Figures of logits ``float32[N]`` for images that are generated or not, ``bool[N]``; None if all are alike."""
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
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875

    Raises:
        TooFewClasses: all images are of one kind; so do all functions below that need both.
    """
    check_both_kinds(positive)
    return float(roc_auc_score(positive, scores))


def average_precision(scores: Scores, positive: Flags) -> float:
    """The mean of the precision over the recalls that are reached, without interpolation (S3's AP).

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == (1 / 1 + 2 / 3) / 2
    True
    """
    check_both_kinds(positive)
    return float(average_precision_score(positive, scores))


def threshold_at_fpr(real_scores: Scores, fpr: float) -> float:
    """The lowest threshold that at most a share ``fpr`` of these real calibration images reach.

    It lies just above one of the scores: the data tell nothing about the gap to the next.

    >>> reals = np.arange(10.0)
    >>> threshold = threshold_at_fpr(reals, 0.2)
    >>> 7 < threshold < 7.001, np.mean(reals >= threshold).item()
    (True, 0.2)
    """
    descending = np.sort(real_scores)[::-1]
    allowed = int(fpr * len(descending) + 1e-9)
    if allowed >= len(descending):
        return float(-np.inf)
    return float(np.nextafter(descending[allowed], np.inf, dtype=descending.dtype))


def detection_rates(threshold: float, scores: Scores, generated: Flags) -> DetectionRates:
    """Detections and false alarms at ``threshold``, on images that it was not chosen on.

    >>> found = detection_rates(0.5, np.array([0.2, 0.6, 0.5, 0.9]), np.array([False, False, True, True]))
    >>> found.detected.rate, found.false_alarms.rate
    (1.0, 0.5)
    """
    check_both_kinds(generated)
    called = scores >= threshold
    return DetectionRates(
        threshold=threshold,
        detected=proportion(int(called[generated].sum()), int(generated.sum())),
        false_alarms=proportion(int(called[~generated].sum()), int((~generated).sum())),
    )


def oracle(scores: Scores, generated: Flags) -> Oracle:
    """The most accurate threshold on these images, half-way between two scores; the lowest of equally good ones."""
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
    """Open-set classification rate (Dhamija et al., NeurIPS 2018) as an area over all thresholds.

    The curve is the share of known images that are accepted and get their own label, against the share of unknown
    images that are accepted. The area is exact, with ties counting half: the AUROC of correctly labelled known images
    against unknown ones, times the share of known images that are correctly labelled.

    >>> oscr(np.array([0.9, 0.8, 0.3, 0.7]), np.array([True, True, True, False]), np.array([0.1, 0.2]))
    0.75

    Args:
        known: ``float[N]``, how well known labels explain each image of a known class; higher is better.
        right: ``bool[N]``, whether its nearest label is its own.
        unknown: ``float[M]``, the same score of images of unknown classes.
    """
    if not right.any():
        return 0.0
    accepted = np.concatenate([known[right], unknown])
    return auroc(accepted, np.arange(len(accepted)) < right.sum()) * float(right.mean())


def closed_set(true_ids: Numbers, predicted_ids: Numbers, labels: tuple[str, ...]) -> ClosedSet:
    """Figures of true and predicted labels, ``int64[N]`` each, indices into ``labels``."""
    confusion = confusion_matrix(true_ids, predicted_ids, labels=range(len(labels)))
    totals = confusion.sum(axis=1)
    return ClosedSet(
        labels=labels,
        top1=float(np.trace(confusion) / totals.sum()),
        recall={name: float(confusion[i, i] / totals[i]) for i, name in enumerate(labels) if totals[i]},
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def check_both_kinds(positive: Flags) -> None:
    """Raise ``TooFewClasses`` if ``bool[N]`` has one kind only, before a library answers with NaN."""
    count = int(positive.sum())
    if count in {0, len(positive)}:
        kinds = f"{count} positive and {len(positive) - count} negative images"
        raise TooFewClasses(f"this figure compares two kinds of images, but there are {kinds}")
