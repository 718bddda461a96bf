"""Against figures that can be worked out by hand, and SciPy's regression."""

import numpy as np
import pytest
from scipy.stats import linregress

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


def test_slope_and_error_are_those_of_ordinary_least_squares_on_block_means() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(400.0)
    y = 3 + 0.5 * x + rng.normal(size=400)
    expected = linregress(x.reshape(20, 20).mean(axis=1), y.reshape(20, 20).mean(axis=1))
    found = slope(list(x), list(y))
    assert (found.value, found.error) == pytest.approx((expected.slope, expected.stderr))


def test_the_error_covers_noise_that_comes_in_steps() -> None:
    """Plateaus of eight samples around a level: 19 of 20 fits must find zero within two errors."""
    rng = np.random.default_rng(1)
    fits = [slope(list(range(400)), list(rng.normal(size=50).repeat(8))) for _ in range(400)]
    inside = np.mean([abs(fit.value) <= 2 * fit.error for fit in fits])
    assert 0.9 <= inside <= 0.99


def test_slope_needs_samples() -> None:
    with pytest.raises(ValueError, match="too few"):
        slope([1.0, 2.0], [1.0, 2.0])
