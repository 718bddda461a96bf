"""Resizing pixels as the library does that a detector was made with; another one moves its scores.

``pillow`` is Pillow itself. The others are written out here, so that serving needs neither PyTorch nor OpenCV:
``torchvision`` is what it does with ``uint8`` tensors, ``torch`` is ``interpolate`` of floats, rounded to whole levels,
and ``opencv`` is OpenCV without Intel's library, which its wheels have inside and which rounds otherwise in places.
``tests/bundle/test_resampling.py`` holds each to what it copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.manifest import Resize

_Pixels = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.int64]
_Array = npt.NDArray[Any]

_PILLOW: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_READ, _MADE = 64, 8
"""Lines that are read, and made, at a time: bounds the memory, whatever the sizes."""
_OPENCV_BITS: Final = 11


def resample(image: Image.Image, size: tuple[int, int], how: Resize) -> Image.Image:
    """The image at another size.

    Args:
        image: RGB.
        size: width and height to make.
        how: kernel, antialias and library; its mode and size do not matter here.
    """
    if how.library == "pillow":
        return _by_pillow(image, size, how)
    pixels, (width, height) = np.asarray(image), size
    if how.kernel == "nearest":
        rows, columns = _nearest(image.height, height, how.library), _nearest(image.width, width, how.library)
        return Image.fromarray(pixels[rows[:, None], columns])
    make = {"torchvision": _by_torchvision, "torch": _by_torch, "opencv": _by_opencv}[how.library]
    return Image.fromarray(np.ascontiguousarray(make(pixels, size, how)))


def _by_pillow(image: Image.Image, size: tuple[int, int], how: Resize) -> Image.Image:
    if how.antialias or how.kernel == "nearest":
        return image.resize(size, _PILLOW[how.kernel])
    scale_x, scale_y = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (scale_x, 0, 0, 0, scale_y, 0), _PILLOW[how.kernel])


def _by_torchvision(pixels: _Array, size: tuple[int, int], how: Resize) -> _Array:
    """Integer weights of 16 bits, and levels between the directions (PyTorch's ``UpSampleKernel.cpp``)."""
    for axis, length in ((1, size[0]), (0, size[1])):
        if length == pixels.shape[axis]:
            continue
        lines = _Lines.of(pixels.shape[axis], length, how)
        bits = 0
        while bits < 22 and int(0.5 + lines.weights.max() * 2 ** (bits + 1)) < 2**15:
            bits += 1
        scaled = lines.weights * 2**bits
        lines = _Lines(lines.first, np.trunc(scaled + np.copysign(0.5, scaled)))
        pixels = _along(pixels, axis, lines, partial(_rounded, bits=bits))
    return pixels


def _by_torch(pixels: _Pixels, size: tuple[int, int], how: Resize) -> _Array:
    across = _Lines.of(pixels.shape[1], size[0], how)
    wide = _along(pixels, 1, across, lambda sums: sums.astype(np.float32))
    return _along(
        wide, 0, _Lines.of(pixels.shape[0], size[1], how), lambda sums: _levels(np.rint(sums.astype(np.float32)))
    )


def _by_opencv(pixels: _Pixels, size: tuple[int, int], how: Resize) -> _Pixels:
    """Fixed-point weights of 11 bits (OpenCV's ``resize.cpp``)."""
    height, width, _ = pixels.shape
    columns, across = _opencv_taps(width, size[0], how.kernel)
    rows, down = _opencv_taps(height, size[1], how.kernel)
    if how.kernel == "bilinear":  # beyond the outermost pixels' centres; only across, down both taps are the same row
        outside = (columns[0] < 0) | (columns[0] >= width - 1)
        across[:, outside] = [[2**_OPENCV_BITS], [0]]
    columns, rows = columns.clip(0, width - 1), rows.clip(0, height - 1)
    made = np.empty((size[1], size[0], 3), np.uint8)
    for start in range(0, size[1], _READ):
        strip = slice(start, start + _READ)
        products: Any = 0
        for row, weights in zip(rows[:, strip], down[:, strip, None, None], strict=True):
            lines: Any = sum(
                pixels[row[:, None], column] * weight[:, None] for column, weight in zip(columns, across, strict=True)
            )
            products = products + ((lines >> 4) * weights >> 16 if how.kernel == "bilinear" else lines * weights)
        made[strip] = _rounded(products, 2 if how.kernel == "bilinear" else 2 * _OPENCV_BITS)
    return made


@dataclass(frozen=True, eq=False)
class _Lines:
    """How each line (row or column) of a new image is made of consecutive lines of the old one.

    Attributes:
        first: ``int64[M]``, of the old ones.
        weights: ``float64[M, T]``, 0 beyond the last.
    """

    first: _Numbers
    weights: _Floats

    @classmethod
    def of(cls, old: int, new: int, how: Resize) -> Self:
        """As PyTorch does, with ``align_corners=False``."""
        kind: Any = np.float32 if how.library == "torch" else np.float64
        scale: Any = kind(old) / kind(new)
        stretch = max(scale, kind(1.0)) if how.antialias else kind(1.0)
        reach = kind(1 if how.kernel == "bilinear" else 2) * stretch
        centre = scale * (np.arange(new).astype(kind) + kind(0.5))
        if how.antialias:
            first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
            last = np.minimum((centre + reach + 0.5).astype(np.int64), old)
            taps = first[:, None] + np.arange((last - first).max())
            weights = _kernel((taps.astype(kind) + kind(0.5) - centre[:, None]) / stretch, how.kernel, -0.5)
            weights[taps >= last[:, None]] = 0.0
            return cls(first, weights / weights.sum(axis=1, keepdims=True))
        at = centre - kind(0.5)
        below = np.floor(at).astype(np.int64)
        taps = below[:, None] + np.arange(1 - int(reach), int(reach) + 1)
        spread = _kernel(taps.astype(kind) - at[:, None], how.kernel, -0.75)
        taps = taps.clip(0, old - 1)  # the weight of what lies outside goes to the outermost lines
        first = taps[:, 0]
        weights = np.zeros_like(spread)
        np.add.at(weights, (np.arange(new)[:, None], taps - first[:, None]), spread)
        return cls(first, weights)

    def block(self, start: int, old: int) -> tuple[slice, _Floats]:
        """The old lines that the next few new ones are made of, and their weights as a matrix."""
        first, weights = self.first[start : start + _MADE], self.weights[start : start + _MADE]
        read = slice(int(first.min()), min(int(first.max()) + weights.shape[1], old))
        matrix = np.zeros((len(first), read.stop - read.start + weights.shape[1]))
        places = first[:, None] - read.start + np.arange(weights.shape[1])
        np.put_along_axis(matrix, places, weights, axis=1)
        return read, matrix[:, : read.stop - read.start]


def _along(values: _Array, axis: int, lines: _Lines, finish: Callable[[_Floats], _Array]) -> _Array:
    """Make the lines along one axis of ``[H, W, 3]``; ``finish`` rounds the sums."""
    values = np.moveaxis(values, axis, 0)
    old, across, new = len(values), values.shape[1], len(lines.first)
    made = np.empty((new, across, 3), finish(np.zeros(1)).dtype)
    blocks = [(start, *lines.block(start, old)) for start in range(0, new, _MADE)]
    for start in range(0, across, _READ):
        strip = values[:, start : start + _READ].astype(np.float64).reshape(old, -1)
        for at, read, matrix in blocks:
            sums = matrix @ strip[read]
            made[at : at + _MADE, start : start + _READ] = finish(sums).reshape(len(matrix), -1, 3)
    return np.moveaxis(made, 0, axis)


def _kernel(distance: _Array, kernel: str, a: float) -> _Array:
    """Weights at distances in lines: a triangle, or Keys' cubic with the parameter ``a``."""
    x: _Array = np.abs(distance)
    if kernel == "bilinear":
        return (1 - x).clip(0)
    near: _Array = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights: _Array = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights


def _opencv_taps(old: int, new: int, kernel: str) -> tuple[_Numbers, _Numbers]:
    """Lines ``int64[T, M]``, some outside the image, and their weights in 2,048ths; floats of 32 bits, as there."""
    centre = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    below = np.floor(centre)
    x = centre - below
    offsets: tuple[int, ...] = (0, 1)
    weights: tuple[_Array, ...] = (1 - x, x)
    if kernel == "bicubic":
        a = np.float32(-0.75)
        outer = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
        inner = [((a + 2) * t - (a + 3)) * t * t + 1 for t in (x, 1 - x)]
        offsets, weights = (-1, 0, 1, 2), (outer, *inner, 1 - outer - inner[0] - inner[1])
    taps = below.astype(np.int64) + np.array(offsets)[:, None]
    return taps, np.rint(np.stack(weights) * 2**_OPENCV_BITS).astype(np.int64)


def _nearest(old: int, new: int, library: str) -> _Numbers:
    """PyTorch reckons in 32 bits, OpenCV divides twice."""
    scale = 1 / (new / old) if library == "opencv" else np.float32(old) / np.float32(new)
    return np.minimum(np.floor(np.arange(new).astype(type(scale)) * scale).astype(np.int64), old - 1)


def _rounded(sums: _Array, bits: int) -> _Pixels:
    """Levels of sums in fixed point with so many bits."""
    return _levels((sums.astype(np.int64) + 2 ** (bits - 1)) >> bits)


def _levels(values: _Array) -> _Pixels:
    return np.clip(values, 0, 255).astype(np.uint8)
