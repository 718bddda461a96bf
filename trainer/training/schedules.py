"""Schedules: the learning rate over time, and the end of a run before its last epoch."""

from collections.abc import Callable
from typing import Protocol

from torch.optim import Optimizer


class Schedule(Protocol):
    """Sets the learning rates of an optimiser."""

    def after_step(self) -> None:
        """Called after each step of the optimiser."""

    def after_epoch(self, val_accuracy: float | None) -> bool:
        """Called after each epoch with the accuracy (0..1) on watched images, if there are any; False ends the run."""


class Constant:
    """The rate does not change."""

    def after_step(self) -> None:
        """Change nothing."""

    def after_epoch(self, val_accuracy: float | None) -> bool:  # noqa: ARG002  the protocol's
        """Let the run go on."""
        return True


class Exponential(Constant):
    """The rate is multiplied by ``decay`` after every epoch.

    >>> import torch
    >>> optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> schedule = Exponential(optimiser, decay=0.5)
    >>> [schedule.after_epoch(None) and optimiser.param_groups[0]["lr"] for _ in range(3)]
    [0.5, 0.25, 0.125]
    """

    def __init__(self, optimiser: Optimizer, decay: float) -> None:
        self._optimiser, self._decay = optimiser, decay

    def after_epoch(self, val_accuracy: float | None) -> bool:  # noqa: ARG002  the protocol's
        """Lower the rate."""
        scale(self._optimiser, self._decay)
        return True


class ByStep(Constant):
    """The rate is ``first rate * factor(steps done / all steps)``: from factor(0) to factor(1).

    >>> import torch
    >>> optimiser = torch.optim.SGD([torch.zeros(1)], lr=8.0)
    >>> schedule = ByStep(optimiser, steps=4, factor=lambda done: 1 - done)
    >>> schedule.after_step()
    >>> optimiser.param_groups[0]["lr"]
    6.0
    """

    def __init__(self, optimiser: Optimizer, steps: int, factor: Callable[[float], float]) -> None:
        self._optimiser, self._steps, self._factor, self._done = optimiser, steps, factor, 0
        self._first = [float(group["lr"]) for group in optimiser.param_groups]
        self._set()

    def after_step(self) -> None:
        """Set the next rate."""
        self._done += 1
        self._set()

    def _set(self) -> None:
        factor = self._factor(self._done / self._steps)
        for group, first in zip(self._optimiser.param_groups, self._first, strict=True):
            group["lr"] = first * factor


class Plateau(Constant):
    """The rate is divided by ten when validation accuracy has not risen by ``delta`` in ``patience`` epochs (S3).

    It counts from the best accuracy of the whole run: the authors' code forgets it at each fall of the rate. The run
    ends when the rate falls below ``floor``.
    """

    def __init__(self, optimiser: Optimizer, patience: int, delta: float, floor: float) -> None:
        self._optimiser, self._patience, self._delta, self._floor = optimiser, patience, delta, floor
        self._best, self._waited = float("-inf"), 0

    def after_epoch(self, val_accuracy: float | None) -> bool:
        """Lower the rate, or end the run, by ``val_accuracy``, which must be given."""
        assert val_accuracy is not None  # TrainConfig.needs_val, checked before the first epoch
        if val_accuracy >= self._best + self._delta:
            self._best, self._waited = val_accuracy, 0
            return True
        self._waited += 1
        if self._waited >= self._patience:
            self._waited = 0
            scale(self._optimiser, 0.1)
        # A thousandth of tolerance: 1e-4 divided by ten twice is 1e-6 but for rounding, and not below it.
        return all(group["lr"] >= self._floor * 0.999 for group in self._optimiser.param_groups)


def scale(optimiser: Optimizer, factor: float) -> None:
    """Multiply all learning rates of ``optimiser`` by ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] *= factor
