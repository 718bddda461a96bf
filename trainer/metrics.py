"""Figures of merit, by scikit-learn; ours are the frozen values around them."""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


class Binary(BaseModel):
    """How well the logit tells generated from real; *generated* is the positive class."""

    model_config = ConfigDict(frozen=True)

    real: int
    generated: int
    auroc: float
    average_precision: float
    accuracy_at_zero: float
    """At logit > 0, uncalibrated."""


class ClosedSet(BaseModel):
    """How often the nearest template has the right label."""

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    top1: float
    recall: dict[str, float]
    """Share of each label's own images; labels without images are left out."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows: truth; columns: prediction."""


def binary(logits: Floats, generated: npt.NDArray[np.bool_]) -> Binary | None:
    """``float32[N]``, ``bool[N]``; None where one of the two kinds is missing and no ranking exists."""
    if generated.all() or not generated.any():
        return None
    return Binary(
        real=int((~generated).sum()),
        generated=int(generated.sum()),
        auroc=float(roc_auc_score(generated, logits)),
        average_precision=float(average_precision_score(generated, logits)),
        accuracy_at_zero=float(np.mean((logits > 0) == generated)),
    )


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
