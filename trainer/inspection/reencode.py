"""Copies a data set with all files alike: one format, quality and size for all classes, no tags.

The metadata of the copy tell nothing about the classes. Its pixels keep the traces of an earlier compression: the grid
of a JPEG survives in a PNG, and weaker in another JPEG.
"""

import csv
import io
import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePath
from typing import Final

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import decode, decoder_version, make_views
from bundle.store import whole_directory
from trainer.choices import Fit, ImageFormat
from trainer.data.entries import Entry, is_image
from trainer.data.folder import UnreadableImage, read_each
from trainer.data.layouts import Layout, Listing, list_images
from trainer.data.output import check_free
from trainer.data.shards import open_shard, sample_key
from trainer.errors import DataMalformed, DataMissing, OutputExists, TooManyUnreadable

REPORT: Final = "reencode.json"
_DEEPEST: Final = 200
"""Folders in one another that are written: Python makes and removes them recursively."""
_SUFFIXES: Final[dict[ImageFormat, str]] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}


class Reencoding(BaseModel):
    """How to write images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: ImageFormat
    quality: int = Field(default=95, ge=1, le=100)
    """The quality of JPEG (4:2:0, libjpeg's tables) and WebP; PNG has none."""
    size: int | None = Field(default=None, ge=1, le=4096)
    """Side of a square, in pixels; None keeps sizes."""
    fit: Fit = "crop"
    """``crop`` takes the centre as stored and leaves out smaller images; ``resize`` blurs the traces of generators."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """A single view of ``size``; None to keep sizes."""
        if self.size is None:
            return None
        if self.fit == "resize":
            return Preprocessing(views=(View(resize=Resize(mode="exact", size=self.size)),))
        return Preprocessing(views=(View(crop=Crop(mode="centre", size=self.size)),))


class Report(BaseModel):
    """``reencode.json``, beside the images."""

    model_config = ConfigDict(frozen=True)

    reencoding: Reencoding
    layout: Layout
    written: int
    too_small: tuple[str, ...]
    unreadable: tuple[str, ...]
    encoder: str


def reencode(
    root: Path,
    out: Path,
    reencoding: Reencoding,
    *,
    layout: Layout | None = None,
    max_unreadable: int = 20,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Report:
    """Write all images of ``root`` to the folder ``out``, in the same layout, upright and without tags.

    Names keep all but their suffix. Shards keep their other members. ``out`` appears when it is complete.

    Args:
        root: folder, list or shard.
        out: the folder to make.
        reencoding: format, quality and size.
        layout: the layout of ``root``; None to recognise it.
        max_unreadable: more unreadable images than this are an error.
        force: replace what is at ``out``.
        progress: called with the number of images done and their total.

    Raises:
        OutputExists, OutputUnwritable: see ``check_free``; or ``out`` overlaps with ``root``.
        DataMissing, DataMalformed: see ``layouts.list_images``; or no image could be written, a list names files
            outside of its folder, or images lie in hundreds of folders.
        TooManyUnreadable: names the first unreadable images.
    """
    check_free(out, force=force)
    listing = list_images(root, layout)
    if not listing.entries:
        raise DataMissing(f"{root}: no images to write")
    source, target = listing.root.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise OutputExists(f"{out}: overlaps with {listing.root}; choose a place beside it")
    names = _new_paths(listing, reencoding)
    written: list[Entry] = []
    too_small: list[str] = []
    unreadable: list[UnreadableImage] = []
    with whole_directory(out) as staging:
        results = (
            _write_shards(listing, staging, reencoding)
            if listing.layout == "shards"
            else _write_files(listing, names, staging, reencoding)
        )
        for number, (entry, result) in enumerate(zip(listing.entries, results, strict=True), 1):
            if isinstance(result, UnreadableImage):
                unreadable.append(result)
                if len(unreadable) > max_unreadable:
                    first = "; ".join(f"{bad.path}: {bad.reason}" for bad in unreadable[:5])
                    raise TooManyUnreadable(f"{root}: more than {max_unreadable} unreadable images, first {first}")
            elif result is None:
                too_small.append(entry.path.as_posix())
            else:
                written.append(entry)
            progress(number, len(listing.entries))
        if not written:
            first = f", first {unreadable[0].path}: {unreadable[0].reason}" if unreadable else ""
            raise DataMissing(
                f"{root}: no image could be written ({len(too_small)} too small, {len(unreadable)} unreadable{first})"
            )
        if listing.layout == "list":
            _write_list(staging / root.name, [(names[entry.path], entry) for entry in written])
        report = Report(
            reencoding=reencoding,
            layout=listing.layout,
            written=len(written),
            too_small=tuple(too_small),
            unreadable=tuple(f"{bad.path}: {bad.reason}" for bad in unreadable),
            encoder=decoder_version(),
        )
        (staging / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
    return report


def encode(data: bytes, reencoding: Reencoding) -> bytes | None:
    """Decode an image and encode it again; None if it is too small for the crop.

    Raises:
        bundle.errors.ImageError: it cannot be decoded.
        OSError: the format cannot hold the image.
    """
    decoded = decode(data)
    preprocessing = reencoding.preprocessing
    if preprocessing is None:
        image = decoded.upright()
    else:
        views = make_views(decoded, preprocessing)
        if len(views) == 0:
            return None
        image = Image.fromarray(views[0].copy())
    image.info.clear()  # otherwise Pillow would write profiles and comments
    buffer = io.BytesIO()
    try:
        match reencoding.format:
            case "jpeg":
                image.save(buffer, "JPEG", quality=reencoding.quality, subsampling="4:2:0")
            case "webp":
                image.save(buffer, "WEBP", quality=reencoding.quality, method=4)
            case "png":
                image.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise OSError(f"{image.width} x {image.height} pixels cannot be {reencoding.format}: {error}") from error
    return buffer.getvalue()


def _new_paths(listing: Listing, reencoding: Reencoding) -> dict[Path, Path]:
    if outside := [e.path for e in listing.entries if e.path.is_absolute() or ".." in e.path.parts]:
        raise DataMalformed(f"{listing.root}: {outside[0]} lies outside of the list's folder; copy it there first")
    if deep := [e.path for e in listing.entries if len(e.path.parts) > _DEEPEST]:
        raise DataMalformed(f"{listing.root}: {Path(*deep[0].parts[:3])}/... lies too deep, move it up")
    names = _new_names([entry.path.as_posix() for entry in listing.entries], reencoding)
    return {Path(old): Path(new) for old, new in names.items()}


def _new_names(names: Collection[str], reencoding: Reencoding, taken: Collection[str] = ()) -> dict[str, str]:
    """Old name -> name with the new suffix in place of the old one, or behind it where the former is taken.

    Raises:
        DataMalformed: both are taken.
    """
    suffix = _SUFFIXES[reencoding.format]
    longer: set[str] = set()
    while True:
        new = {name: (name if name in longer else posixpath.splitext(name)[0]) + suffix for name in names}
        counts = Counter([*new.values(), *taken])
        clashing = {name for name in new if counts[new[name]] > 1}
        if clashing <= longer:
            break
        longer |= clashing
    if clashing:
        name = min(clashing)
        raise DataMalformed(f"{name}: cannot become {new[name]}, which is another file; rename one of them")
    return new


def _encoded(entries: Sequence[Entry], reencoding: Reencoding) -> Iterator[bytes | UnreadableImage | None]:
    return read_each([(e.path, e.extent) for e in entries], lambda extent: encode(extent.read(), reencoding))


def _write_files(
    listing: Listing, names: Mapping[Path, Path], staging: Path, reencoding: Reencoding
) -> Iterator[bytes | UnreadableImage | None]:
    for entry, data in zip(listing.entries, _encoded(listing.entries, reencoding), strict=True):
        if isinstance(data, bytes):
            file = staging / names[entry.path]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        yield data


def _write_shards(listing: Listing, staging: Path, reencoding: Reencoding) -> Iterator[bytes | UnreadableImage | None]:
    """Write each shard from front to back; other members are copied, except other images of samples left out."""
    encoded = _encoded(listing.entries, reencoding)
    for shard, entries in groupby(listing.entries, lambda entry: entry.extent.file):
        starts = {entry.extent.start for entry in entries}
        copy = staging / shard.relative_to(listing.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open_shard(shard) as old, tarfile.open(copy, "w") as new:
            members = [member for member in old if member.isfile()]
            images = [member.name for member in members if member.offset_data in starts]
            others = [member.name for member in members if member.offset_data not in starts]
            names = _new_names(images, reencoding, others)
            for _, group in groupby(members, sample_key):
                sample = list(group)
                made = {member: next(encoded) for member in sample if member.offset_data in starts}
                complete = all(isinstance(data, bytes) for data in made.values())
                for member in sample:
                    data = made.get(member)
                    if isinstance(data, bytes):
                        fresh = tarfile.TarInfo(names[member.name])
                        fresh.size = len(data)
                        new.addfile(fresh, io.BytesIO(data))
                    elif member not in made and (complete or not is_image(PurePath(member.name))):
                        new.addfile(member, old.extractfile(member))
                yield from made.values()


def _write_list(file: Path, images: Sequence[tuple[Path, Entry]]) -> None:
    rows = [
        {"path": name.as_posix(), "label": entry.label, **({"split": entry.split} if entry.split else {})}
        for name, entry in images
    ]
    match file.suffix.lower():
        case ".csv":
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, ["path", "label", "split"], restval="")
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case _:
            file.write_text(json.dumps(rows, indent=1) + "\n")
