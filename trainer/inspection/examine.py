"""Examines a data set for what would make results on it look better than they are."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from bundle.preprocess import decode, pixels_digest
from bundle.text import counted
from trainer.data.entries import Entry, Extent
from trainer.data.folder import UnreadableImage, read_each
from trainer.data.layouts import Layout, list_images
from trainer.errors import DataMissing
from trainer.inspection.duplicates import NEAR, Duplicates, find_duplicates, perceptual_hash
from trainer.inspection.metadata import INSPECTED, Metadata, read_metadata, tabulate
from trainer.inspection.separation import LEAST_A_CLASS, Separation, separate


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class ClassFacts(_Value):
    """Counts and formats of the images of one class, over all splits. Counters have the most frequent first."""

    name: str
    images: dict[str, int]
    """Split -> number of images; the split is empty if the data set has none."""
    unreadable: int
    sizes: dict[str, int]
    """``WIDTH x HEIGHT``, as stored."""
    formats: dict[str, int]
    """Formats with their coding (``JPEG baseline``, ``WEBP lossless``) or a PNG's compression level (``PNG best``)."""
    modes: dict[str, int]
    """Pillow's modes, with the bits of a sample if not 8."""
    qualities: dict[str, int]
    """Qualities of JPEGs; ``~`` marks the nearest quality if the tables are not libjpeg's."""
    subsamplings: dict[str, int]
    """Chroma subsamplings of JPEGs."""
    exif: int
    icc: int
    other_tags: int
    """Images with comments, text, XMP or a resolution."""
    parts: dict[str, int]
    """Chunks and segments beside the pixels: see ``metadata.Metadata``."""
    bytes: tuple[int, int, int]
    """File sizes: smallest, median, largest."""


class Broken(_Value):
    """An image that cannot be read."""

    path: str
    """Its path; in all names here, bytes that are not UTF-8 are escaped with backslashes."""
    reason: str


class Inspection(_Value):
    """The findings of ``trainer inspect``, as ``--json`` prints them."""

    root: str
    layout: Layout
    images: int
    """The number of images that can be read."""
    splits: tuple[str, ...]
    classes: tuple[ClassFacts, ...]
    unreadable: tuple[Broken, ...]
    same_file: Duplicates
    """Duplicates with equal bytes."""
    same_pixels: Duplicates
    """Duplicates with equal pixels, in any format."""
    near: Duplicates
    """Duplicates whose perceptual hashes differ in a few bits."""
    containers_alike: bool
    """Whether all images have one format, coding, mode and libjpeg tables, and nothing beside the pixels."""
    metadata: Separation | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Looked:
    """The metadata and hashes of an image."""

    metadata: Metadata
    file: int
    pixels: int
    """The first 64 bits of the sha256 of the file, and of the upright pixels."""
    perceptual: int
    """The perceptual hash of the upright pixels."""


def inspect(
    root: Path,
    layout: Layout | None = None,
    real: Sequence[str] = ("real",),
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Inspection:
    """Examine a data set, reading every image once.

    Args:
        root: the folder, list or shard, with all its splits.
        layout: its layout; None to recognise it.
        real: the classes of photographs.
        progress: called with the number of images read and their total.

    Raises:
        DataMissing: no image can be read.
        DataMalformed: see ``layouts.list_images``.
        RealLabelMissing: ``real`` names what is no class.
    """
    listing = list_images(root, layout)
    if not listing.entries:
        raise DataMissing(f"{root}: no images here; a data set has a sub-folder for each class")
    listing.check_real(real)
    listed = [_printable(entry) for entry in listing.entries]
    entries: list[Entry] = []
    looked: list[_Looked] = []
    unreadable: list[tuple[Entry, UnreadableImage]] = []
    seen = read_each([(entry.path, entry.extent) for entry in listing.entries], _look_at)
    for number, (entry, found) in enumerate(zip(listed, seen, strict=True), 1):
        if isinstance(found, UnreadableImage):
            unreadable.append((entry, found))
        else:
            entries.append(entry)
            looked.append(found)
        progress(number, len(listed))
    if not entries:
        raise DataMissing(f"{root}: none of its files ({len(unreadable)}) is an image that can be read")
    classes = tuple(sorted({entry.label for entry in listed}))
    splits = tuple(_text(split or "") for split in listing.splits)
    labels = np.array([classes.index(entry.label) for entry in entries], np.int64)
    split_of = np.array([splits.index(entry.split or "") for entry in entries], np.int64)

    def duplicates(hashes: list[int], distance: int = 0) -> Duplicates:
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
        root=_text(str(root)),
        layout=listing.layout,
        images=len(entries),
        splits=splits,
        classes=facts,
        unreadable=tuple(Broken(path=bad.path.as_posix(), reason=_text(why.reason)) for bad, why in unreadable),
        same_file=duplicates([image.file for image in looked]),
        same_pixels=duplicates([image.pixels for image in looked]),
        near=duplicates([image.perceptual for image in looked], NEAR),
        containers_alike=_alike([image.metadata for image in looked]),
        metadata=separate(
            tabulate([image.metadata for image in looked], INSPECTED), labels, classes, frozenset(map(_text, real))
        ),
        warnings=(),
    )
    return inspection.model_copy(update={"warnings": tuple(_warnings(inspection))})


def _look_at(extent: Extent) -> _Looked:
    data = extent.read()
    image = decode(data).upright()
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
        formats=_counted(_format(m) for m in data),
        modes=_counted(m.mode if m.bits == 8 else f"{m.mode}, {m.bits} bits" for m in data),
        qualities=_counted(f"{'~' if m.own_tables else ''}{m.quality}" for m in jpegs),
        subsamplings=_counted(m.subsampling for m in jpegs),
        exif=sum(m.exif for m in data),
        icc=sum(m.icc for m in data),
        other_tags=sum(m.other_tags for m in data),
        parts=_counted(part for m in data for part in m.parts),
        bytes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]),
    )


def _format(metadata: Metadata) -> str:
    effort = metadata.effort if metadata.effort != "default" else ""
    return " ".join(filter(None, (metadata.format, metadata.coding, effort)))


def _counted(words: Iterator[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _alike(images: list[Metadata]) -> bool:
    return len({m.container for m in images}) == 1 and images[0].bare and not images[0].own_tables


def _printable(entry: Entry) -> Entry:
    split = None if entry.split is None else _text(entry.split)
    return replace(entry, path=Path(_text(str(entry.path))), label=_text(entry.label), split=split)


def _text(name: str) -> str:
    """The name with all that is not UTF-8 (as in file names in Latin-1) escaped with backslashes."""
    return name.encode(errors="backslashreplace").decode()


def _warnings(inspection: Inspection) -> Iterator[str]:
    if inspection.metadata is not None:
        yield from _alarms(inspection.metadata, inspection.containers_alike)
        if not inspection.metadata.enough:
            yield f"too few images ({inspection.metadata.images}) to say what metadata tell"
    few = [facts.name for facts in inspection.classes if sum(facts.images.values()) < LEAST_A_CLASS]
    if few and len(inspection.classes) > 1:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        yield f"too few images (under {LEAST_A_CLASS}) of {', '.join(few[:5])}{more} to say what metadata tell"
    kinds = (("equal files", inspection.same_file), ("equal pixels", inspection.same_pixels))
    for what, found in (*kinds, ("near duplicates", inspection.near)):
        for split, others in found.other_split.items():
            for other, count in others.items():
                which = f"{counted(count, 'image')} of {split or 'no split'} {'is' if count == 1 else 'are'}"
                yield f"{what}: {which} in {other or 'no split'}, too"
    if inspection.same_pixels.other_class:
        yield f"equal pixels in different classes, in any split: {counted(inspection.same_pixels.other_class, 'image')}"
    if inspection.unreadable:
        first = inspection.unreadable[0]
        yield f"{counted(len(inspection.unreadable), 'file')} cannot be read, first {first.path}: {first.reason}"


def _alarms(known: Separation, containers_alike: bool) -> Iterator[str]:
    for what, answer in known.questions.items():
        if answer.alarming:
            yield (
                f"metadata alone tell {what}: {answer.everything.balanced_accuracy:.1%} balanced accuracy without a "
                f"look at the pixels, by chance {answer.chance:.1%} (p {answer.everything.p_value:.3f}); "
                f"{answer.culprit.name} alone reaches {answer.culprit.balanced_accuracy:.1%} "
                f"(p {answer.culprit.p_value:.3f}); {_advice(known, containers_alike)}"
            )


def _advice(known: Separation, containers_alike: bool) -> str:
    if not containers_alike:
        return "`genprint trainer reencode` makes containers alike: do that first and inspect again"
    groups = [group for answer in known.questions.values() for group in answer.groups]
    if any(group.alarming for group in groups if group.name != "file size"):
        return "`genprint trainer reencode --size` makes sides alike: do that first and inspect again"
    return "it follows from the content and sharpness of the images: state this baseline beside every result"
