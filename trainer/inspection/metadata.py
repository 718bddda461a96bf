"""Reads what an image file tells without its pixels: format, coding, sizes, tags.

If these differ between the classes of a data set, a detector may learn them and nothing about generators: ForenSynths'
photographs are JPEGs, its fakes mostly PNGs.
"""

import io
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from bundle.preprocess import EncodedImage, Limits

_SAMPLING: Final = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_TAGS: Final = frozenset({"comment", "xmp", "photoshop"})
"""Pillow's names of tags. Besides these, strings are a PNG's text, and a resolution may come from EXIF."""

_EFFORTS: Final = ("fastest", "fast", "default", "best")
_PIXELS: Final = {
    "PNG": frozenset({"IHDR", "PLTE", "tRNS", "IDAT", "IEND", "acTL", "fcTL", "fdAT"}),
    "WEBP": frozenset({"VP8", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF"}),
}
"""Chunks that hold the pixels, or that decoding needs."""
_MOST_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of one image."""

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
    """The quality of a JPEG, 1 to 100, by the libjpeg tables nearest to its own; 0 for other formats."""
    own_tables: bool
    """Whether a JPEG's quantisation tables are none of libjpeg's, like those of cameras and Photoshop."""
    subsampling: str
    """Chroma subsampling of a JPEG: ``4:2:0`` ..., or ``none`` for a grey one; empty for other formats."""
    exif: bool
    icc: bool
    other_tags: bool
    """Whether it has comments, text, XMP or a resolution."""
    bits: int
    """Bits of a sample of a PNG; 8 for other formats."""
    effort: str
    """The compression level in the zlib header of a PNG: ``fastest``, ``fast``, ``default``, ``best``; else empty."""
    parts: tuple[str, ...]
    """The names of all parts beside the pixels, sorted: ``caBX`` (C2PA) and other chunks of PNG and WebP; ``APP11``,
    ``COM``, ``DRI`` ... of JPEG; empty for other formats."""

    @property
    def container(self) -> tuple[object, ...]:
        """All metadata but the sizes of image and file."""
        return (
            *(self.format, self.coding, self.effort, self.mode, self.bits, self.quality, self.own_tables),
            *(self.subsampling, self.exif, self.icc, self.other_tags, self.parts),
        )

    @property
    def bare(self) -> bool:
        """Whether the file holds nothing beside the pixels."""
        return not (self.exif or self.icc or self.other_tags or self.parts)


def read_metadata(data: bytes) -> Metadata:
    """Read the metadata of an encoded image, without decoding it.

    Raises:
        bundle.errors.ImageError: it is no image that ``bundle.preprocess`` reads.
    """
    facts = EncodedImage(data, Limits()).facts  # so that the same images count as readable everywhere
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
            bits=data[24] if facts.format == "PNG" else 8,
            effort=_effort(data) if facts.format == "PNG" else "",
            parts=tuple(sorted(set(_parts(facts.format, data)))),
        )


def jpeg_quality(image: Image.Image) -> tuple[int, bool]:
    """The quality (1 to 100) whose libjpeg tables are nearest, and whether they differ; (0, False) for no JPEG.

    The distance is the mean of ``|log2(q / q_libjpeg)|`` over the luminance table and, if there is one, the colour
    table. Among equally near qualities (1 and 2 quantise alike) the highest is taken.
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
    """Metadata of N images as a numeric table."""

    names: tuple[str, ...]
    """The names of the groups that columns belong to: ``format``, ``file size`` ..."""
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
"""Group -> its fields, for the metadata floor beside results."""

INSPECTED: Final = GROUPS | {
    "format and coding": ("format", "coding", "effort"),
    "mode": ("mode", "bits"),
    "width and height": ("width", "height", "multiples"),
    "EXIF, profile, tags": ("exif", "icc", "other_tags", "parts"),
}
"""Group -> its fields, with those that only an inspection uses."""

_WORDS: Final = {
    "format": ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"),
    "coding": ("progressive", "baseline", "lossy", "lossless", "interlaced"),
    "mode": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"),
    "subsampling": ("4:4:4", "4:2:2", "4:2:0", "none"),
    "effort": _EFFORTS,
}


def tabulate(images: list[Metadata], groups: Mapping[str, tuple[str, ...]] = GROUPS) -> MetadataTable:
    """A numeric table of metadata: a column for each word, numbers as they are, file sizes as logarithms.

    A word that is not in ``_WORDS`` is zero in all its columns. ``multiples`` are four columns: whether width and
    height are multiples of 8 and of 64. ``parts`` are one column for each of the ``_MOST_PARTS`` most frequent.
    """
    columns: list[npt.NDArray[np.float64]] = []
    group: list[int] = []
    for number, names in enumerate(groups.values()):
        for name in names:
            new = _columns(images, name)
            columns += new
            group += [number] * len(new)
    return MetadataTable(tuple(groups), tuple(group), np.stack(columns, axis=1).astype(np.float32))


def _columns(images: list[Metadata], name: str) -> list[npt.NDArray[np.float64]]:
    if name == "bytes":
        return [np.log2([image.bytes for image in images])]
    if name == "bits a pixel":
        return [np.log2([8 * image.bytes / (image.width * image.height) for image in images])]
    if name == "multiples":
        sides = np.array([(image.width, image.height) for image in images])
        return [(sides[:, side] % step == 0).astype(np.float64) for side in range(2) for step in (8, 64)]
    if name == "parts":
        known = Counter(part for image in images for part in image.parts).most_common(_MOST_PARTS)
        return [np.array([part in image.parts for image in images], np.float64) for part, _ in known]
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


def _effort(data: bytes) -> str:
    pixels = next((at for name, at in _png_chunks(data) if name == "IDAT"), None)
    return "" if pixels is None or pixels + 2 > len(data) else _EFFORTS[data[pixels + 1] >> 6]


def _parts(form: str, data: bytes) -> Iterator[str]:
    match form:
        case "PNG":
            yield from (name for name, _ in _png_chunks(data) if name not in _PIXELS[form])
        case "WEBP":
            yield from (name for name in _webp_chunks(data) if name not in _PIXELS[form])
        case "JPEG":
            yield from _jpeg_segments(data)


def _png_chunks(data: bytes) -> Iterator[tuple[str, int]]:
    """Names of chunks, and the offsets of their contents."""
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            return
        yield name.decode(), at + 8
        at += length + 12


def _webp_chunks(data: bytes) -> Iterator[str]:
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if not name.strip().isalnum():
            return
        yield name.decode().strip()
        at += 8 + length + length % 2


def _jpeg_segments(data: bytes) -> Iterator[str]:
    """Names of the segments before the pixels that a decoder does not need, except JFIF's, and ``DRI``."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xE1 <= marker <= 0xEF:
            yield f"APP{marker - 0xE0}"
        elif marker in (0xDD, 0xFE):
            yield "DRI" if marker == 0xDD else "COM"
        at += 2 + length


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
