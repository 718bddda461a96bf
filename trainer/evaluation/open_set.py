"""The open set: which images no known label explains.

By the conformal p-value of the nearest label, as ``bundle/templates.py`` defines it and the worker serves it,
calibrated on held-out images alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from bundle.templates import TemplateLibrary
from trainer.arrays import Floats, Floats64, Numbers
from trainer.errors import DataMissing
from trainer.evaluation.metrics import Proportion, auroc, oscr, proportion


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
            p_value[mine] = (1 + as_far) / (len(own) + 1)
            score[mine] = (scale / (scale + found.astype(np.float64)) + as_far) / (len(own) + 1)
        return Judged(nearest, p_value, score)


class Rejection(BaseModel):
    """How well images of unknown generators are told from those of known ones."""

    model_config = ConfigDict(frozen=True)

    auroc: float
    """Of known against unknown images, by ``Judged.score``."""
    oscr: float
    alpha: float
    false_unknown: Proportion
    """Known images that are rejected. Alpha on average over calibration sets: with 200 images a label, the rate of a
    label that one set leads to has itself a standard deviation of 1.5 points at alpha = 5 %."""
    rejected: Proportion
    """Unknown images that are."""
    accepted_and_right: Proportion
    """Of the known images."""

    @property
    def as_promised(self) -> bool:
        """Whether the exact interval of the observed false-unknown rate contains alpha."""
        return self.false_unknown.low <= self.alpha <= self.false_unknown.high


def rejection(known: Judged, truth: Numbers, unknown: Judged, alpha: float) -> Rejection:
    """Of images of known labels ``truth`` (``int64[N]``), and of images of none; both one at least."""
    right, accepted = known.nearest == truth, known.p_value > alpha
    scores = np.concatenate([known.score, unknown.score])
    return Rejection(
        auroc=auroc(scores, np.arange(len(scores)) < len(truth)),
        oscr=oscr(known.score, right, unknown.score),
        alpha=alpha,
        false_unknown=proportion(int((~accepted).sum()), len(truth)),
        rejected=proportion(int((unknown.p_value <= alpha).sum()), len(unknown.p_value)),
        accepted_and_right=proportion(int((accepted & right).sum()), len(truth)),
    )


def _complete(distances: tuple[Floats, ...]) -> tuple[Floats, ...]:
    for i, own in enumerate(distances):
        if len(own) == 0:
            raise DataMissing(f"label {i} has no calibration image; rejecting unknowns needs some of every label")
    return distances
