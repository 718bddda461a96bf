"""Figures of a study with their bounds: backbones and photographs resampled (``trainer.evaluation.bootstrap``)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.arrays import Flags, Numbers, Scores
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate, Resamples
from trainer.experiments.corpus import Picture
from trainer.experiments.section import Measured
from trainer.experiments.study import Study

Values = Scores | npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """The N test files that figures are taken on, and how they are resampled.

    Figures of samples of one study and one split are paired: resample b draws the same photographs for all of them
    where they show the same ones, and the same backbones and draws where there are as many.
    """

    generated: Flags
    photograph: Numbers
    resamples: Resamples

    @classmethod
    def of(cls, study: Study, pictures: Sequence[Picture], seeds: int, draws: int = 1) -> "Sample":
        """Of these files; photographs are shared between classes where the corpus is paired."""
        if study.corpus.paired:
            _, photograph = np.unique([picture.scene for picture in pictures], return_inverse=True)
        else:
            photograph = np.arange(len(pictures))
        count = int(photograph.max()) + 1
        resamples = Resamples.draw(seeds, draws, count, seed=0, count=study.scale.resamples)
        return cls(np.array([picture.generated for picture in pictures]), photograph, resamples)

    def among(self, chosen: Flags) -> "Sample":
        """Some of the files, resampled with the rest."""
        return Sample(self.generated[chosen], self.photograph[chosen], self.resamples)

    def times(self, copies: int) -> "Sample":
        """These files so many times over, for instance after each of several changes: a photograph takes them all."""
        return Sample(np.tile(self.generated, copies), np.tile(self.photograph, copies), self.resamples)

    def auroc(self, logits: Values) -> Estimate:
        """Of ``float[S, D, N]``."""
        return bootstrap.auroc(logits, self.generated, self.photograph, self.resamples)

    def mean(self, right: Values) -> Estimate:
        """Of ``bool[S, D, N]``, or of shares."""
        return bootstrap.mean(right, self.photograph, self.resamples)

    def average_precision(self, logits: Scores) -> Estimate:
        """S3's AP of ``float[S, D, N]``."""
        return bootstrap.average_precision(logits, self.generated, self.photograph, self.resamples)

    def coverage_at(self, confidence: Scores, wrong: Flags, risk: float) -> Estimate:
        """The largest share that can be decided, the surest first, with no more than this error among it.

        Of ``float[S, D, N]`` and ``bool[S, D, N]``.
        """
        return bootstrap.coverage_at(confidence, wrong, self.photograph, self.resamples, risk)

    def tpr_at_fpr(self, logits: Scores, fpr: float) -> Estimate:
        """Share of fakes found at the threshold that ``fpr`` of the reals reach."""
        return bootstrap.tpr_at_fpr(logits, self.generated, self.photograph, self.resamples, fpr)

    def tnr_at_tpr(self, logits: Scores, tpr: float) -> Estimate:
        """Share of fakes found at the threshold below which ``tpr`` of the reals lie: S2's, *real* is positive."""
        return bootstrap.tnr_at_tpr(-logits, ~self.generated, self.photograph, self.resamples, tpr)


def measured(estimate: Estimate) -> Measured:
    """As it is, with its 95 % bounds."""
    interval = estimate.interval()
    return Measured(value=interval.value, low=interval.low, high=interval.high)


def percent_of(estimate: Estimate) -> Measured:
    """A share in 0..1, in per cent, with its 95 % bounds."""
    return measured(Estimate(100 * estimate.found))
