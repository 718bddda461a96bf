"""The two trivial baselines, or *floors*, that stand beside every result.

``metadata``: a random forest on what is known of a file without its pixels, its size included. If it attributes images
well, a network may have learned nothing else.

``statistics``: a linear discriminant with shrinkage (Ledoit and Wolf 2004) on the hand-made statistics of
``traces.py``. What a network reaches beyond it, it owes to learning.

Both predict a label with a confidence, and rank *generated* against real, by the log-odds of their class probabilities:
they stand beside results of closed set, open set and binary decision. They learn from the training images alone. All
labels have the same prior probability, however few images they have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bundle.manifest import Label
from trainer.arrays import Features, Floats, Floats64, Numbers
from trainer.inspection.separation import metadata_forest

FloorKind = Literal["metadata", "statistics"]
_MOST: Final = 1e6
"""The largest log-odds, where one side has no probability at all."""


class _Discriminant(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn is untyped
    """A discriminant whose covariance weights images alike and whose prior weights labels alike.

    Scikit-learn has one weight for both.
    """

    def __init__(self) -> None:
        super().__init__(solver="lsqr", shrinkage="auto")

    def predict_log_proba(self, features: Features) -> Floats64:
        """``float64[N, L]``, from the scores: probabilities of images far from the training images round to 0 and 1."""
        scores = np.asarray(self.decision_function(features), np.float64)
        if scores.ndim == 1:  # for two labels scikit-learn gives only the difference
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        even = scores - np.log(self.priors_)
        return np.asarray(even - logsumexp(even, axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class FloorPrediction:
    """A floor's predictions for N images."""

    predicted: Numbers
    """``int64[N]``, the id of the likeliest label."""
    logits: Floats
    """``float32[N]``, log-odds of *generated*."""
    confidence: Floats
    """``float32[N]``, log-odds of ``predicted``; the lower, the less the known labels explain the image."""


class FloorClassifier:
    """A floor, fitted to its training images."""

    def __init__(self, kind: FloorKind, labels: Sequence[Label], classifier: Any, label_ids: Numbers) -> None:
        self.kind = kind
        self.labels = tuple(labels)
        self._classifier = classifier
        self._generated = np.array([label.kind == "generator" for label in labels])[np.unique(label_ids)]

    def predict(self, features: Features) -> FloorPrediction:
        """Predict labels and log-odds from features ``float32[N, F]``."""
        logs = self._log_probabilities(features)
        likeliest = logs.argmax(axis=1)
        label_ids = self._classifier.classes_[likeliest].astype(np.int64)
        named = np.arange(logs.shape[1]) == likeliest[:, None]
        return FloorPrediction(label_ids, _log_odds(logs, self._generated), _log_odds(logs, named))

    def _log_probabilities(self, features: Features) -> Floats64:
        """``float64[N, L]``."""
        if self.kind == "statistics":
            return np.asarray(self._classifier.predict_log_proba(features), np.float64)
        # A forest's probabilities are shares of its trees, and may be zero.
        shares = np.asarray(self._classifier.predict_proba(features), np.float64)
        return np.log(np.maximum(shares, np.finfo(np.float64).tiny))


def fit_metadata(features: Features, label_ids: Numbers, labels: Sequence[Label], seed: int = 0) -> FloorClassifier:
    """Fit a forest to ``metadata.tabulate(...)`` with the labels ``int64[N]``."""
    return FloorClassifier("metadata", labels, metadata_forest(seed).fit(features, label_ids), label_ids)


def fit_statistics(features: Features, label_ids: Numbers, labels: Sequence[Label]) -> FloorClassifier:
    """Fit a discriminant to ``traces.measure(...)`` with the labels ``int64[N]``."""
    return FloorClassifier(
        "statistics", labels, make_pipeline(StandardScaler(), _Discriminant()).fit(features, label_ids), label_ids
    )


def _log_odds(logs: Floats64, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Log-odds of some labels against the rest: ``float32[N]``.

    Args:
        logs: log-probabilities ``float64[N, L]``.
        chosen: the labels, ``bool[L]`` or ``bool[N, L]``.
    """
    for_them, against = (logsumexp(np.where(some, logs, -np.inf), axis=1) for some in (chosen, ~chosen))
    odds: Floats = np.clip(for_them - against, -_MOST, _MOST).astype(np.float32)
    return odds
