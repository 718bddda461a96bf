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
    """Of a fitted line, with its standard error; both in units of y per unit of x."""

    value: float
    error: float


def slope(x: Sequence[float], y: Sequence[float], blocks: int = 20) -> Slope:
    """Ordinary least squares on the means of ``blocks`` consecutive blocks of samples.

    Memory moves in steps, so samples that follow each other are not independent and a fit through all of them would
    claim far too small an error; the residuals of block means are nearly so.

    Raises:
        ValueError: too few samples for the blocks.
    """
    if len(x) < 2 * blocks:
        raise ValueError(f"{len(x)} samples are too few for {blocks} blocks")
    xs = np.array([part.mean() for part in np.array_split(np.asarray(x, float), blocks)])
    ys = np.array([part.mean() for part in np.array_split(np.asarray(y, float), blocks)])
    centred = xs - xs.mean()
    value = float(centred @ ys / (centred @ centred))
    residuals = ys - ys.mean() - value * centred
    return Slope(value, float(np.sqrt(residuals @ residuals / (blocks - 2) / (centred @ centred))))
