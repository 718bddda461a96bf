"""What anyone gets for nothing: the two floors that stand beside every result.

``metadata``: a random forest on what is known of a file without its pixels, its size among it. Where that names the
source, a network may have learned nothing else.

``statistics``: a linear discriminant with shrinkage (Ledoit and Wolf 2004) on the hand-made statistics of
``traces.py``. What a network adds to it is what learning was good for.

Both name a label, say how sure they are, and rank *generated* against real, by the log-odds of their class
probabilities, so they stand for the closed set, for the open one and for the binary decision. Thresholds and everything
else come from the training images alone. Every label is as likely as any other beforehand, however few its images.
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
from trainer.arrays import Floats, Floats64, Numbers
from trainer.inspection.separation import metadata_forest

Kind = Literal["metadata", "statistics"]
Features = npt.NDArray[np.float32]
"""``float32[N, F]``."""
_MOST: Final = 1e6
"""Log-odds where there is nothing else."""


class _Discriminant(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn is untyped
    """Images count alike for the covariance, labels for what is likely: scikit-learn has one weight for both."""

    def __init__(self) -> None:
        super().__init__(solver="lsqr", shrinkage="auto")

    def predict_log_proba(self, features: Features) -> Floats64:
        """``float64[N, L]``, from the scores: probabilities of images far from the training images round to 0 and 1."""
        scores = np.asarray(self.decision_function(features), np.float64)
        if scores.ndim == 1:  # of two labels scikit-learn gives the difference alone
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        even = scores - np.log(self.priors_)
        return np.asarray(even - logsumexp(even, axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a floor says of N images."""

    predicted: Numbers
    """``int64[N]``, the likeliest label's number."""
    logits: Floats
    """``float32[N]``, log-odds of *generated*."""
    confidence: Floats
    """``float32[N]``, log-odds of ``predicted``: how known an image looks."""


class Judge:
    """A floor that has seen its training images."""

    def __init__(self, kind: Kind, labels: Sequence[Label], classifier: Any, numbers: Numbers) -> None:
        self.kind = kind
        self.labels = tuple(labels)
        self._classifier = classifier
        self._generated = np.array([label.kind == "generator" for label in labels])[np.unique(numbers)]

    def judge(self, features: Features) -> Judged:
        """Of ``float32[N, F]``."""
        logs = self._log_probabilities(features)
        likeliest = logs.argmax(axis=1)
        numbers = self._classifier.classes_[likeliest].astype(np.int64)
        named = np.arange(logs.shape[1]) == likeliest[:, None]
        return Judged(numbers, _log_odds(logs, self._generated), _log_odds(logs, named))

    def _log_probabilities(self, features: Features) -> Floats64:
        """``float64[N, L]``."""
        if self.kind == "statistics":
            return np.asarray(self._classifier.predict_log_proba(features), np.float64)
        # A forest's are shares of its trees, zero among them.
        shares = np.asarray(self._classifier.predict_proba(features), np.float64)
        return np.log(np.maximum(shares, np.finfo(np.float64).tiny))


def fit_metadata(features: Features, numbers: Numbers, labels: Sequence[Label], seed: int = 0) -> Judge:
    """A forest on ``metadata.tabulate(...)``, with the labels ``int64[N]``."""
    return Judge("metadata", labels, metadata_forest(seed).fit(features, numbers), numbers)


def fit_statistics(features: Features, numbers: Numbers, labels: Sequence[Label]) -> Judge:
    """A discriminant on ``traces.measure(...)``, with the labels ``int64[N]``."""
    return Judge("statistics", labels, make_pipeline(StandardScaler(), _Discriminant()).fit(features, numbers), numbers)


def _log_odds(logs: Floats64, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Of some labels against the rest: ``float32[N]`` of log-probabilities ``float64[N, L]``.

    Args:
        logs: see above.
        chosen: ``bool[L]`` or ``bool[N, L]``.
    """
    for_them, against = (logsumexp(np.where(some, logs, -np.inf), axis=1) for some in (chosen, ~chosen))
    odds: Floats = np.clip(for_them - against, -_MOST, _MOST).astype(np.float32)
    return odds
