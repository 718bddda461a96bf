"""How a data set is laid out on disk: which images it has, and what each one's class and split are.

Nothing is decoded here. The layouts, and how each is recognised:

===============  ==========================================================================================
``folders``      ``[SPLIT/]CLASS/...``: where nothing else fits; images without sub-folders are one class, named for
                 their folder
``forensynths``  ``[SPLIT/][GENERATOR/][CATEGORY/]{0_real,1_fake}/...`` (Wang et al., CVPR 2020): all images lie below
                 such folders
``genimage``     ``[GENERATOR/]{train,val}/{nature,ai}/...`` (Zhu et al., NeurIPS 2023): likewise
``list``         a CSV file with the columns path, label and optionally split; or a JSON array, or JSON Lines, of
                 objects with these keys. Paths are relative to the list. Recognised by ``.csv``, ``.json``, ``.jsonl``
``shards``       WebDataset: ``.tar`` files, in the folder or in one for each split, or a single one
===============  ==========================================================================================

In ForenSynths and GenImage all photographs are one class, ``real``, and each generator's images are one that is named
for it (``fake`` where there is no such folder).
"""

import csv
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, get_args

from trainer.errors import DataMalformed, DataMissing, SplitUnknown

Layout = Literal["folders", "forensynths", "genimage", "list", "shards"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)

SPLITS: Final = {name: name for name in ("train", "val", "calib", "test")} | {"valid": "val", "validation": "val"}
REAL: Final = "real"
"""What photographs are called where the layout has a word of its own for them."""

_PAIRS: Final[dict[Literal["forensynths", "genimage"], tuple[str, str]]] = {
    "forensynths": ("0_real", "1_fake"),
    "genimage": ("nature", "ai"),
}
"""The folders of real and of generated images."""
_LISTS: Final = (".csv", ".json", ".jsonl")
_IMAGES: Final = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "avif"})
_LSUN: Final = frozenset(
    "airplane bicycle bird boat bottle bus car cat chair cow diningtable "  # noqa: SIM905  easier to read without quotes
    "dog horse motorbike person pottedplant sheep sofa train tvmonitor".split()
)
"""What ForenSynths' training images show: their folders stand where its test images have the generator's."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an image's bytes lie: a file, or a stretch of a shard."""

    file: Path
    start: int = 0
    length: int | None = None
    """Bytes; None for all."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: the file cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read() if self.length is None else file.read(self.length)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a data set."""

    path: Path
    """Its name: relative to the data set's folder, where that is possible; ``SHARD/MEMBER`` in a shard."""
    extent: Extent
    label: str
    split: str | None = None
    """``train``, ``val``, ``calib`` or ``test``."""
    generator: str | None = None
    """Whose image, or whose counterpart, where the layout says so."""
    category: str = ""
    """What it shows, where the layout says so."""


@dataclass(frozen=True, eq=False)
class Listing:
    """All images of a data set, in an order that is the same on every machine."""

    root: Path
    """The folder that paths are relative to."""
    layout: Layout
    entries: tuple[Entry, ...]

    @property
    def splits(self) -> tuple[str | None, ...]:
        """Those that there are, in their usual order; None for images outside of any."""
        found = {entry.split for entry in self.entries}
        return tuple(split for split in (None, *dict.fromkeys(SPLITS.values())) if split in found)

    def of(self, split: str | None) -> tuple[Entry, ...]:
        """The images of one split; None where there is only one.

        Raises:
            SplitUnknown: there is no such split, or several and none was named.
        """
        if split is None and len(self.splits) <= 1:
            return self.entries
        chosen = tuple(entry for entry in self.entries if entry.split == split)
        if split is None or not chosen:
            found = ", ".join(str(name) for name in self.splits if name) or "none"
            asked = "name one" if split is None else f"none is {split!r}"
            raise SplitUnknown(f"{self.root}: {asked} of its splits ({found})")
        return chosen


def list_images(root: Path, layout: Layout | None = None) -> Listing:
    """List a data set, without opening its images.

    Args:
        root: its folder; or a list, or a single shard.
        layout: how it is laid out; None to recognise it.

    Raises:
        DataMissing: nothing there.
        DataMalformed: a list or a shard is not as it should be, or the layout is another.
    """
    if root.is_file():
        layout = layout or ("list" if root.suffix in _LISTS else "shards")
        entries = _listed(root) if layout == "list" else _sharded(root.parent, [root.relative_to(root.parent)])
        return _some(root, Listing(root.parent, layout, tuple(entries)))
    if not root.is_dir():
        raise DataMissing(f"{root}: no such folder")
    files = sorted(_walk(root), key=lambda path: path.parts)
    layout = layout or _recognise(files)
    match layout:
        case "folders":
            entries = _by_folder(root, files)
        case "forensynths" | "genimage":
            entries = _by_kind(root, files, layout)
        case "shards":
            entries = _sharded(root, [path for path in files if path.suffix == ".tar"])
        case "list":
            raise DataMalformed(f"{root}: a folder; name the list itself ({', '.join(_LISTS)})")
    return _some(root, Listing(root, layout, tuple(entries)))


def _some(root: Path, listing: Listing) -> Listing:
    # Sub-folders without files are the business of whoever needs classes, and says so better.
    if not listing.entries and listing.layout != "folders":
        raise DataMissing(f"{root}: no images of the layout {listing.layout!r}")
    return listing


def _walk(root: Path) -> Iterator[Path]:
    """Files below ``root``, relative to it; names that begin with a dot are ignored."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(folder).relative_to(root)
        yield from (here / name for name in files if not name.startswith("."))


def _recognise(files: Iterable[Path]) -> Layout:
    images = [path.parts[:-1] for path in files if _is_image(path)]
    if not images and any(path.suffix == ".tar" for path in files):
        return "shards"
    for layout, kinds in _PAIRS.items():
        if images and all(any(name in kinds for name in folders) for folders in images):
            return layout
    return "folders"


def _is_image(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in _IMAGES


def _by_folder(root: Path, files: list[Path]) -> Iterator[Entry]:
    inside = [path for path in files if len(path.parts) > 1]
    # Files beside the class folders, a README for instance, say nothing.
    splits = _first_is_split([path for path in inside if len(path.parts) > 2 or _is_image(path)], 2)
    if splits:
        inside = [path for path in inside if len(path.parts) > 2]
    full = {path.parts[: 1 + splits] for path in inside}
    for folder in sorted(root.glob("*/*" if splits else "*")):
        place = folder.relative_to(root).parts
        if folder.is_dir() and place not in full and not any(name.startswith(".") for name in place):
            raise DataMissing(f"{folder}: no image in this class; fill it or remove the folder")
    if not inside and any(_is_image(path) for path in files):
        name = root.name or root.resolve().name  # Path(".") has none
        yield from (Entry(path, Extent(root / path), name) for path in files if _is_image(path))
    for path in inside:
        split, *folders = path.parts[:-1] if splits else ("", *path.parts[:-1])
        category = "/".join(folders[1:])
        yield Entry(path, Extent(root / path), folders[0], SPLITS.get(split), category=category)


def _by_kind(root: Path, files: list[Path], layout: Literal["forensynths", "genimage"]) -> Iterator[Entry]:
    inside = [path for path in files if not set(_PAIRS[layout]).isdisjoint(path.parts[:-1])]
    first = layout == "forensynths" and _first_is_split(inside, 2)
    taken = [_take_apart(path, layout, first=first) for path in inside]
    categories = _LSUN | {above[1] for _, _, above, _ in taken if len(above) > 1}
    for path, (split, real, above, below) in zip(inside, taken, strict=True):
        generator, category = (
            (None, above) if above and above[0] in categories else (next(iter(above), None), above[1:])
        )
        yield Entry(
            path,
            Extent(root / path),
            REAL if real else generator or "fake",
            split,
            generator,
            "/".join((*category, *below)),
        )


def _take_apart(
    path: Path, layout: Literal["forensynths", "genimage"], *, first: bool
) -> tuple[str | None, bool, tuple[str, ...], tuple[str, ...]]:
    """Split, whether it is real, folders above (without the split's) and below the one that says so.

    ForenSynths' splits come ``first``, GenImage's last.
    """
    folders = path.parts[:-1]
    at = next(index for index, name in enumerate(folders) if name in _PAIRS[layout])
    above, below = folders[:at], folders[at + 1 :]
    split = None
    if first:
        split, above = SPLITS[above[0]], above[1:]
    elif layout == "genimage" and above and above[-1] in SPLITS:
        split, above = SPLITS[above[-1]], above[:-1]
    return split, folders[at] == _PAIRS[layout][0], above, below


def _first_is_split(paths: list[Path], folders: int) -> bool:
    """Whether all lie in folders named as splits, which have folders themselves: one such name may be a class."""
    return bool(paths) and all(path.parts[0] in SPLITS and len(path.parts) > folders for path in paths)


def _listed(file: Path) -> Iterator[Entry]:
    for number, row in enumerate(_rows(file), 1):
        path, label, split = (row.get(key) if isinstance(row, dict) else None for key in ("path", "label", "split"))
        if not isinstance(path, str) or not path or label in {None, ""}:
            raise DataMalformed(f"{file}: image {number} needs a path and a label, got {json.dumps(row)[:80]}")
        if split and split not in SPLITS:
            raise DataMalformed(f"{file}: image {number} has the split {split!r}, known are {', '.join(SPLITS)}")
        yield Entry(Path(path), Extent(file.parent / path), str(label), SPLITS[split] if split else None)


def _rows(file: Path) -> Iterable[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        raise DataMalformed(f"{file}: no list of images: {error}") from error
    if not isinstance(rows, list):
        raise DataMalformed(f"{file}: needs an array of objects with the keys path and label")
    return rows


def _sharded(root: Path, shards: list[Path]) -> Iterator[Entry]:
    for shard in shards:
        try:
            with tarfile.open(root / shard, "r:") as tar:
                yield from _samples(root, shard, tar)
        except (OSError, tarfile.TarError) as error:
            raise DataMalformed(f"{root / shard}: no plain tar file: {error} (a compressed one: unpack it)") from error


def _samples(root: Path, shard: Path, tar: tarfile.TarFile) -> Iterator[Entry]:
    """WebDataset's rule: successive members whose names are alike up to the first dot belong together."""
    split = next((SPLITS[word] for word in re.split(r"[-_./]", shard.as_posix()) if word in SPLITS), None)
    for key, members in groupby((member for member in tar if member.isfile()), lambda member: _key(member.name)):
        parts = {member.name[len(key) + 1 :].lower(): member for member in members}
        image = next((member for end, member in parts.items() if end.rpartition(".")[2] in _IMAGES), None)
        if image is None:
            continue
        label = _label(root / shard, tar, key, parts)
        if label is None:
            raise DataMalformed(f"{root / shard}: {key} has no label: no .cls, no label in its .json, no folder")
        yield Entry(shard / image.name, Extent(root / shard, image.offset_data, image.size), label, split)


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _label(shard: Path, tar: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> str | None:
    if "cls" in parts:
        return _content(tar, parts["cls"]).decode().strip()
    if "json" in parts:
        try:
            described = json.loads(_content(tar, parts["json"]))
        except ValueError as error:
            raise DataMalformed(f"{shard}: {parts['json'].name}: not JSON: {error}") from error
        named = [described[name] for name in ("label", "cls", "class") if name in described]
        if named:
            return str(named[0])
    return PurePosixPath(key).parent.name or None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # asked for regular files only
    return file.read()
