"""Entries of a data set: name, location, class and split of an image; and which files may be images."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from bundle.files import IMAGE_BYTES, read_regular

REAL: Final = "real"
"""Class of photographs, in training folders and in layouts that have a word of their own for them."""
SPLITS: Final = {name: name for name in ("train", "val", "calib", "test")} | {"valid": "val", "validation": "val"}
IMAGES: Final = frozenset(
    "apng avif bmp dib gif heic heif jfif jp2 jpe "  # noqa: SIM905  easier to read without quotes
    "jpeg jpg jxl mpo png tif tiff webp".split()
)
"""Suffixes of images, also of formats that cannot be decoded: reading them is an error."""
ARCHIVES: Final = frozenset({"7z", "bz2", "gz", "rar", "tgz", "xz", "zip", "zst"})
_NO_IMAGES: Final = ARCHIVES | frozenset(
    "caption cls csv db html ini json jsonl log md npy npz parquet pdf pkl pt pth "  # noqa: SIM905  likewise
    "py safetensors sh tar tsv txt xml yaml yml".split()
)


@dataclass(frozen=True, slots=True)
class Extent:
    """Location of an image's bytes: a file, or a stretch of a shard."""

    file: Path
    start: int = 0
    length: int | None = None
    """Number of bytes; None for all."""

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            OSError: the file cannot be read, is no regular file, or the image has more than ``IMAGE_BYTES``.
        """
        return read_regular(self.file, IMAGE_BYTES, self.start, self.length)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a data set."""

    path: Path
    """Name of the image: relative to the data set's folder, where that is possible; ``SHARD/MEMBER`` in a shard."""
    extent: Extent
    label: str
    split: str | None = None
    """``train``, ``val``, ``calib`` or ``test``."""
    generator: str | None = None
    """Generator of the image, or of the images that it is compared with, where the layout gives one."""
    category: str = ""
    """Content of the image, where the layout gives it."""


def is_image(path: PurePath) -> bool:
    """Whether its suffix is that of an image."""
    return suffix(path) in IMAGES


def may_be_image(path: PurePath) -> bool:
    """Whether its suffix is not known to be that of something else."""
    return suffix(path) not in _NO_IMAGES


def suffix(path: PurePath) -> str:
    """Suffix in lower case, without its dot."""
    return path.suffix.lower().lstrip(".")


def is_label(value: object) -> bool:
    """Whether a list or a shard may give this as a class: text, or an integer."""
    return bool(value) and is_text(value) if isinstance(value, str) else type(value) is int


def is_text(value: str) -> bool:
    r"""Whether it can be a name or be written: JSON has halves of characters (``\ud800``), which are neither."""
    try:
        value.encode(errors="surrogateescape")  # paths have such stand-ins for bytes that are not UTF-8
    except UnicodeEncodeError:
        return False
    return True
