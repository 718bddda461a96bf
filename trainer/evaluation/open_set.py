"""The open set: which images no known label explains.

By the conformal p-value of the nearest label, as ``bundle/templates.py`` defines it and the worker serves it,
calibrated on held-out images alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from bundle.scores import conformal_p_value
from bundle.templates import TemplateLibrary
from trainer.arrays import Floats, Floats64, Numbers
from trainer.errors import DataMissing


@dataclass(frozen=True, eq=False)
class Judged:
    """What the labels say about N images.

    Attributes:
        nearest: ``int64[N]``, index of the label with the smallest distance.
        p_value: ``float64[N]``, ``(1 + #{calibration distance >= d}) / (n + 1)`` for that label; accepted above alpha.
        score: ``float64[N]``, how known the image looks: like ``p_value``, with the images of equal p-values in the
            order of their distances. A p-value alone ranks nothing beyond the farthest calibration image.
    """

    nearest: Numbers
    p_value: Floats64
    score: Floats64


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far a label's own images lie, from images that neither training nor templates have seen.

    Attributes:
        distances: for each of L labels, ``float32[n]`` ascending.
    """

    distances: tuple[Floats, ...]

    @classmethod
    def of(cls, distances: Floats, numbers: Numbers) -> Self:
        """From ``float32[N, L]`` distances of calibration images to each label, and their own labels ``int64[N]``.

        Raises:
            DataMissing: a label has no calibration image, and would accept everything.
        """
        own = tuple(np.sort(distances[numbers == i, i]) for i in range(distances.shape[1]))
        return cls(_complete(own))

    @classmethod
    def of_library(cls, library: TemplateLibrary) -> Self:
        """As the library has it (``TemplateLibrary.with_calibration``).

        Raises:
            DataMissing: see ``of``.
        """
        return cls(_complete(library.calibration))

    def judge(self, distances: Floats) -> Judged:
        """``float32[N, L]``, measured as those of the calibration were."""
        nearest = distances.argmin(axis=1)
        p_value, score = np.empty(len(nearest)), np.empty(len(nearest))
        for i, own in enumerate(self.distances):
            mine = nearest == i
            found = distances[mine, i]
            as_far = len(own) - np.searchsorted(own, found)
            scale = float(np.median(own)) + np.finfo(np.float32).tiny
            p_value[mine] = conformal_p_value(as_far, len(own))
            score[mine] = (scale / (scale + found.astype(np.float64)) + as_far) / (len(own) + 1)
        return Judged(nearest, p_value, score)


def _complete(distances: tuple[Floats, ...]) -> tuple[Floats, ...]:
    for i, own in enumerate(distances):
        if len(own) == 0:
            raise DataMissing(f"label {i} has no calibration image; rejecting unknowns needs some of every label")
    return distances
