"""Rates against lists worked out by hand."""

import math

import pytest
import torch

from trainer.training.schedules import ByStep, Constant, Exponential, Plateau


def optimiser(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def test_an_exponential_falls_after_every_epoch() -> None:
    adam = optimiser(1.0)
    schedule = Exponential(adam, 0.5)
    rates = []
    for _ in range(3):
        schedule.after_step()
        rates.append(adam.param_groups[0]["lr"])
        assert schedule.after_epoch(None)
    assert rates == [1, 0.5, 0.25]


def test_a_constant_stays() -> None:
    assert Constant().after_epoch(0.1)


def test_by_step_follows_the_share_of_the_steps_done() -> None:
    sgd = optimiser(2.0)
    schedule = ByStep(sgd, 4, lambda done: math.cos(math.pi / 2 * done))
    rates = [sgd.param_groups[0]["lr"]]
    for _ in range(4):
        schedule.after_step()
        rates.append(sgd.param_groups[0]["lr"])
    assert rates == pytest.approx([2 * math.cos(math.pi / 8 * step) for step in range(5)])


class TestPlateau:
    @staticmethod
    def run(accuracies: list[float], patience: int, rate: float = 1e-4) -> tuple[list[float], int]:
        """The rate of each epoch, and how many there were."""
        sgd = optimiser(rate)
        schedule = Plateau(sgd, patience, delta=0.001, floor=1e-6)
        rates = []
        for accuracy in accuracies:
            rates.append(sgd.param_groups[0]["lr"])
            if not schedule.after_epoch(accuracy):
                break
        return rates, len(rates)

    def test_the_rate_falls_when_accuracy_has_not_risen_in_patience_epochs(self) -> None:
        rates, _ = self.run([0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7], patience=3)
        assert rates == pytest.approx([1e-4] * 5 + [1e-5] * 2)

    def test_a_rise_of_less_than_a_thousandth_is_none(self) -> None:
        rates, _ = self.run([0.5, 0.5004, 0.5008, 0.5011, 0.5], patience=2)
        assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 2)

    def test_it_ends_below_the_floor_and_not_at_it(self) -> None:
        """1e-4, 1e-5 and 1e-6, of two epochs each after the best one."""
        rates, epochs = self.run([0.9] * 50, patience=2)
        assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 2 + [1e-6] * 2)
        assert epochs == 7

    def test_a_fall_does_not_forget_the_best(self) -> None:
        """The authors' code would take 0.7 for the best after the first fall, and see a rise at 0.8."""
        rates, _ = self.run([0.9, 0.7, 0.7, 0.8, 0.85, 0.85], patience=2)
        assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 2 + [1e-6])
