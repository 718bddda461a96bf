"""Statistics against plain loops, SciPy, and images whose traces are known."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import convolve2d
from scipy.stats import kurtosis, pearsonr

from trainer.evaluation.traces import high_pass, measure, names

Images = npt.NDArray[np.uint8]

NOISE = np.random.default_rng(0).integers(60, 190, (3, 32, 40, 3)).astype(np.uint8)


def of(images: Images, name: str) -> npt.NDArray[np.float32]:
    return measure(images)[:, names().index(name)]


def residual(image: Images) -> npt.NDArray[np.float64]:
    kernel = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    return np.asarray(convolve2d(image.astype(float).mean(axis=2), kernel, "valid"))


def test_the_residual_is_the_named_filters() -> None:
    expected = np.stack([residual(image) for image in NOISE])
    np.testing.assert_allclose(high_pass(NOISE.astype(float).mean(axis=3)), expected, atol=1e-9)


def test_moments_and_neighbours() -> None:
    for image, row in zip(NOISE, measure(NOISE), strict=True):
        value_of = dict(zip(names(), row, strict=True))
        values = residual(image)
        across = np.diff(image.astype(float).mean(axis=2), axis=1)
        assert value_of["log deviation of residual"] == pytest.approx(np.log(values.std()), abs=1e-4)
        assert value_of["log kurtosis of x"] == pytest.approx(np.log(kurtosis(across.ravel(), fisher=False)), abs=1e-4)
        assert value_of["zeros of x"] == pytest.approx(np.mean([abs(v) < 0.5 for v in across.ravel()]))
        pairs = {
            "neighbour 0, 1": (values[:, :-1], values[:, 1:]),
            "neighbour 1, -1": (values[:-1, 1:], values[1:, :-1]),
            "neighbour 2, 2": (values[:-2, :-2], values[2:, 2:]),
        }
        for name, (here, there) in pairs.items():
            assert value_of[name] == pytest.approx(pearsonr(here.ravel(), there.ravel()).statistic, abs=1e-4)


def test_rings_of_the_spectrum() -> None:
    """Against a loop over all frequencies of the centre square, here 32 x 32 of 32 x 40."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    for image, row in zip(NOISE, measure(NOISE), strict=True):
        square = image.astype(float).mean(axis=2)[:, 4:36]
        power = np.abs(np.fft.fft2((square - square.mean()) * window[:, None] * window)) ** 2
        rings = np.zeros(9)
        for y in range(32):
            for x in range(32):
                radius = np.hypot(min(y, 32 - y), min(x, 32 - x)) / 16
                rings[min(8, int(radius * 8))] += power[y, x]
        value_of = dict(zip(names(), row, strict=True))
        for number in range(8):
            assert value_of[f"spectrum {number + 1} of 8"] == pytest.approx(
                np.log(rings[number] / rings.sum()), abs=2e-3
            )
        assert value_of["spectrum, corners"] == pytest.approx(np.log(rings[8] / rings.sum()), abs=2e-3)


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_grid_is_seen_at_its_period_and_in_its_direction(period: int, axis: str) -> None:
    """Every ``period``-th line is brighter, which is a peak; or interpolated from its neighbours, which is a grid."""
    images = np.random.default_rng(1).integers(60, 190, (20, 64, 64, 3)).astype(np.uint8)
    lines = np.arange(period, 63, period)
    brighter, interpolated = images.copy(), images.copy()
    for changed in (brighter, interpolated):
        turned = changed if axis == "y" else changed.swapaxes(1, 2)  # a view
        if changed is brighter:
            turned[:, lines] += 40
        else:
            turned[:, lines] = (turned[:, lines - 1].astype(int) + turned[:, lines + 1]) // 2
    other = "y" if axis == "x" else "x"
    for changed, name in ((brighter, f"peak of {period} in {{}}"), (interpolated, f"grid of {period} in {{}}")):
        here, there = (of(changed, name.format(a)) - of(images, name.format(a)) for a in (axis, other))
        assert here.mean() > 1
        assert abs(there.mean()) < 0.5


def test_colour_and_range() -> None:
    rng = np.random.default_rng(2)
    grey = np.repeat(rng.integers(0, 256, (4, 24, 24, 1)), 3, axis=3).astype(np.uint8)
    assert of(grey, "residuals of R and B") == pytest.approx(1, abs=1e-4)
    assert of(grey, "log of R's residual against G's") == pytest.approx(0, abs=1e-6)
    assert of(grey, "log deviation of B - G") == pytest.approx(0, abs=1e-6)
    assert of(NOISE, "residuals of R and G") == pytest.approx(
        [
            pearsonr(
                high_pass(image[None, ..., 0].astype(float)).ravel(),
                high_pass(image[None, ..., 1].astype(float)).ravel(),
            ).statistic
            for image in NOISE
        ],
        abs=1e-4,
    )
    clipped = np.zeros((1, 16, 16, 3), np.uint8)
    clipped[0, :4] = 255
    assert of(clipped, "share of 255") == 0.25
    assert of(clipped, "share of 0") == 0.75
    assert of(clipped, "share of odd values") == 0.25
    assert of(clipped, "share of levels without a pixel") == 254 / 256


def test_flat_images_are_finite_and_batches_change_nothing() -> None:
    flat = np.full((2, 16, 48, 3), 128, np.uint8)
    assert np.isfinite(measure(flat)).all()
    assert len(set(names())) == len(names()) == measure(flat).shape[1]
    np.testing.assert_array_equal(measure(NOISE), measure(NOISE, batch=2))
    assert measure(NOISE[:0]).shape == (0, len(names()))
