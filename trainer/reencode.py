"""The same data set with containers alike: one format, quality and size for all classes, no tags.

It takes away what metadata tell of the class. It does not take away what an earlier compression left in the pixels: the
grid of a JPEG survives in a PNG, and weaker in another JPEG.
"""

import csv
import io
import json
import secrets
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import decode, decoder_version, make_views
from bundle.store import replace_directory
from trainer.data import Unreadable, read_each
from trainer.errors import DataMalformed, OutputExists, TooManyUnreadable
from trainer.layouts import Entry, Layout, Listing, list_images

Format = Literal["jpeg", "png", "webp"]
Fit = Literal["crop", "resize"]

REPORT: Final = "reencode.json"
_SUFFIXES: Final[dict[Format, str]] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}


class Reencoding(BaseModel):
    """How images are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG (4:2:0, libjpeg's tables) and WebP; PNG has none."""
    size: int | None = Field(default=None, ge=1, le=4096)
    """Side of a square, in pixels; None keeps sizes."""
    fit: Fit = "crop"
    """The centre as stored, leaving out smaller images; or the whole image, which blurs traces."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """One view of ``size``."""
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
    """Write all images of ``root`` anew to the folder ``out``, in the same layout, upright and without tags.

    Names stay but for their suffix. Shards keep their other members. ``out`` appears when it is complete.

    Args:
        root: folder, list or shard.
        out: the folder to make.
        reencoding: how.
        layout: of ``root``; None to recognise it.
        max_unreadable: broken images that are left out before it is an error.
        force: replace what is at ``out``.
        progress: called with the number of images done and their total.

    Raises:
        OutputExists: ``out`` is there and not empty, and ``force`` is not given; or it overlaps with ``root``.
        DataMissing, DataMalformed: see ``layouts.list_images``; or a list names files outside of its folder.
        TooManyUnreadable: names the first of them.
    """
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out}: exists and is not empty; choose another place or say --force")
    listing = list_images(root, layout)
    source, target = listing.root.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise OutputExists(f"{out}: overlaps with {listing.root}; choose a place beside it")
    names = _new_names(listing, _SUFFIXES[reencoding.format])
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    staging.mkdir()
    write = _write_shards if listing.layout == "shards" else _write_files
    written: list[int] = []
    too_small: list[str] = []
    unreadable: list[Unreadable] = []
    try:
        for number, result in enumerate(write(listing, names, staging, reencoding)):
            name = listing.entries[number].path
            if isinstance(result, Unreadable):
                unreadable.append(result)
                if len(unreadable) > max_unreadable:
                    first = "; ".join(f"{bad.path}: {bad.reason}" for bad in unreadable[:5])
                    raise TooManyUnreadable(f"{root}: more than {max_unreadable} unreadable images, first {first}")
            elif result is None:
                too_small.append(name.as_posix())
            else:
                written.append(number)
            progress(number + 1, len(listing.entries))
        if listing.layout == "list":
            _write_list(staging / root.name, [(names[i], listing.entries[i]) for i in written])
        report = Report(
            reencoding=reencoding,
            layout=listing.layout,
            written=len(written),
            too_small=tuple(too_small),
            unreadable=tuple(f"{bad.path}: {bad.reason}" for bad in unreadable),
            encoder=decoder_version(),
        )
        (staging / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
        replace_directory(out, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def encode(data: bytes, reencoding: Reencoding) -> bytes | None:
    """One image anew; None where it is too small for the crop.

    Raises:
        bundle.errors.ImageError: it cannot be decoded.
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
    image.info.clear()  # Pillow would write profiles and comments again
    buffer = io.BytesIO()
    match reencoding.format:
        case "jpeg":
            image.save(buffer, "JPEG", quality=reencoding.quality, subsampling="4:2:0")
        case "webp":
            image.save(buffer, "WEBP", quality=reencoding.quality, method=4)
        case "png":
            image.save(buffer, "PNG")
    return buffer.getvalue()


def _new_names(listing: Listing, suffix: str) -> tuple[Path, ...]:
    """With the new suffix in place of the old; behind it, where two names would become one."""
    if outside := [e.path for e in listing.entries if e.path.is_absolute() or ".." in e.path.parts]:
        raise DataMalformed(f"{listing.root}: {outside[0]} lies outside of the list's folder; copy it there first")
    bare = Counter(entry.path.with_suffix("") for entry in listing.entries)
    return tuple(
        path.with_suffix(suffix) if bare[path.with_suffix("")] == 1 else path.with_name(path.name + suffix)
        for path in (entry.path for entry in listing.entries)
    )


def _encoded(entries: Sequence[Entry], reencoding: Reencoding) -> Iterator[bytes | Unreadable | None]:
    return read_each([(e.path, e.extent) for e in entries], lambda extent: encode(extent.read(), reencoding))


def _write_files(
    listing: Listing, names: Sequence[Path], staging: Path, reencoding: Reencoding
) -> Iterator[bytes | Unreadable | None]:
    for name, data in zip(names, _encoded(listing.entries, reencoding), strict=True):
        if isinstance(data, bytes):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(data)
        yield data


def _write_shards(
    listing: Listing, names: Sequence[Path], staging: Path, reencoding: Reencoding
) -> Iterator[bytes | Unreadable | None]:
    """Each shard from front to back; members that are no images are copied, also those of images left out."""
    encoded = _encoded(listing.entries, reencoding)
    images = zip(listing.entries, names, strict=True)
    for shard, group in groupby(images, lambda image: image[0].extent.file):
        relative = shard.relative_to(listing.root)
        new_names = {entry.path: name.relative_to(relative).as_posix() for entry, name in group}
        (staging / relative).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(shard, "r:") as old, tarfile.open(staging / relative, "w") as new:
            for member in (member for member in old if member.isfile()):
                path = relative / member.name
                if path not in new_names:
                    new.addfile(member, old.extractfile(member))
                    continue
                data = next(encoded)
                if isinstance(data, bytes):
                    fresh = tarfile.TarInfo(new_names[path])
                    fresh.size = len(data)
                    new.addfile(fresh, io.BytesIO(data))
                yield data


def _write_list(file: Path, images: Sequence[tuple[Path, Entry]]) -> None:
    rows = [
        {"path": name.as_posix(), "label": entry.label, **({"split": entry.split} if entry.split else {})}
        for name, entry in images
    ]
    match file.suffix:
        case ".csv":
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, ["path", "label", "split"], restval="")
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case _:
            file.write_text(json.dumps(rows, indent=1) + "\n")
