"""Figures of a study with their bounds: backbones and photographs resampled (``trainer.evaluation.bootstrap``)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.arrays import Flags, Numbers, Scores, Values
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate, Resamples
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.section import Measured
from trainer.experiments.study import Study


@dataclass(frozen=True, eq=False)
class Sample:
    """The N test files that figures are computed on, and how they are resampled.

    Figures of samples of one study and one split are paired: if they show the same photographs, resample b has the same
    ones of them in all samples, and likewise the same backbones and draws if there are equally many.
    """

    generated: Flags
    photograph: Numbers
    resamples: Resamples

    @classmethod
    def of(cls, study: Study, images: Sequence[CorpusImage], seeds: int, draws: int = 1) -> "Sample":
        """A sample of these files; classes share photographs if the corpus is paired."""
        if study.corpus.paired:
            _, photograph = np.unique([image.scene for image in images], return_inverse=True)
        else:
            photograph = np.arange(len(images))
        count = int(photograph.max()) + 1
        resamples = Resamples.draw(seeds, draws, count, seed=0, count=study.scale.resamples)
        return cls(np.array([image.generated for image in images]), photograph, resamples)

    def among(self, chosen: Flags) -> "Sample":
        """Some of the files, with the same resamples."""
        return Sample(self.generated[chosen], self.photograph[chosen], self.resamples)

    def times(self, copies: int) -> "Sample":
        """The files repeated ``copies`` times, as after each of several changes; copies are resampled together."""
        return Sample(np.tile(self.generated, copies), np.tile(self.photograph, copies), self.resamples)

    def auroc(self, logits: Values) -> Estimate:
        """The AUROC of ``float[S, D, N]``."""
        return bootstrap.auroc(logits, self.generated, self.photograph, self.resamples)

    def mean(self, right: Values) -> Estimate:
        """The mean of ``bool[S, D, N]``, or of shares."""
        return bootstrap.mean(right, self.photograph, self.resamples)

    def average_precision(self, logits: Scores) -> Estimate:
        """S3's AP of ``float[S, D, N]``."""
        return bootstrap.average_precision(logits, self.generated, self.photograph, self.resamples)

    def coverage_at(self, confidence: Scores, wrong: Flags, risk: float) -> Estimate:
        """The largest share of files, the surest first, that can be decided with no more than this error among them.

        Args:
            confidence: ``float[S, D, N]``.
            wrong: ``bool[S, D, N]``, whether the decision on each file is wrong.
            risk: the largest share of decisions that may be wrong.
        """
        return bootstrap.coverage_at(confidence, wrong, self.photograph, self.resamples, risk)

    def tpr_at_fpr(self, logits: Scores, fpr: float) -> Estimate:
        """The share of fakes found at the threshold that a share ``fpr`` of the reals reach."""
        return bootstrap.tpr_at_fpr(logits, self.generated, self.photograph, self.resamples, fpr)

    def tnr_at_tpr(self, logits: Scores, tpr: float) -> Estimate:
        """The share of fakes found at the threshold below which ``tpr`` of the reals lie (S2: *real* is positive)."""
        return bootstrap.tnr_at_tpr(-logits, ~self.generated, self.photograph, self.resamples, tpr)


def measured(estimate: Estimate) -> Measured:
    """The figure with its 95 % bounds."""
    interval = estimate.interval()
    return Measured(value=interval.value, low=interval.low, high=interval.high)


def percent_of(estimate: Estimate) -> Measured:
    """A share in 0..1 as per cent, with its 95 % bounds."""
    return measured(Estimate(100 * estimate.found))
