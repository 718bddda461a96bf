"""When a detector should leave an image undecided: conformal sets over {real, generated}, and risk against coverage.

The sets are calibrated on held-out logits alone. Their decisions equal those of two thresholds on the logit, which a
bundle serves.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from bundle.scores import conformal_p_value
from trainer.arrays import Flags, Floats64, Numbers, Scores
from trainer.evaluation.metrics import check_both_kinds

REAL, GENERATED, UNSURE = 0, 1, -1
"""The decisions of ``ConformalKinds.decide``."""


@dataclass(frozen=True, eq=False)
class ConformalKinds:
    """Class-conditional conformal sets over {real, generated} (Vovk et al. 2005, *Mondrian*).

    A kind is in an image's set if its p-value is above alpha; the decision is *unsure* if the set has both kinds, or
    none. A kind is missing from the sets of at most alpha of its own images, if these are exchangeable with the
    calibration images.

    Attributes:
        real: ``float[n]``, ascending logits of real calibration images.
        generated: ``float[m]``, ascending logits of generated ones.
    """

    real: Scores
    generated: Scores

    @classmethod
    def of(cls, logits: Scores, generated: Flags) -> Self:
        """Calibrate on images with these logits ``float[N]``, and whether each is generated: ``bool[N]``.

        Raises:
            TooFewClasses: all are of one kind.
        """
        check_both_kinds(generated)
        return cls(np.sort(logits[~generated]), np.sort(logits[generated]))

    def p_values(self, logits: Scores) -> Floats64:
        """P-values of *real* and of *generated* for logits ``float[N]``: ``float64[N, 2]``."""
        as_high = len(self.real) - np.searchsorted(self.real, logits, "left")
        as_low = np.searchsorted(self.generated, logits, "right")
        p_values = conformal_p_value(as_high, len(self.real)), conformal_p_value(as_low, len(self.generated))
        return np.stack(p_values, axis=1)

    def decide(self, logits: Scores, alpha: float) -> Numbers:
        """Decide ``REAL``, ``GENERATED`` or ``UNSURE`` for logits ``float[N]``: ``int64[N]``."""
        real, generated = (self.p_values(logits) > alpha).T
        return np.where(real == generated, UNSURE, np.where(generated, GENERATED, REAL))

    def band(self, alpha: float) -> tuple[float, float]:
        """The interval (low, high) of logits that are *unsure*, both ends included, as ``decide`` decides.

        Logits below ``low`` are real, those above ``high`` generated. A side is infinite where there are too few
        calibration images to decide anything at this alpha.
        """
        # *Real* is in the set up to `last_real`, *generated* from `first_generated` on.
        last_real = _last(self.real, alpha)
        first_generated = -_last(-self.generated[::-1], alpha)
        if first_generated <= last_real:  # both kinds are in the sets in between
            return first_generated, last_real
        # No kind is in the sets in between: from just above the one to just below the other.
        below = np.nextafter(last_real, np.inf, dtype=self.real.dtype)
        above = np.nextafter(first_generated, -np.inf, dtype=self.generated.dtype)
        return float(below), float(above)

    def likelier(self, logits: Scores) -> tuple[Flags, Floats64]:
        """Whether *generated* has the larger p-value, ``bool[N]``, and one minus the smaller p-value, ``float64[N]``.

        The second is the confidence for a ``RiskCoverage``: a threshold on it gives the decisions at one alpha.
        """
        real, generated = self.p_values(logits).T
        return generated > real, 1 - np.minimum(real, generated)


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Error among the decided images against their share, from the surest on (El-Yaniv and Wiener, JMLR 2010).

    Attributes:
        coverage: ``float64[K]``, share of decided images, ascending to 1, with a point for each distinct confidence.
        risk: ``float64[K]``, error among them.
    """

    coverage: Floats64
    risk: Floats64

    @classmethod
    def of(cls, confidence: Scores, wrong: Flags) -> Self:
        """The curve of N decisions, ``float[N]`` and ``bool[N]``; images of equal confidence are decided together."""
        order = np.argsort(-confidence, kind="stable")
        ranked = confidence[order]
        ends = np.append(np.flatnonzero(ranked[:-1] != ranked[1:]), len(ranked) - 1)
        counts = ends + 1
        return cls(counts / len(ranked), np.cumsum(wrong[order])[ends] / counts)


def _last(ascending: Scores, alpha: float) -> float:
    """The largest x with ``(1 + #{values >= x}) / (n + 1) > alpha``."""
    needed = int(np.floor(alpha * (len(ascending) + 1) + 1e-9))  # so many values at or above x, at least
    return float(np.inf) if needed == 0 else float(ascending[len(ascending) - needed])
