import numpy as np
from scipy.ndimage import median_filter

from trainer.protocols.spectra import highest_peak, mean_spectrum

RNG = np.random.default_rng(0)


def test_the_mean_spectrum_is_that_of_plain_loops() -> None:
    images = RNG.integers(0, 256, (5, 12, 12, 3)).astype(np.uint8)
    expected = np.zeros((12, 12))
    for image in images:
        for channel in range(3):
            plane = image[:, :, channel].astype(float)
            expected += np.log(1 + np.abs(np.fft.fft2(plane - median_filter(plane, size=3))))
    np.testing.assert_allclose(mean_spectrum(iter([images[:2], images[2:]])), expected / 15)


def test_a_grid_stands_out() -> None:
    noise = RNG.normal(size=(32, 32))
    grid = noise.copy()
    grid[8, 8] += 20
    assert highest_peak(grid, 9) > 2 * highest_peak(noise, 9)


def test_what_lies_near_zero_frequency_is_content() -> None:
    noise = RNG.normal(size=(32, 32))
    content = noise.copy()
    content[:3, :3] += 50
    assert highest_peak(content, 9) < 1.5 * highest_peak(noise, 9)
