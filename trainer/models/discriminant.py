"""Classes as normal distributions of one covariance, in closed form: the scatter of images in them, and of their means.

Whitening makes the scatter within classes a unit sphere, so that L2 distance to a class mean there is the Mahalanobis
distance here, and the nearest mean is the choice of linear discriminant analysis (LDA) at equal priors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from trainer.arrays import Floats, Floats64, Numbers


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sufficient statistics of C classes for LDA.

    Attributes:
        counts: ``int64[C]``, images, each at least 1.
        means: ``float64[C, D]``.
        scatter: ``float64[D, D]``, ``sum_i (x_i - mean)(x_i - mean)^T`` about the mean of the own class, over all.
    """

    counts: Numbers
    means: Floats64
    scatter: Floats64

    @classmethod
    def of(cls, embeddings: Floats, label_ids: Numbers, classes: int) -> Self:
        """Statistics of embeddings ``float32[N, D]`` with label ids ``int64[N]`` in [0, classes)."""
        rows = embeddings.astype(np.float64)
        means = np.stack([rows[label_ids == i].mean(axis=0) for i in range(classes)])
        rows -= means[label_ids]
        return cls(np.bincount(label_ids, minlength=classes), means, rows.T @ rows)

    def covariance(self, shrinkage: float | None = None) -> Floats64:
        """Pooled covariance within classes, ``float64[D, D]``: ``(1 - s) S + s tr(S)/D I``, S the scatter per image.

        Args:
            shrinkage: s in [0, 1]; without it, by the oracle approximating estimator (Chen et al., IEEE TSP 2010).
                Unlike Ledoit and Wolf's it needs no more than S; as in scikit-learn it is that of N images with known
                means.
        """
        count, size = int(self.counts.sum()), len(self.scatter)
        spread = self.scatter / count
        level = float(np.trace(spread)) / size
        if shrinkage is None:
            alpha = float(np.mean(spread**2))
            below = (count + 1) * (alpha - level**2 / size)
            shrinkage = 1.0 if below == 0 else min(1.0, (alpha + level**2) / below)
        return (1 - shrinkage) * spread + shrinkage * level * np.eye(size)


def whitening(covariance: Floats64) -> Floats64:
    """Matrix ``float64[D, D]`` that turns rows of this covariance into rows of unit covariance."""
    values, vectors = np.linalg.eigh(covariance)
    found: Floats64 = vectors / np.sqrt(values.clip(min=values[-1] * 1e-12))
    return found


@dataclass(frozen=True, eq=False)
class MeansPrior:
    """Normal distribution of the means of classes in a whitened space.

    A mean of n images is off by a variance of 1/n in each direction there. With n = 5 and hundreds of directions that
    is farther than classes are apart, so the raw mean of a new class loses its own images to well-known neighbours.

    Attributes:
        centre: ``float64[R]``, its mean.
        directions: ``float64[r, R]``, orthonormal.
        variances: ``float64[r]``, along each.
        elsewhere: the variance along all others.
    """

    centre: Floats64
    directions: Floats64
    variances: Floats64
    elsewhere: float

    @classmethod
    def of(cls, means: Floats64, counts: Numbers, spread: float, scale: float = 1.0) -> Self:
        """Estimate it by empirical Bayes from the means of C > 1 well-known classes.

        Args:
            means: ``float64[C, R]``, in the whitened space.
            counts: ``int64[C]``, images of each. What they explain of the scatter of the means in one direction, 1/n,
                is subtracted from each; where R is far above C, chance puts up to R/(C - 1) times that into the plane
                of the means, and the rest stays.
            spread: the share of the variance that is spread evenly over all directions, as a new class need not lie
                where the known ones do; 0 leaves nothing off the plane of the known means, 1 knows no plane.
            scale: of the covariance.
        """
        centre = means.mean(axis=0)
        _, lengths, directions = np.linalg.svd(means - centre, full_matrices=False)
        plane = min(len(means) - 1, means.shape[1])  # of C points about their mean: the last length is 0
        variances = (lengths[:plane] ** 2 / (len(means) - 1) - float(np.mean(1 / counts))).clip(min=0)
        even = spread * float(variances.sum()) / means.shape[1]
        return cls(centre, directions[:plane], scale * ((1 - spread) * variances + even), scale * even)

    def times(self, function: Callable[[Floats64], Floats64], rows: Floats64) -> Floats64:
        """Rows ``float64[..., R]`` times a function of the covariance, given as a function of its eigenvalues."""
        elsewhere = float(function(np.array([self.elsewhere]))[0])
        along = function(self.variances) - elsewhere
        found: Floats64 = elsewhere * rows + ((rows @ self.directions.T) * along) @ self.directions
        return found

    def mean(self, mean: Floats64, count: int) -> Floats64:
        """The posterior mean ``m0 + T (T + I/n)^-1 (m - m0)`` of a class whose ``count`` images have this mean."""
        return self.centre + self.times(lambda variance: variance / (variance + 1 / count), mean - self.centre)
