"""From the pixels of an image to the squares that a model sees, as its preprocessing says."""

import io
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bundle.errors import TooManyPixels
from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.resampling import resample

MAX_PIXELS_CEILING: Final = 89_478_485
"""Pillow's own bomb limit: neither an image nor what is made of it may have more pixels."""

_PEAK_BYTES_A_ROW: Final = 24
"""Pillow keeps a pointer for each row of each of its images and pads rows, which counts in images of narrow rows."""

_MOST_JPEG_PIXELS: Final = 65_500
"""Of a side, as libjpeg counts."""

Views = npt.NDArray[np.uint8]
"""``uint8[V, size, size, 3]``, RGB; V = 0 where the image is too small."""


def cut(image: Image.Image, view: View) -> list[Views]:
    """The squares ``uint8[size, size, 3]`` of one view; none where the image is too small for it.

    Raises:
        TooManyPixels: a very elongated image would grow beyond the ceiling by resizing or padding.
    """
    resize, crop = view.resize, view.crop
    resized, grown = _sizes(image.size, view)
    if view.jpeg is not None:
        image = _coded(image, view.jpeg)
    if resize.mode != "none":
        image = resample(image, resized, resize)
    if crop.mode == "none":
        return [np.asarray(image)]
    if grown is None:
        return []
    if grown != resized:
        image = _grown(image, grown, view)
    size = crop.size
    assert size is not None  # Crop._complete
    images = [image, ImageOps.mirror(image)] if crop.mode == "ten" else [image]
    corners = _corners(image.size, crop)
    return [np.asarray(each.crop((x, y, x + size, y + size))) for each in images for y, x in corners]


def view_bytes(size: tuple[int, int], preprocessing: Preprocessing, *, turned: bool) -> tuple[int, int]:
    """Most bytes held beside an image while its views are cut, without the views; and those of the views.

    Args:
        size: width and height of the stored pixels.
        preprocessing: says which views.
        turned: whether the image is turned where a view wants it upright.

    Raises:
        TooManyPixels: see ``cut``.
    """
    held, count = 0, 0
    for view in preprocessing.views:
        upright = size[::-1] if turned and view.orient else size
        resized, grown = _sizes(upright, view)
        stages = [image_bytes(upright, 4) if turned and view.orient else 0]
        if view.jpeg is not None:
            stages.append(image_bytes(upright, 13))
        if view.resize.mode != "none":
            # one direction after the other
            stages.append(image_bytes((resized[0], upright[1]), 4) + image_bytes(resized, 4))
            if view.resize.library != "pillow":  # copies as bytes, and floats for some lines at a time
                stages.append(image_bytes(upright, 6) + image_bytes(resized, 6) + 2**12 * max(*upright, *resized))
        if grown and grown != resized:
            # NumPy's padding is a copy of the image, the result and its copies as bytes and as an image.
            padded = view.on_small in ("reflect", "tile")
            stages.append(image_bytes(resized, 6) + image_bytes(grown, 10) if padded else image_bytes(grown, 8))
        if view.crop.mode == "ten" and grown:
            stages.append(image_bytes(grown, 4))
        held = max(held, sum(stages))
        count += (view.crop.most if view.crop.mode != "grid" else len(_corners(grown, view.crop))) if grown else 0
    return held, 2 * 3 * preprocessing.size**2 * (count + 1)


def image_bytes(size: tuple[int, int], a_pixel: int) -> int:
    """Bytes of one or several images of that size, of so many bytes a pixel altogether."""
    return size[0] * size[1] * a_pixel + size[1] * _PEAK_BYTES_A_ROW


def _sizes(size: tuple[int, int], view: View) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Width and height after resizing, and after what ``on_small`` says; None for no view.

    Raises:
        TooManyPixels: beyond the ceiling.
    """
    resize, crop = view.resize, view.crop
    resized = size
    if resize.mode != "none":
        resized = _scaled(size, resize)
        _check_growth(size, resized)
    if crop.size is None or min(resized) >= crop.size:
        return resized, resized
    match view.on_small:
        case "unsure":
            return resized, None
        case "upscale":
            grown = _scaled(resized, resize.model_copy(update={"mode": "shorter", "size": crop.size}))
        case _:
            grown = (max(resized[0], crop.size), max(resized[1], crop.size))
    _check_growth(resized, grown)
    return resized, grown


def _scaled(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Width and height after resizing.

    >>> photograph = (4032, 3024)
    >>> [_scaled(photograph, Resize(mode="shorter", size=440, rounding=how)) for how in ("nearest", "down")]
    [(587, 440), (586, 440)]
    """
    wanted = resize.size
    assert wanted is not None  # Resize._complete
    if resize.mode == "exact":
        return wanted, wanted
    given = min(size) if resize.mode == "shorter" else max(size)
    whole = round if resize.rounding == "nearest" else int
    least = wanted if resize.mode == "shorter" else 1

    def side(length: int) -> int:
        # torchvision and transformers multiply first, which gives another quotient now and then
        scaled = length * (wanted / given) if resize.rounding == "nearest" else wanted * length / given
        return wanted if length == given else max(least, whole(scaled))

    return side(size[0]), side(size[1])


def _grown(image: Image.Image, grown: tuple[int, int], view: View) -> Image.Image:
    """What ``on_small`` makes of an image that is smaller than the crop."""
    right, below = grown[0] - image.width, grown[1] - image.height
    left, top = right // 2, below // 2
    match view.on_small:
        case "upscale":
            return resample(image, grown, view.resize)
        case "zero_pad":
            return image.crop((-left, -top, grown[0] - left, grown[1] - top))  # black outside
        case "tile":
            return Image.fromarray(np.pad(np.asarray(image), ((0, below), (0, right), (0, 0)), mode="wrap"))
        case _:
            border = ((top, below - top), (left, right - left), (0, 0))
            return Image.fromarray(np.pad(np.asarray(image), border, mode="reflect"))


def _coded(image: Image.Image, quality: int) -> Image.Image:
    """The image after coding and decoding as JPEG by Pillow, with colour at half the resolution."""
    if max(image.size) > _MOST_JPEG_PIXELS:
        raise TooManyPixels(f"{image.width} x {image.height} cannot be coded as JPEG")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")


def _check_growth(before: tuple[int, int], after: tuple[int, int]) -> None:
    if after[0] * after[1] > MAX_PIXELS_CEILING:
        raise TooManyPixels(f"{before[0]} x {before[1]} would become {after[0]} x {after[1]}")


def _corners(size: tuple[int, int], crop: Crop) -> list[tuple[int, int]]:
    """Top left corners (y, x) of the crops."""
    assert crop.size is not None  # Crop._complete
    right, bottom = size[0] - crop.size, size[1] - crop.size
    centre = (bottom // 2, right // 2) if crop.rounding == "down" else (round(bottom / 2), round(right / 2))
    if crop.mode == "grid":
        return _grid(bottom, right, crop)
    corners = [centre, *product((0, bottom), (0, right))] if crop.mode != "centre" else [centre]
    step = crop.multiple
    return [(y // step * step, x // step * step) for y, x in corners]


def _grid(bottom: int, right: int, crop: Crop) -> list[tuple[int, int]]:
    assert crop.stride is not None  # Crop._complete
    assert crop.max is not None
    rows, columns = range(0, bottom + 1, crop.stride), range(0, right + 1, crop.stride)
    count = len(rows) * len(columns)  # may be millions, so no list of all is made
    chosen = range(count) if count <= crop.max else [(2 * i + 1) * count // (2 * crop.max) for i in range(crop.max)]
    return [(rows[i // len(columns)], columns[i % len(columns)]) for i in chosen]
