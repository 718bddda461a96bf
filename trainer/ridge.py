"""A closed-form classifier over a frozen embedding: random features and ridge regression on the labels.

RanPAC (McDonnell et al., NeurIPS 2023): ``h = relu(x W)`` with W drawn once, scores ``h (G + penalty I)^-1 C`` with
``G = sum h h^T`` and ``C`` the sum of h over each class. G and C add up, so classes are added in any order. We weigh
each class by one over its images, so that the few of a new type are not outvoted; for that G is kept by class.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from trainer.metrics import Floats

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """``relu(x W)``.

    Attributes:
        weights: ``float64[D, M]``.
    """

    weights: Floats64

    @classmethod
    def draw(cls, dimension: int, features: int, seed: int) -> Self:
        """W from N(0, 1/D): columns about one long, where the paper draws from N(0, 1)."""
        return cls(np.random.default_rng(seed).normal(0, dimension**-0.5, (dimension, features)))

    def __call__(self, embeddings: Floats) -> Floats64:
        """``float32[N, D]`` -> ``float64[N, M]``."""
        features: Floats64 = np.maximum(embeddings.astype(np.float64) @ self.weights, 0)
        return features


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """All that ridge regression needs to know of one class; ``8 M^2`` bytes.

    Attributes:
        count: images.
        total: ``float64[M]``, the sum of their features.
        gram: ``float64[M, M]``, the sum of their outer products.
    """

    count: int
    total: Floats64
    gram: Floats64

    @classmethod
    def of(cls, features: Floats64) -> Self:
        """Of ``float64[N, M]``."""
        return cls(len(features), features.sum(axis=0), features.T @ features)

    def __add__(self, other: Self) -> Self:
        """Of both parts' images."""
        return type(self)(self.count + other.count, self.total + other.total, self.gram + other.gram)


@dataclass(frozen=True, eq=False)
class RidgeHead:
    """Scores of C classes.

    Attributes:
        names: of the classes.
        weights: ``float64[M, C]``.
    """

    names: tuple[str, ...]
    weights: Floats64

    @classmethod
    def fit(cls, moments: dict[str, ClassMoments], penalty: float) -> Self:
        """Minimises ``sum_c 1/n_c sum_{i of c} |h_i W - e_c|^2 + penalty |W|^2``.

        Args:
            moments: by class name.
            penalty: > 0; to be chosen on validation images.
        """
        gram = np.sum([part.gram / part.count for part in moments.values()], axis=0)
        targets = np.stack([part.total / part.count for part in moments.values()], axis=1)
        return cls(tuple(moments), np.linalg.solve(gram + penalty * np.eye(len(gram)), targets))

    def scores(self, features: Floats64) -> Floats64:
        """``float64[N, M]`` -> ``float64[N, C]``; the largest is the class."""
        scores: Floats64 = features @ self.weights
        return scores
