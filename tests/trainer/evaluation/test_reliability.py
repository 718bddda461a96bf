"""Against plain loops, hand-made tables and SciPy's optimiser."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from trainer.evaluation.reliability import expected_calibration_error, reliability, reliability_table, two_shot_bias


def test_proper_scores_are_their_formulas() -> None:
    chances = np.array([0.1, 0.4, 0.8, 0.9], np.float32)
    generated = np.array([False, True, True, False])
    found = reliability(chances, generated)

    own = [0.9, 0.4, 0.8, 0.1]
    assert found.brier == pytest.approx(sum((1 - p) ** 2 for p in own) / 4)
    assert found.log_loss == pytest.approx(-sum(math.log(p) for p in own) / 4, rel=1e-6)


def test_certainty_that_is_wrong_costs_much_and_stays_finite() -> None:
    found = reliability(np.array([0.0, 1.0]), np.array([True, False]))
    assert found.brier == 1
    assert 30 < found.log_loss < math.inf
    assert found.ece_equal_width == found.ece_equal_mass == 1


def test_bins_of_equal_width_hold_their_lower_edge() -> None:
    chances = np.array([0.0, 0.25, 0.3, 0.5, 0.99, 1.0])
    generated = np.array([False, False, True, True, True, False])
    table = reliability_table(chances, generated, 4, "width")

    assert [(row.low, row.high, row.observed.hits, row.observed.count) for row in table] == [
        (0.0, 0.0, 0, 1),
        (0.25, 0.3, 1, 2),
        (0.5, 0.5, 1, 1),
        (0.99, 1.0, 1, 2),
    ]
    by_hand = (1 * abs(0.0 - 0) + 2 * abs(0.275 - 0.5) + 1 * abs(0.5 - 1) + 2 * abs(0.995 - 0.5)) / 6
    assert expected_calibration_error(table) == pytest.approx(by_hand)


def test_bins_of_equal_mass_have_equal_counts() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(100)
    generated = rng.random(100) < chances
    table = reliability_table(chances, generated, 8, "mass")
    assert {row.observed.count for row in table} == {12, 13}

    expected, order = 0.0, np.argsort(chances)
    for start, end in pairwise([math.ceil(i * 100 / 8) for i in range(9)]):
        own = order[start:end]
        expected += len(own) / 100 * abs(chances[own].mean() - generated[own].mean())
    assert expected_calibration_error(table) == pytest.approx(expected)
    assert reliability(chances, generated, 8).ece_equal_mass == pytest.approx(expected)


def test_equal_probabilities_stay_in_one_bin() -> None:
    chances = np.array([0.2] * 7 + [0.9] * 3)
    table = reliability_table(chances, np.arange(10) % 2 == 0, 5, "mass")
    assert [row.observed.count for row in table] == [7, 3]


def test_calibrated_probabilities_have_little_error_and_shifted_ones_theirs() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0.2, 0.8, 50_000)
    generated = rng.random(50_000) < chances
    assert reliability(chances, generated).ece_equal_mass < 0.01
    assert reliability(chances + 0.15, generated).ece_equal_width == pytest.approx(0.15, abs=0.01)


def test_two_shot_takes_the_bias_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(-6, 1, 128), rng.normal(-2, 1, 128)
    signs = np.concatenate([-np.ones(128), np.ones(128)])
    logits = np.concatenate([real, fake])

    def cost(parameters: tuple[float, float]) -> float:
        weight, bias = parameters
        return float(np.logaddexp(0, -signs * (weight * logits + bias)).sum() + weight**2 / 2)

    best = minimize(cost, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000})
    bias = two_shot_bias(real.astype(np.float32), fake.astype(np.float32))
    assert bias == pytest.approx(best.x[1], rel=1e-3)
    assert bias > 0  # a detector that says *real* to everything is pushed towards *generated*


def test_two_shot_stays_finite_where_two_images_separate() -> None:
    assert math.isfinite(two_shot_bias(np.full(128, -5.0), np.full(128, 5.0)))
