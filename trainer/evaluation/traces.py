"""A few dozen hand-made statistics of an image in which generators leave traces, for the floor ``statistics``.

All are taken of pixels on the 0-255 scale. *Luminance* is the mean of R, G and B; the *residual* is the luminance under
the high-pass ``[[-1, 2, -1], [2, -4, 2], [-1, 2, -1]] / 4`` (Kodovsky and Fridrich's second-order filter, the
best-known of the Spatial Rich Model's), without the border.

==================  ====================================================================================================
residual moments    of five derivatives (x, y, xx, yy, and the residual): logs of deviation and kurtosis, and the share
                    of values that round to zero
neighbours          correlation of the residual with itself, shifted by up to two pixels
spectrum            log power of the luminance in eight rings of equal width, relative to the whole; in the outermost
                    also along the axes against the diagonals
grids               for the periods 2, 4 and 8, in x and y: how much the size of the second derivative varies with the
                    place in the period (up-sampling and block coding leave such grids); the luminance's power at the
                    frequencies of these periods against the neighbouring frequencies
colour              correlations of the channels' residuals, logs of the ratios of their deviations, deviation of the
                    chroma
range               share of pixels at 0 and 255, share of odd values, share of grey levels that never occur
==================  ====================================================================================================
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.arrays import Images

Planes = npt.NDArray[np.float64]
"""``float64[N, H, W]``."""
Column = npt.NDArray[np.float64]
"""``float64[N]``."""

_RINGS: Final = 8
_PERIODS: Final = (2, 4, 8)
_SHIFTS: Final = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2))
_TINY: Final = 1e-6
"""Keeps the logarithms of flat images finite; far below the resolution of 8 bits."""


def measure(images: Images, batch: int = 256) -> npt.NDArray[np.float32]:
    """All statistics of ``uint8[N, H, W, 3]`` with H, W >= 16: ``float32[N, F]`` in the order of ``names()``."""
    parts = [_measure(images[start : start + batch]) for start in range(0, len(images), batch)]
    return np.concatenate(parts) if parts else np.empty((0, len(names())), np.float32)


def names() -> tuple[str, ...]:
    """The names of the statistics, for people."""
    return tuple(name for name, _ in _statistics(np.zeros((1, 16, 16, 3), np.uint8)))


def high_pass(planes: Planes) -> Planes:
    """The residual: ``float64[N, H - 2, W - 2]`` of ``float64[N, H, W]``."""
    rows = -planes[:, :, :-2] + 2 * planes[:, :, 1:-1] - planes[:, :, 2:]
    return (rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]) / 4


def _measure(images: Images) -> npt.NDArray[np.float32]:
    return np.stack([column for _, column in _statistics(images)], axis=1).astype(np.float32)


def _statistics(images: Images) -> Iterator[tuple[str, Column]]:
    channels = images.astype(np.float64)
    luminance = channels.mean(axis=3)
    residual = high_pass(luminance)
    yield from _moments(luminance, residual)
    yield from _neighbours(residual)
    power = _power(luminance)
    yield from _spectrum(power)
    yield from _grids(luminance, power)
    yield from _colour(channels)
    yield from _range(images)


def _moments(luminance: Planes, residual: Planes) -> Iterator[tuple[str, Column]]:
    derivatives = {
        "x": np.diff(luminance, axis=2),
        "y": np.diff(luminance, axis=1),
        "xx": np.diff(luminance, 2, axis=2),
        "yy": np.diff(luminance, 2, axis=1),
        "residual": residual,
    }
    for name, values in derivatives.items():
        centred = values - values.mean(axis=(1, 2), keepdims=True)
        variance = (centred**2).mean(axis=(1, 2))
        yield f"log deviation of {name}", np.log(variance + _TINY) / 2
        yield f"log kurtosis of {name}", np.log(((centred**4).mean(axis=(1, 2)) + _TINY**2) / (variance + _TINY) ** 2)
        yield f"zeros of {name}", (np.abs(values) < 0.5).mean(axis=(1, 2))


def _neighbours(residual: Planes) -> Iterator[tuple[str, Column]]:
    height, width = residual.shape[1:]
    for down, right in _SHIFTS:
        here = residual[:, : height - down, max(0, -right) : width - max(0, right)]
        there = residual[:, down:, max(0, right) : width - max(0, -right)]
        yield f"neighbour {down}, {right}", _correlation(here, there)


def _power(luminance: Planes) -> Planes:
    """Power spectra under a Hann window: ``float64[N, side, side]`` with side the largest multiple of 8 that fits.

    They are taken of the centre square, so that every period falls on a frequency of its own.
    """
    height, width = luminance.shape[1:]
    side = min(height, width) // 8 * 8
    top, left = (height - side) // 2, (width - side) // 2
    square = luminance[:, top : top + side, left : left + side]
    window = np.hanning(side + 1)[:-1]
    shaped = (square - square.mean(axis=(1, 2), keepdims=True)) * np.outer(window, window)
    return np.asarray(np.abs(np.fft.fft2(shaped)) ** 2 / side**2, np.float64)


def _spectrum(power: Planes) -> Iterator[tuple[str, Column]]:
    frequency = np.abs(np.fft.fftfreq(power.shape[1]))  # cycles a pixel, up to 1/2
    down, right = np.meshgrid(frequency, frequency, indexing="ij")
    ring = np.minimum((np.hypot(down, right) * 2 * _RINGS).astype(int), _RINGS)  # the corners are beyond the last
    total = power.sum(axis=(1, 2)) + _TINY
    for number in range(_RINGS):
        yield f"spectrum {number + 1} of {_RINGS}", np.log(power[:, ring == number].sum(axis=1) / total + _TINY)
    yield "spectrum, corners", np.log(power[:, ring == _RINGS].sum(axis=1) / total + _TINY)
    outermost, angle = ring == _RINGS - 1, np.arctan2(np.minimum(down, right), np.maximum(down, right))
    axes, diagonals = (power[:, outermost & (turn)].mean(axis=1) for turn in (angle < np.pi / 8, angle >= np.pi / 8))
    yield "spectrum, axes against diagonals", np.log((axes + _TINY) / (diagonals + _TINY))


def _grids(luminance: Planes, power: Planes) -> Iterator[tuple[str, Column]]:
    across, down = (np.abs(np.diff(luminance, 2, axis=axis)).mean(axis=3 - axis) for axis in (2, 1))
    for axis, lines in (("x", across), ("y", down)):
        for period in _PERIODS:
            places = lines[:, : lines.shape[1] // period * period].reshape(len(lines), -1, period).mean(axis=1)
            yield f"grid of {period} in {axis}", np.log((places.std(axis=1) + _TINY) / (places.mean(axis=1) + _TINY))
    side = power.shape[1]
    for period in _PERIODS:
        step = side // period
        for name, y, x in ((f"{period} in x", 0, step), (f"{period} in y", step, 0), (f"{period}", step, step)):
            yield f"peak of {name}", np.log(_peak(power, y, x))


def _peak(power: Planes, down: int, right: int) -> Column:
    """A frequency's power over the mean of the 5 x 5 around it without the inner 3 x 3, which the window blurs."""
    side = power.shape[1]
    ring = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if max(abs(y), abs(x)) == 2]
    around = [power[:, (down + y) % side, (right + x) % side] for y, x in ring]
    return np.asarray((power[:, down, right] + _TINY) / (np.mean(around, axis=0) + _TINY), np.float64)


def _colour(channels: npt.NDArray[np.float64]) -> Iterator[tuple[str, Column]]:
    residuals = {name: high_pass(channels[..., number]) for number, name in enumerate("RGB")}
    for one, other in ("RG", "GB", "RB"):
        yield f"residuals of {one} and {other}", _correlation(residuals[one], residuals[other])
    deviation = {name: values.std(axis=(1, 2)) + _TINY for name, values in residuals.items()}
    for one in "RB":
        yield f"log of {one}'s residual against G's", np.log(deviation[one] / deviation["G"])
        chroma = channels[..., "RGB".index(one)] - channels[..., 1]
        yield f"log deviation of {one} - G", np.log(chroma.std(axis=(1, 2)) + 1)


def _range(images: Images) -> Iterator[tuple[str, Column]]:
    flat = images.reshape(len(images), -1)
    yield "share of 0", (flat == 0).mean(axis=1)
    yield "share of 255", (flat == 255).mean(axis=1)
    yield "share of odd values", (flat % 2).mean(axis=1)
    yield "share of levels without a pixel", np.array([(np.bincount(row, minlength=256) == 0).mean() for row in flat])


def _correlation(one: Planes, other: Planes) -> Column:
    """The correlation of two planes for each image; 0 for flat ones."""
    one, other = (values - values.mean(axis=(1, 2), keepdims=True) for values in (one, other))
    scale = np.sqrt((one**2).mean(axis=(1, 2)) * (other**2).mean(axis=(1, 2)))
    return np.asarray((one * other).mean(axis=(1, 2)) / (scale + _TINY), np.float64)
