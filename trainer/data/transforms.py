"""Transforms of test images, as images meet them on their way: none (track C) or post-processing (track P).

Each transform is applied alike to all classes and keeps an image's size. Those *held out* must be in no training
augmentation; those *beyond* are reported without a target, as little survives them.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from trainer.arrays import Pixels

Track = Literal["clean", "post-processed", "beyond"]


@dataclass(frozen=True, slots=True)
class Transform:
    """A named change of ``uint8[H, W, 3]`` into ``uint8[H, W, 3]``; the same image always gives the same result."""

    name: str
    apply: Callable[[Pixels], Pixels]
    track: Track = "post-processed"
    held_out: bool = False
    """Whether it is kept out of training augmentation."""


def clean(image: Pixels) -> Pixels:
    """Return the image as it is."""
    return image


def jpeg(image: Pixels, quality: int) -> Pixels:
    """Code and decode by Pillow's JPEG coder, with halved colour resolution (4:2:0)."""
    return coded(image, "JPEG", quality=quality, subsampling="4:2:0")


def webp(image: Pixels, quality: int) -> Pixels:
    """Code and decode by Pillow's lossy WebP coder."""
    return coded(image, "WEBP", quality=quality)


def resize_and_back(image: Pixels, factor: float) -> Pixels:
    """Resize to ``factor`` times the size and back, by Pillow's bicubic kernel, which is widened where it shrinks."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def blur(image: Pixels, sigma: float) -> Pixels:
    """Blur by a Gaussian of ``sigma`` pixels, cut off at 4 sigma, mirrored at the border (Pillow's is made of boxes).

    >>> edge = np.repeat(np.array([[[0], [0], [100], [100]]], np.uint8), 3, axis=2)
    >>> blur(edge, 0.5)[0, :, 0].tolist()
    [0, 11, 89, 100]
    """
    return _rounded(gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="reflect", truncate=4.0))


def noise(image: Pixels, sigma: float) -> Pixels:
    """Add Gaussian noise of ``sigma`` grey levels to every channel, seeded by the image itself."""
    return _rounded(image + draws_of(image).normal(0, sigma, image.shape))


def resize_then_jpeg(image: Pixels, factor: float, quality: int) -> Pixels:
    """Apply ``resize_and_back``, then ``jpeg``: the file that is passed on has the size of the original."""
    return jpeg(resize_and_back(image, factor), quality)


CLEAN: Final = Transform("clean", clean, "clean")

POST_PROCESSED: Final[tuple[Transform, ...]] = (
    Transform("jpeg90", partial(jpeg, quality=90)),
    Transform("jpeg75", partial(jpeg, quality=75)),
    Transform("jpeg50", partial(jpeg, quality=50)),
    Transform("resize0.75", partial(resize_and_back, factor=0.75)),
    Transform("blur0.5", partial(blur, sigma=0.5)),
    Transform("blur1", partial(blur, sigma=1.0)),
    Transform("resize0.75-jpeg75", partial(resize_then_jpeg, factor=0.75, quality=75)),
    Transform("noise2", partial(noise, sigma=2.0), held_out=True),
    Transform("noise5", partial(noise, sigma=5.0), held_out=True),
    Transform("resize1.5", partial(resize_and_back, factor=1.5), held_out=True),
    Transform("webp60", partial(webp, quality=60), held_out=True),
)
"""Transforms of track P."""

BEYOND: Final[tuple[Transform, ...]] = (
    Transform("jpeg30", partial(jpeg, quality=30), "beyond"),
    Transform("resize0.5", partial(resize_and_back, factor=0.5), "beyond"),
    Transform("blur2", partial(blur, sigma=2.0), "beyond"),
)

TRANSFORMS: Final = {transform.name: transform for transform in (CLEAN, *POST_PROCESSED, *BEYOND)}


def coded(image: Pixels, coder: str, **options: object) -> Pixels:
    """Code by one of Pillow's coders and decode, in memory."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, coder, **options)
    with Image.open(buffer) as opened:
        return np.asarray(opened.convert("RGB"))


def draws_of(image: Pixels) -> np.random.Generator:
    """Random generator that is seeded by the image: the same image always gets the same numbers."""
    seed = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(seed, "big"))


def _rounded(values: npt.NDArray[np.float64]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)
