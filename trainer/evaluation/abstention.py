"""When the detector should leave an image undecided: conformal sets over {real, generated}, and risk against coverage.

Calibrated on held-out logits alone; the decisions are those of two thresholds on the logit, which a bundle serves.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from bundle.scores import conformal_p_value
from trainer.arrays import Flags, Floats64, Numbers, Scores
from trainer.evaluation.metrics import check_both_kinds

REAL, GENERATED, UNSURE = 0, 1, -1
"""What ``ConformalKinds.decide`` says."""


@dataclass(frozen=True, eq=False)
class ConformalKinds:
    """Conformal sets over {real, generated}, class-conditional (Vovk et al. 2005, *Mondrian*).

    A kind is in an image's set where its p-value is above alpha; *unsure* is a set of both kinds, or of none. Either
    kind is missing from the set of at most alpha of its own images, if they are exchangeable with the calibration's.

    Attributes:
        real: ``float[n]``, logits of calibration reals, ascending.
        generated: ``float[m]``, of generated images, ascending.
    """

    real: Scores
    generated: Scores

    @classmethod
    def of(cls, logits: Scores, generated: Flags) -> Self:
        """From calibration images: ``float[N]``, ``bool[N]``.

        Raises:
            TooFewClasses: all are of one kind.
        """
        check_both_kinds(generated)
        return cls(np.sort(logits[~generated]), np.sort(logits[generated]))

    def p_values(self, logits: Scores) -> Floats64:
        """``float[N]`` -> ``float64[N, 2]``, of real and of generated."""
        as_high = len(self.real) - np.searchsorted(self.real, logits, "left")
        as_low = np.searchsorted(self.generated, logits, "right")
        p_values = conformal_p_value(as_high, len(self.real)), conformal_p_value(as_low, len(self.generated))
        return np.stack(p_values, axis=1)

    def decide(self, logits: Scores, alpha: float) -> Numbers:
        """``REAL``, ``GENERATED`` or ``UNSURE`` for each: ``int64[N]``."""
        real, generated = (self.p_values(logits) > alpha).T
        return np.where(real == generated, UNSURE, np.where(generated, GENERATED, REAL))

    def band(self, alpha: float) -> tuple[float, float]:
        """The logits (low, high) that are *unsure*, both included; the same decisions as two thresholds.

        Below ``low`` is real, above ``high`` generated. Infinite on a side where too few calibration images are left
        to decide anything.
        """
        # The real kind is in the set up to `last_real`, the generated one from `first_generated` on.
        last_real = _last(self.real, alpha)
        first_generated = -_last(-self.generated[::-1], alpha)
        if first_generated <= last_real:  # both in between
            return first_generated, last_real
        # None in between: from just above the one to just below the other.
        below = np.nextafter(last_real, np.inf, dtype=self.real.dtype)
        above = np.nextafter(first_generated, -np.inf, dtype=self.generated.dtype)
        return float(below), float(above)

    def likelier(self, logits: Scores) -> tuple[Flags, Floats64]:
        """Whether *generated* has the larger p-value, ``bool[N]``, and one minus the smaller one, ``float64[N]``.

        The second is the confidence for a ``RiskCoverage``: from the surest on, decisions of an ever larger alpha.
        """
        real, generated = self.p_values(logits).T
        return generated > real, 1 - np.minimum(real, generated)


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Error among the images decided, against how many are, from the surest on (El-Yaniv and Wiener, JMLR 2010).

    Attributes:
        coverage: ``float64[K]``, ascending to 1, a point for each confidence there is.
        risk: ``float64[K]``.
    """

    coverage: Floats64
    risk: Floats64

    @classmethod
    def of(cls, confidence: Scores, wrong: Flags) -> Self:
        """``float[N]``, ``bool[N]``; images of equal confidence are decided together."""
        order = np.argsort(-confidence, kind="stable")
        ranked = confidence[order]
        ends = np.append(np.flatnonzero(ranked[:-1] != ranked[1:]), len(ranked) - 1)
        counts = ends + 1
        return cls(counts / len(ranked), np.cumsum(wrong[order])[ends] / counts)


def _last(ascending: Scores, alpha: float) -> float:
    """The largest x with ``(1 + #{values >= x}) / (n + 1) > alpha``."""
    needed = int(np.floor(alpha * (len(ascending) + 1) + 1e-9))  # so many values at or above x, at least
    return float(np.inf) if needed == 0 else float(ascending[len(ascending) - needed])
