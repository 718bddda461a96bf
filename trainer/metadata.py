"""What is known of an image without looking at its pixels: container, coding, sizes, tags.

A detector may go by these where a data set lets it, and then it has learned nothing of generators: ForenSynths'
photographs are JPEGs, its fakes mostly PNGs.
"""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from bundle.preprocess import EncodedImage, Limits

_SAMPLING: Final = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_TAGS: Final = frozenset({"comment", "xmp", "photoshop"})
"""Pillow's names; besides, what is a string is a PNG's text, and a resolution may have been taken from EXIF."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Of one image."""

    format: str
    mode: str
    """Pillow's: ``RGB``, ``P``, ``CMYK`` ..."""
    width: int
    """As stored, before EXIF orientation."""
    height: int
    bytes: int
    coding: str
    """``progressive`` or ``baseline`` JPEG, ``lossy`` or ``lossless`` WebP, ``interlaced`` PNG, else empty."""
    quality: int
    """Of a JPEG, 1 to 100: that of the libjpeg tables nearest to its own; 0 for other formats."""
    own_tables: bool
    """A JPEG's quantisation tables are none of libjpeg's, as those of cameras and Photoshop."""
    subsampling: str
    """Of a JPEG's colour: ``4:2:0`` ...; ``none`` of a grey one, else empty."""
    exif: bool
    icc: bool
    other_tags: bool
    """Comments, text, XMP, resolution."""


def read_metadata(data: bytes, limits: Limits | None = None) -> Metadata:
    """Read headers only.

    Raises:
        bundle.errors.ImageError: it is no image we take.
    """
    facts = EncodedImage(data, limits or Limits()).facts  # so that the same images count as readable everywhere
    with Image.open(io.BytesIO(data)) as image:
        quality, own_tables = jpeg_quality(image)
        return Metadata(
            format=facts.format,
            mode=image.mode,
            width=facts.width,
            height=facts.height,
            bytes=facts.bytes,
            coding=_coding(image, data),
            quality=quality,
            own_tables=own_tables,
            subsampling=_subsampling(image),
            exif=bool(image.info.get("exif")),
            icc=bool(image.info.get("icc_profile")),
            other_tags=any(
                key in _TAGS or isinstance(value, str) or (key == "dpi" and "exif" not in image.info)
                for key, value in image.info.items()
            ),
        )


def jpeg_quality(image: Image.Image) -> tuple[int, bool]:
    """The quality (1 to 100) whose libjpeg tables are nearest, and whether they differ; (0, False) for no JPEG.

    The distance is the mean of ``|log2(q / q_libjpeg)|`` over luminance and, where there is one, colour: it is steps'
    ratios that count. Of equally near qualities (1 and 2 quantise alike) the highest.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
        return 0, False
    tables = np.array([image.quantization[number] for number in sorted(image.quantization)][:2], np.float64)
    reference = _libjpeg_tables()[:, : len(tables)]
    distances = np.abs(np.log2(np.maximum(tables, 1) / reference)).mean(axis=(1, 2))
    best = len(distances) - 1 - int(distances[::-1].argmin())
    return best + 1, bool(distances[best] > 0)


@dataclass(frozen=True, eq=False)
class MetadataTable:
    """Metadata of N images as numbers."""

    names: tuple[str, ...]
    """Of the groups that columns belong to: ``format``, ``file size`` ..."""
    group: tuple[int, ...]
    """F indices into ``names``: which group each column belongs to."""
    values: npt.NDArray[np.float32]
    """``float32[N, F]``."""

    def of(self, name: str) -> npt.NDArray[np.float32]:
        """The columns of one group."""
        return self.values[:, [self.names[group] == name for group in self.group]]


GROUPS: Final = {
    "format and coding": ("format", "coding"),
    "mode": ("mode",),
    "width and height": ("width", "height"),
    "JPEG quality": ("quality", "own_tables"),
    "subsampling": ("subsampling",),
    "EXIF, profile, tags": ("exif", "icc", "other_tags"),
    "file size": ("bytes", "bits a pixel"),
}
"""What is judged together, and its fields."""

_WORDS: Final = {
    "format": ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"),
    "coding": ("progressive", "baseline", "lossy", "lossless", "interlaced"),
    "mode": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"),
    "subsampling": ("4:4:4", "4:2:2", "4:2:0", "none"),
}


def tabulate(images: list[Metadata]) -> MetadataTable:
    """Words as one column each (others are all zero), the rest as they are; both sizes of a file as logarithms."""
    columns: list[npt.NDArray[np.float64]] = []
    group: list[int] = []
    for number, names in enumerate(GROUPS.values()):
        for name in names:
            new = _columns(images, name)
            columns += new
            group += [number] * len(new)
    return MetadataTable(tuple(GROUPS), tuple(group), np.stack(columns, axis=1).astype(np.float32))


def _columns(images: list[Metadata], name: str) -> list[npt.NDArray[np.float64]]:
    if name == "bytes":
        return [np.log2([image.bytes for image in images])]
    if name == "bits a pixel":
        return [np.log2([8 * image.bytes / (image.width * image.height) for image in images])]
    values: list[Any] = [getattr(image, name) for image in images]
    if name in _WORDS:
        return [np.array([value == word for value in values], np.float64) for word in _WORDS[name]]
    return [np.array(values, np.float64)]


def _coding(image: Image.Image, data: bytes) -> str:
    match image.format:
        case "JPEG" | "MPO":
            return "progressive" if image.info.get("progressive") else "baseline"
        case "WEBP":  # the chunk of the pixels, after those of an extended header
            return "lossless" if b"VP8L" in data[12:] and b"VP8 " not in data[12:4096] else "lossy"
        case "PNG":
            return "interlaced" if image.info.get("interlace") else ""
        case _:
            return ""


def _subsampling(image: Image.Image) -> str:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return ""
    if len(image.layer) == 1:
        return "none"
    return _SAMPLING.get(JpegImagePlugin.get_sampling(image), "other")


@cache
def _libjpeg_tables() -> npt.NDArray[np.float64]:
    """``float64[100, 2, 64]``, luminance and colour of the qualities 1 to 100, as the library itself writes them."""
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables.append([image.quantization[0], image.quantization[1]])
    return np.array(tables, np.float64)
