"""What is in a data set, and what in it would make a result look better than it is."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from bundle.preprocess import decode, pixels_digest
from trainer.data import Unreadable, read_each
from trainer.duplicates import NEAR, Duplicates, find_duplicates, perceptual_hash
from trainer.errors import DataMissing
from trainer.layouts import Entry, Extent, Layout, list_images
from trainer.metadata import Metadata, read_metadata, tabulate
from trainer.separation import Separation, separate


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class ClassFacts(_Value):
    """What the images of one class are like, over all splits. Counters hold the commonest first."""

    name: str
    images: dict[str, int]
    """Split -> number; the split is empty where there are none."""
    unreadable: int
    sizes: dict[str, int]
    """``WIDTH x HEIGHT``, as stored."""
    formats: dict[str, int]
    """With the coding: ``JPEG baseline``, ``WEBP lossless``."""
    modes: dict[str, int]
    qualities: dict[str, int]
    """Of JPEGs; with a ``~`` where the tables are not libjpeg's and it is only the nearest."""
    subsamplings: dict[str, int]
    """Of JPEGs."""
    exif: int
    icc: int
    bytes: tuple[int, int, int]
    """Least, median, most."""


class Broken(_Value):
    """An image that is left out."""

    path: str
    reason: str


class Inspection(_Value):
    """What ``trainer inspect`` found; ``--json`` prints it."""

    root: str
    layout: Layout
    images: int
    """That can be read."""
    splits: tuple[str, ...]
    classes: tuple[ClassFacts, ...]
    unreadable: tuple[Broken, ...]
    same_file: Duplicates
    """Equal bytes."""
    same_pixels: Duplicates
    """Equal pixels, whatever the container."""
    near: Duplicates
    """Perceptual hashes that differ in a few bits."""
    metadata: Separation | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is kept of an image."""

    metadata: Metadata
    file: int
    pixels: int
    """The first 64 bits of a sha256 each."""
    picture: int
    """Perceptual hash."""


def inspect(
    root: Path,
    layout: Layout | None = None,
    real: Sequence[str] = ("real",),
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Inspection:
    """Read every image of a data set once.

    Args:
        root: the folder, list or shard; all its splits are looked at.
        layout: how it is laid out; None to recognise it.
        real: classes that hold photographs.
        progress: called with the number of images read and their total.

    Raises:
        DataMissing: no image that can be read.
        DataMalformed: see ``layouts.list_images``.
    """
    listing = list_images(root, layout)
    if not listing.entries:
        raise DataMissing(f"{root}: no images here; a data set has a sub-folder for each class")
    entries: list[Entry] = []
    looked: list[_Looked] = []
    unreadable: list[tuple[Entry, Unreadable]] = []
    seen = read_each([(entry.path, entry.extent) for entry in listing.entries], _look_at)
    for number, (entry, found) in enumerate(zip(listing.entries, seen, strict=True), 1):
        if isinstance(found, Unreadable):
            unreadable.append((entry, found))
        else:
            entries.append(entry)
            looked.append(found)
        progress(number, len(listing.entries))
    if not entries:
        raise DataMissing(f"{root}: none of its {len(unreadable)} files is an image that can be read")
    classes = tuple(sorted({entry.label for entry in listing.entries}))
    splits = tuple(split or "" for split in listing.splits)
    labels = np.array([classes.index(entry.label) for entry in entries], np.int64)
    split_of = np.array([splits.index(entry.split or "") for entry in entries], np.int64)

    def doubles(hashes: list[int], distance: int = 0) -> Duplicates:
        names = [entry.path.as_posix() for entry in entries]
        return find_duplicates(np.array(hashes, np.uint64), split_of, labels, splits, names, distance)

    facts = tuple(
        _facts(
            name,
            [(entry, image.metadata) for entry, image in zip(entries, looked, strict=True) if entry.label == name],
            sum(entry.label == name for entry, _ in unreadable),
        )
        for name in classes
    )
    inspection = Inspection(
        root=str(root),
        layout=listing.layout,
        images=len(entries),
        splits=splits,
        classes=facts,
        unreadable=tuple(Broken(path=bad.path.as_posix(), reason=bad.reason) for _, bad in unreadable),
        same_file=doubles([image.file for image in looked]),
        same_pixels=doubles([image.pixels for image in looked]),
        near=doubles([image.picture for image in looked], NEAR),
        metadata=separate(tabulate([image.metadata for image in looked]), labels, classes, frozenset(real)),
        warnings=(),
    )
    return inspection.model_copy(update={"warnings": tuple(_warnings(inspection))})


def _look_at(extent: Extent) -> _Looked:
    data = extent.read()
    image = decode(data).image
    metadata = read_metadata(data)
    file, pixels = hashlib.sha256(data).hexdigest(), pixels_digest(np.asarray(image))
    return _Looked(metadata, int(file[:16], 16), int(pixels[:16], 16), perceptual_hash(image))


def _facts(name: str, images: list[tuple[Entry, Metadata]], unreadable: int) -> ClassFacts:
    data = [metadata for _, metadata in images]
    sizes = sorted(m.bytes for m in data) or [0]
    jpegs = [m for m in data if m.quality]
    return ClassFacts(
        name=name,
        images=dict(Counter(entry.split or "" for entry, _ in images)),
        unreadable=unreadable,
        sizes=_counted(f"{m.width} x {m.height}" for m in data),
        formats=_counted(f"{m.format} {m.coding}".strip() for m in data),
        modes=_counted(m.mode for m in data),
        qualities=_counted(f"{'~' if m.own_tables else ''}{m.quality}" for m in jpegs),
        subsamplings=_counted(m.subsampling for m in jpegs),
        exif=sum(m.exif for m in data),
        icc=sum(m.icc for m in data),
        bytes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]),
    )


def _counted(words: Iterator[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _warnings(inspection: Inspection) -> Iterator[str]:
    known = inspection.metadata
    if known is not None and known.alarming:
        best = known.groups[0]
        advice = (
            "it follows from what the images show and how sharp they are: state this floor beside every result"
            if best.name == "file size"
            else "`trainer reencode` makes containers alike"
        )
        yield (
            f"metadata alone tell the classes apart: {known.balanced_accuracy:.1%} balanced accuracy without a look at "
            f"the pixels, by chance {known.chance:.1%} (p {known.p_value:.3f}); {best.name} alone reaches "
            f"{best.balanced_accuracy:.1%}; {advice}"
        )
    kinds = (("equal files", inspection.same_file), ("equal pixels", inspection.same_pixels))
    for what, found in (*kinds, ("near duplicates", inspection.near)):
        for split, others in found.other_split.items():
            for other, count in others.items():
                yield f"{what}: {count} images of {split or 'no split'} are in {other or 'no split'}, too"
    if inspection.same_pixels.other_class:
        yield f"equal pixels in different classes: {inspection.same_pixels.other_class} images"
    if inspection.unreadable:
        first = inspection.unreadable[0]
        yield f"{len(inspection.unreadable)} files cannot be read, first {first.path}: {first.reason}"
