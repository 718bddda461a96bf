"""Against figures that can be worked out by hand, and SciPy's."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import sem

from tests.bench.estimates import limit_per_s, slope, steady


def test_steady_leaves_out_start_up_and_run_out() -> None:
    appended = [0.0] * 50 + [10 + i / 100 for i in range(900)] + [500.0] * 50
    found = steady({0: appended[::2], 1: appended[1::2]})
    assert found.per_s == pytest.approx(100)
    assert found.began_s == 10.5
    assert found.ended_s == pytest.approx(18.49)


def test_steady_counts_whole_transactions() -> None:
    """Ten verdicts at each full second: ten a second, wherever the ends fall within a transaction."""
    appended = [float(second) for second in range(20) for _ in range(10)]
    for skip in (0.1, 0.12, 0.13):
        assert steady({0: appended}, skip).per_s == 10


def test_steady_ends_when_a_partition_runs_dry() -> None:
    both = [i / 100 for i in range(500)]
    alone = [5 + i / 50 for i in range(500)]  # only half as fast without the other worker
    found = steady({0: both, 1: [*both, *alone]})
    assert found.ended_s == both[-1]
    assert found.per_s == pytest.approx(200)


def test_no_steady_state_is_an_error() -> None:
    with pytest.raises(ValueError, match="ran dry"):
        steady({0: [0.0], 1: [float(i) for i in range(100)]})


def test_the_limit_is_what_the_cores_or_the_device_could_do() -> None:
    assert limit_per_s(2, [0.001, 0.003]) == pytest.approx(500)
    assert limit_per_s(2, [0.001, 0.003], device_per_s=400) == 400
    assert limit_per_s(2, [0.001, 0.003], device_per_s=600) == pytest.approx(500)


def test_slope_is_the_mean_step_with_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(400.0)
    y = 3 + 0.5 * x + rng.normal(size=400)
    steps = np.diff(y.reshape(20, 20).mean(axis=1)) / 20
    found = slope(list(x), list(y))
    assert (found.value, found.error) == pytest.approx((steps.mean(), sem(steps)))


def test_what_cannot_be_told_from_nothing_is_part_of_the_error() -> None:
    level = slope(list(range(400)), [5.0] * 400, resolution=38.0)
    assert level.value == 0
    assert level.error == pytest.approx(0.1)  # 38 over the 380 between the first and last block


def test_uneven_steps_count_by_their_width() -> None:
    """Generalised least squares, spelt out: a walk's variance grows with the distance."""
    rng = np.random.default_rng(2)
    x = np.sort(rng.uniform(0, 100, 40))
    y = rng.normal(size=40).cumsum()
    steps, widths = np.diff(y.reshape(20, 2).mean(axis=1)), np.diff(x.reshape(20, 2).mean(axis=1))
    weights = 1 / widths
    by_hand = (weights * widths * steps).sum() / (weights * widths**2).sum()
    assert slope(list(x), list(y)).value == pytest.approx(by_hand)


def _far_from_zero(noise: Callable[[np.random.Generator], npt.NDArray[np.float64]]) -> float:
    """Share of fits that are more than two errors above zero."""
    rng = np.random.default_rng(1)
    fits = [slope(list(range(400)), list(noise(rng))) for _ in range(400)]
    return float(np.mean([fit.value > 2 * fit.error for fit in fits]))


def test_a_level_that_walks_or_swings_is_no_growth() -> None:
    assert _far_from_zero(lambda rng: rng.normal(size=400).cumsum()) < 0.06
    assert _far_from_zero(lambda rng: rng.normal(size=50).repeat(8)) < 0.01


def test_a_leak_is_seen_through_the_steps_in_which_the_heap_grows() -> None:
    """Eight bytes an event, taken from the system in portions of 132 KiB, beside swings of the same size."""
    events, portion = np.linspace(0, 100_000, 400), 132 * 1024
    leaked = np.ceil(8 * events / portion) * portion
    rng = np.random.default_rng(3)
    fit = slope(list(events), list(leaked + rng.normal(scale=portion / 2, size=400)), portion)
    assert fit.value > 2 * fit.error
    assert fit.value == pytest.approx(8, rel=0.3)


def test_slope_needs_samples() -> None:
    with pytest.raises(ValueError, match="too few"):
        slope([1.0, 2.0], [1.0, 2.0])
