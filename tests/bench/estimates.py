"""The few numbers that the benchmark is about, as pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Steady:
    """The part of a run between start-up and run-out; times in seconds of the broker's clock."""

    began_s: float
    ended_s: float
    verdicts: int
    """Appended after ``began_s`` and up to ``ended_s``."""

    @property
    def per_s(self) -> float:
        """Verdicts per second."""
        return self.verdicts / (self.ended_s - self.began_s)


def steady(appended_s: Mapping[int, Sequence[float]], skip: float = 0.1) -> Steady:
    """The steady part of a backlog's verdicts.

    It begins with verdict number ``skip * n`` and ends with number ``(1 - skip) * n``, or earlier: when the first input
    partition has run dry, since from then on some of the workers may have nothing to do. Verdicts come in clumps, one a
    transaction, so those of the first moment do not count, and all those of the last do.

    Args:
        appended_s: times at which the verdicts were appended, by the partition that their events came from.
        skip: share of the verdicts at either end.

    Raises:
        ValueError: nothing is left between the ends.
    """
    ordered = sorted(moment for moments in appended_s.values() for moment in moments)
    count = len(ordered)
    began_s = ordered[math.floor(count * skip)]
    ended_s = min(ordered[math.ceil(count * (1 - skip)) - 1], *(max(moments) for moments in appended_s.values()))
    if ended_s <= began_s:
        raise ValueError(f"no steady state among {count} verdicts: a partition ran dry before {skip:.0%} were there")
    return Steady(began_s, ended_s, sum(began_s < moment <= ended_s for moment in ordered))


def limit_per_s(cores: int, cpu_s_per_image: Sequence[float], device_per_s: float = math.inf) -> float:
    """What the machine could do at best: all cores busy with nothing but these parts, or the device's own rate."""
    return min(cores / sum(cpu_s_per_image), device_per_s)


@dataclass(frozen=True)
class Slope:
    """The slope of a fitted line, with its standard error; both in units of y per unit of x."""

    value: float
    error: float


def slope(x: Sequence[float], y: Sequence[float], resolution: float = 0, blocks: int = 20) -> Slope:
    """The line through the means of ``blocks`` consecutive blocks of samples, if what is not trend adds up.

    Resident memory moves in steps that stay: an allocator keeps the highest level that was ever needed, so its noise is
    a walk. Then the generalised least-squares slope is the mean step from block to block, and the spread of the steps
    gives its error; ordinary least squares would claim a far smaller one. Where the noise does not add up after all,
    the error claimed here is too large, never too small.

    Args:
        x: ascending.
        y: of the same length.
        resolution: what ``y`` cannot tell from nothing, over the whole span.
        blocks: that the samples are divided into.

    Raises:
        ValueError: too few samples for the blocks.
    """
    if len(x) < 2 * blocks:
        raise ValueError(f"{len(x)} samples are too few for {blocks} blocks")
    xs = np.array([part.mean() for part in np.array_split(np.asarray(x, float), blocks)])
    ys = np.array([part.mean() for part in np.array_split(np.asarray(y, float), blocks)])
    steps, widths = np.diff(ys), np.diff(xs)
    value = steps.sum() / widths.sum()
    spread = np.sum((steps - value * widths) ** 2 / widths) / (len(steps) - 1)
    span = widths.sum()
    return Slope(float(value), float(np.hypot(np.sqrt(spread / span), resolution / span)))
