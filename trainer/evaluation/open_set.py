"""Open-set recognition: which images no known label explains.

An image is rejected by the conformal p-value of its nearest label, as ``bundle/templates.py`` defines it and the worker
serves it, calibrated on held-out images alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from bundle.scores import conformal_p_value
from bundle.templates import TemplateLibrary
from trainer.arrays import Floats, Floats64, Numbers
from trainer.errors import DataMissing


@dataclass(frozen=True, eq=False)
class LabelMatches:
    """The nearest label of each of N images, and how well it explains the image.

    Attributes:
        nearest: ``int64[N]``, index of the label with the smallest distance.
        p_value: ``float64[N]``, ``(1 + #{calibration distance >= d}) / (n + 1)`` for that label; accepted above alpha.
        score: ``float64[N]``, how well the image is explained: like ``p_value``, with images of equal p-values in
            the order of their distances. A p-value alone ranks nothing beyond the farthest calibration image.
    """

    nearest: Numbers
    p_value: Floats64
    score: Floats64


@dataclass(frozen=True, eq=False)
class DistanceCalibration:
    """How far a label's images lie from its templates, measured on images that are in neither training nor templates.

    Attributes:
        distances: for each of L labels, ``float32[n]`` ascending.
    """

    distances: tuple[Floats, ...]

    @classmethod
    def of(cls, distances: Floats, label_ids: Numbers) -> Self:
        """Calibrate on images with distances ``float32[N, L]`` to each label, and with labels ``int64[N]``.

        Raises:
            DataMissing: a label has no calibration image, and would accept everything.
        """
        own = tuple(np.sort(distances[label_ids == i, i]) for i in range(distances.shape[1]))
        return cls(_complete(own))

    @classmethod
    def of_library(cls, library: TemplateLibrary) -> Self:
        """Take the calibration of a library (``TemplateLibrary.with_calibration``).

        Raises:
            DataMissing: see ``of``.
        """
        return cls(_complete(library.calibration))

    def match(self, distances: Floats) -> LabelMatches:
        """Find the nearest label of images from their distances ``float32[N, L]`` to each label.

        >>> calibration = DistanceCalibration((np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)))
        >>> found = calibration.match(np.array([[2.5, 9], [9, 4]], np.float32))
        >>> found.nearest.tolist(), found.p_value.tolist()
        ([0, 1], [0.5, 1.0])
        """
        nearest = distances.argmin(axis=1)
        p_value, score = np.empty(len(nearest)), np.empty(len(nearest))
        for i, own in enumerate(self.distances):
            mine = nearest == i
            found = distances[mine, i]
            as_far = len(own) - np.searchsorted(own, found)
            scale = float(np.median(own)) + np.finfo(np.float32).tiny
            p_value[mine] = conformal_p_value(as_far, len(own))
            score[mine] = (scale / (scale + found.astype(np.float64)) + as_far) / (len(own) + 1)
        return LabelMatches(nearest, p_value, score)


def _complete(distances: tuple[Floats, ...]) -> tuple[Floats, ...]:
    for i, own in enumerate(distances):
        if len(own) == 0:
            raise DataMissing(f"label {i} has no calibration image; rejecting unknowns needs some of every label")
    return distances
