"""Closed-form heads over a frozen embedding: shrinkage LDA as a projection, and templates of few images.

All that is kept of the images are sufficient statistics, which add up: classes can be added one after another, in any
order, and nothing is forgotten. The projection whitens the scatter within classes, so that L2 distance to a class mean
there is the Mahalanobis distance here, and the nearest mean is LDA's choice at equal priors; a template library serves
exactly that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bundle.templates import TemplateLibrary
from trainer.metrics import Floats, Numbers

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that LDA needs to know of C classes.

    Attributes:
        names: of the classes, sorted.
        counts: ``int64[C]``, images.
        means: ``float64[C, D]``.
        scatter: ``float64[D, D]``, ``sum_i (x_i - mean)(x_i - mean)^T`` about the mean of the own class, over all.
    """

    names: tuple[str, ...]
    counts: Numbers
    means: Floats64
    scatter: Floats64

    @classmethod
    def of(cls, name: str, embeddings: Floats) -> Self:
        """Of one class: ``float32[N, D]``, N > 0."""
        rows = embeddings.astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        return cls((name,), np.array([len(rows)]), mean[None], rows.T @ rows)

    @classmethod
    def of_classes(cls, embeddings: Floats, numbers: Numbers, names: tuple[str, ...]) -> Self:
        """Of all classes that have images: ``float32[N, D]``, ``int64[N]`` indices into ``names``."""
        return cls.sum(cls.of(names[i], embeddings[numbers == i]) for i in np.unique(numbers))

    @classmethod
    def sum(cls, parts: Iterable[Self]) -> Self:
        """Of all images of all parts, one at least."""
        return reduce(lambda first, second: first + second, parts)

    def __add__(self, other: Self) -> Self:
        """Of both parts' images. A class that both have is one class (Chan et al. 1979 for its scatter)."""
        names = tuple(sorted({*self.names, *other.names}))
        counts, means = np.zeros(len(names), np.int64), np.zeros((len(names), self.means.shape[1]))
        scatter = self.scatter + other.scatter
        for part in (self, other):
            for name, count, mean in zip(part.names, part.counts, part.means, strict=True):
                i = names.index(name)
                apart = mean - means[i]
                before, counts[i] = counts[i], counts[i] + count
                means[i] += apart * (count / counts[i])
                scatter = scatter + np.outer(apart, apart) * (before * count / counts[i])
        return type(self)(names, counts, means, scatter)

    def covariance(self, shrinkage: float | None = None) -> Floats64:
        """Within classes, pooled, ``float64[D, D]``: ``(1 - s) S + s tr(S)/D I`` with S the scatter over its images.

        Args:
            shrinkage: s in [0, 1]; without it, by the oracle approximating estimator (Chen et al., IEEE TSP 2010).
                Unlike Ledoit and Wolf's it needs no more than S; like scikit-learn we take it of N images with known
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

    def projection(
        self,
        shrinkage: float | None = None,
        keep: Literal["all", "between"] = "all",
        beside: "Statistics | None" = None,
    ) -> "Projection":
        """The whitening of these classes.

        Args:
            shrinkage: see ``covariance``.
            keep: ``all`` directions, so that distances are Mahalanobis distances and tell an unknown from the known; or
                the C - 1 ``between`` the means, with the same nearest mean and nothing of what is off their plane.
            beside: further classes whose means count for ``between``, and nothing else of them.
        """
        values, vectors = np.linalg.eigh(self.covariance(shrinkage))
        whitening = vectors / np.sqrt(values.clip(min=values[-1] * 1e-12))
        means = self.means if beside is None else np.concatenate([self.means, beside.means])
        centre = means.mean(axis=0)
        if keep == "between":
            _, _, directions = np.linalg.svd((means - centre) @ whitening, full_matrices=False)
            whitening = whitening @ directions[: len(means) - 1].T
        return Projection(centre.astype(np.float32), whitening.astype(np.float32))

    def library(self, projection: "Projection", prior: "Prior | None" = None) -> TemplateLibrary:
        """The class means as templates in the projected space, without calibration distances.

        Args:
            projection: of the space.
            prior: draws means of few images towards where means are (``Prior.mean``).
        """
        vectors = projection(self.means)
        if prior is not None:
            shrunk = [prior.mean(mean, count) for mean, count in zip(vectors, self.counts.tolist(), strict=True)]
            vectors = np.stack(shrunk)
        empty = np.empty(0, np.float32)
        return TemplateLibrary(
            labels=self.names,
            vectors=vectors,
            label_of=np.arange(len(self.names)),
            counts=self.counts,
            calibration=(empty,) * len(self.names),
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """``(x - centre) matrix``.

    Attributes:
        centre: ``float32[D]``.
        matrix: ``float32[D, R]``.
    """

    centre: Floats
    matrix: Floats

    def __call__(self, embeddings: npt.NDArray[np.floating]) -> Floats:
        """``float[N, D]`` -> ``float32[N, R]``."""
        projected: Floats = (embeddings - self.centre).astype(np.float32) @ self.matrix
        return projected

    def onto(self, directions: int) -> "Projection":
        """The first so many, or all and as many more that are always 0: networks have a size before they are fitted."""
        first = self.matrix[:, :directions]
        return Projection(self.centre, np.pad(first, ((0, 0), (0, directions - first.shape[1]))))

    def layer(self) -> nn.Linear:
        """The same, to end a network with: L2 distances of its output are the discriminant's."""
        layer = nn.Linear(*self.matrix.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.matrix.T.copy()))
            layer.bias.copy_(torch.from_numpy(-self.centre.astype(np.float64) @ self.matrix))
        return layer


@dataclass(frozen=True, eq=False)
class Prior:
    """Where the means of classes lie in a whitened space: normal, about ``centre``.

    A mean of n images is off by a variance of 1/n in each direction there. With n = 5 and hundreds of directions that
    is farther than classes are apart, so the raw mean of a new class loses its own images to well-known neighbours.

    Attributes:
        centre: ``float64[R]``.
        covariance: ``float64[R, R]``.
    """

    centre: Floats64
    covariance: Floats64

    @classmethod
    def of(cls, vectors: Floats, counts: Numbers, spread: float = 0.5) -> Self:
        """Empirical Bayes, from the means of C > 1 well-known classes.

        Args:
            vectors: ``float32[C, R]``, in the whitened space.
            counts: ``int64[C]``, images of each; what they explain of the scatter of the means is taken off.
            spread: the share of the variance that is spread evenly over all directions, as a new class need not lie
                where the known ones do; 0 leaves nothing off the plane of the known means, 1 knows no plane.
        """
        rows = vectors.astype(np.float64)
        centre = rows.mean(axis=0)
        size = rows.shape[1]
        between = (rows - centre).T @ (rows - centre) / (len(rows) - 1) - np.mean(1 / counts) * np.eye(size)
        values, directions = np.linalg.eigh(between)
        between = (directions * values.clip(min=0)) @ directions.T
        return cls(centre, (1 - spread) * between + spread * np.trace(between) / size * np.eye(size))

    def mean(self, mean: Floats, count: int) -> Floats:
        """The posterior mean ``m0 + T (T + I/n)^-1 (m - m0)`` of a class whose ``count`` images have this mean."""
        gain = np.linalg.solve(self.covariance + np.eye(len(self.centre)) / count, mean - self.centre)
        return (self.centre + self.covariance @ gain).astype(np.float32)
