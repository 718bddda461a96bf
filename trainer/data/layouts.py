"""Layouts of data sets on disk: the images of a data set, and the class and split of each.

Nothing is decoded here. The layouts, and how each is recognised:

===============  ==========================================================================================
``folders``      ``[SPLIT/]CLASS/...``: where nothing else fits; images without sub-folders are one class, named for
                 their folder
``forensynths``  ``[SPLIT/][GENERATOR/][CATEGORY/]{0_real,1_fake}/...`` (Wang et al., CVPR 2020): all that lies in
                 folders lies below such ones
``genimage``     ``[GENERATOR/]{train,val}/{nature,ai}/...`` (Zhu et al., NeurIPS 2023): likewise
``list``         a CSV file with the columns path, label and optionally split; or a JSON array, or JSON Lines, of
                 objects with these keys. Paths are relative to the list. Recognised by ``.csv``, ``.json``, ``.jsonl``
``shards``       WebDataset: ``.tar`` files, in the folder or in one for each split, or a single one
===============  ==========================================================================================

In ForenSynths and GenImage all photographs are one class, ``real``, and each generator's images are one that is named
for it (``fake`` where there is no such folder). Their splits may stand first or last above the folders of the pair.

Data that fit two layouts are an error that names the files in doubt, never a guess. Files whose suffix is known to be
of something else (captions, tables) are ignored; any other file in a class folder counts as an image.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bundle.documents import parse_json
from bundle.files import read_regular
from bundle.text import brief, has_controls
from trainer.data.entries import (
    ARCHIVES,
    REAL,
    SPLITS,
    Entry,
    Extent,
    is_image,
    is_label,
    is_text,
    may_be_image,
    suffix,
)
from trainer.data.shards import in_shards
from trainer.errors import DataMalformed, DataMissing, RealLabelMissing, SplitUnknown

Layout = Literal["folders", "forensynths", "genimage", "list", "shards"]

_PAIRS: Final[dict[Literal["forensynths", "genimage"], tuple[str, str]]] = {
    "forensynths": ("0_real", "1_fake"),
    "genimage": ("nature", "ai"),
}
"""Names of the folders of real and of generated images."""
_LISTS: Final = ("csv", "json", "jsonl")
_LIST_BYTES: Final = 2**29
"""More than lists of some million images have."""
_LSUN: Final = frozenset(
    "airplane bicycle bird boat bottle bus car cat chair cow diningtable "  # noqa: SIM905  easier to read without quotes
    "dog horse motorbike person pottedplant sheep sofa train tvmonitor".split()
)
"""Contents of ForenSynths' training images: their folders stand where its test images have the generator's."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Images of a data set, in an order that is the same on every machine."""

    root: Path
    """The folder that paths are relative to."""
    layout: Layout
    entries: tuple[Entry, ...]

    @property
    def splits(self) -> tuple[str | None, ...]:
        """Splits that have images, in their usual order; None for images outside of any."""
        found = {entry.split for entry in self.entries}
        return tuple(split for split in (None, *dict.fromkeys(SPLITS.values())) if split in found)

    def of(self, split: str | None) -> tuple[Entry, ...]:
        """Images of one split; None where there is only one.

        Raises:
            SplitUnknown: there is no such split, or there are several and none is named.
        """
        if split is None and len(self.splits) <= 1:
            return self.entries
        chosen = tuple(entry for entry in self.entries if entry.split == split)
        if split is None or not chosen:
            found = ", ".join(str(name) for name in self.splits if name) or "none"
            asked = "name one of its splits" if split is None else f"it has no split {split!r}; its splits:"
            raise SplitUnknown(f"{self.root}: {asked} ({found})")
        return chosen

    def check_real(self, names: Iterable[str]) -> None:
        """Check that the classes that are named as photographs exist; ``real``, the default, need not.

        Raises:
            RealLabelMissing: one does not exist.
        """
        labels = {entry.label for entry in self.entries}
        if unknown := [name for name in names if name != REAL and name not in labels]:
            raise RealLabelMissing(f"{self.root}: --real {unknown[0]}: no such label, only {', '.join(sorted(labels))}")


def list_images(root: Path, layout: Layout | None = None) -> Listing:
    """List a data set, without opening its images.

    Args:
        root: its folder; or a list, or a single shard.
        layout: how it is laid out; None recognises it.

    Raises:
        DataMissing: there are no images.
        DataMalformed: a list or a shard violates its layout, the layout is another, or it might be two.
    """
    if root.is_file():
        return _some(root, _list_file(root, layout))
    if not root.is_dir():
        raise DataMissing(f"{root}: {'neither a folder nor a regular file' if root.exists() else 'no such folder'}")
    files = sorted(walk(root), key=lambda path: path.parts)
    images = [path for path in files if may_be_image(path)]
    shards = [path for path in files if suffix(path) == "tar"]
    archives = [path for path in files if suffix(path) in ARCHIVES]
    if archives and not images and not shards:
        raise DataMalformed(f"{root / archives[0]}: an archive; unpack it (shards are plain .tar files)")
    layout = layout or _recognise(root, images, shards)
    match layout:
        case "folders":
            entries = _by_folder(root, images)
        case "forensynths" | "genimage":
            entries = _by_kind(root, images, layout)
        case "shards":
            entries = in_shards(root, shards)
        case "list":
            raise DataMalformed(f"{root}: a folder; name the list itself (.{', .'.join(_LISTS)})")
    return _some(root, Listing(root, layout, tuple(entries)))


def walk(root: Path) -> Iterator[Path]:
    """List files below a folder, relative to it, through links to folders, but for links back to a folder above.

    Names that begin with a dot are ignored.

    Raises:
        DataMissing: a folder cannot be read.
    """
    folders = [(Path(), _above(root))]
    while folders:  # recursion would not come back from very deep folders
        here, above = folders.pop()
        try:
            status = (root / here).stat()
            if (status.st_dev, status.st_ino) in above:
                continue
            with os.scandir(root / here) as found:
                inside = [(entry.name, _is_folder(entry)) for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise DataMissing(f"{root / here}: cannot be read: {error.strerror}") from error
        for name, is_folder in inside:
            if is_folder:
                folders.append((here / name, above | {(status.st_dev, status.st_ino)}))
            else:
                yield here / name


def _above(root: Path) -> frozenset[tuple[int, int]]:
    """Devices and inodes of the folders above."""
    parents = [folder.stat() for folder in Path(os.path.realpath(root)).parents]
    return frozenset((status.st_dev, status.st_ino) for status in parents)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # `is_dir` of an entry raises where a link leads to itself.
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _some(root: Path, listing: Listing) -> Listing:
    for label in {entry.label for entry in listing.entries}:
        if has_controls(label.encode(errors="ignore").decode()):  # bytes that are no UTF-8 are shown as such
            raise DataMalformed(f"{root}: the class {label!r} has a control character in its name; rename it")
    # Sub-folders without files are reported where classes are counted, with a better message.
    if not listing.entries and listing.layout != "folders":
        raise DataMissing(f"{root}: no images of the layout {listing.layout!r}")
    return listing


def _list_file(file: Path, layout: Layout | None) -> Listing:
    kind = suffix(file)
    if kind in ARCHIVES:
        raise DataMalformed(f"{file}: an archive; unpack it (a shard is a plain .tar file)")
    if layout is None and kind not in {*_LISTS, "tar"}:
        raise DataMalformed(
            f"{file}: neither a list (.{', .'.join(_LISTS)}) nor a shard (.tar); name the images' folder"
        )
    match layout or ("shards" if kind == "tar" else "list"):
        case "list":
            return Listing(file.parent, "list", tuple(_listed(file)))
        case "shards":
            return Listing(file.parent, "shards", tuple(in_shards(file.parent, [file.relative_to(file.parent)])))
        case other:
            raise DataMalformed(f"{file}: a file; data of the layout {other!r} are a folder")


def _recognise(root: Path, images: Sequence[Path], shards: Sequence[Path]) -> Layout:
    """Recognise a layout.

    Files at the root are ignored where there are folders; a pair beside other classes is two more classes.

    Raises:
        DataMalformed: it may be two layouts, and the wrong one would mix classes or lose images.
    """
    inside = [path for path in images if len(path.parts) > 1]
    for layout, (real, fake) in _PAIRS.items():
        apart = [*shards, *(path for path in inside if {real, fake}.isdisjoint(path.parts[:-1]))]
        pairs = [_around_pair(path, layout) for path in inside if not {real, fake}.isdisjoint(path.parts[:-1])]
        found = {kind for _, kind, _ in pairs}
        if fake in found and not apart:
            return layout
        if real in found and not apart:
            raise DataMalformed(f"{root}: has {real!r}, but no {fake!r}; pass --layout {layout} or --layout folders")
        if found == {real, fake} and (shards or any(set(above) - SPLITS.keys() for above, _, _ in pairs)):
            raise _in_doubt(root, layout, apart[0])
    if shards and (loose := [path for path in images if is_image(path)]):
        raise _in_doubt(root, "shards", loose[0])
    return "shards" if shards else "folders"


def _in_doubt(root: Path, layout: Layout, odd: Path) -> DataMalformed:
    return DataMalformed(
        f"{root}: seems to be of the layout {layout!r}, but {odd} is not; move it away, or pass --layout {layout} to "
        "leave such files out, or --layout folders"
    )


def _by_folder(root: Path, images: Sequence[Path]) -> Iterator[Entry]:
    inside = [path for path in images if len(path.parts) > 1]
    splits = _are_splits(root, inside)
    if splits:
        inside = [path for path in inside if len(path.parts) > 2 and path.parts[0] in SPLITS]
    full = {path.parts[: 1 + splits] for path in inside}
    for folder in sorted(root.glob("*/*" if splits else "*")):
        parts = folder.relative_to(root).parts
        beside = splits and parts[0] not in SPLITS
        if Path(os.path.realpath(root)).is_relative_to(os.path.realpath(folder)):  # a link to a folder above
            continue
        if folder.is_dir() and parts not in full and not beside and not any(name.startswith(".") for name in parts):
            raise DataMissing(f"{folder}: no image in this class; fill it or remove the folder")
    if not inside:
        name = root.name or root.resolve().name  # Path(".") has none
        yield from (Entry(path, Extent(root / path), name) for path in images if is_image(path))
    for path in inside:
        split, *folders = path.parts[:-1] if splits else ("", *path.parts[:-1])
        category = "/".join(folders[1:])
        yield Entry(path, Extent(root / path), folders[0], SPLITS.get(split), category=category)


def _are_splits(root: Path, inside: Sequence[Path]) -> bool:
    """Whether all class folders lie in folders named as splits: one such name beside others may be a class.

    Raises:
        DataMalformed: they do, but other images lie beside them.
    """
    # Files beside the class folders, a README for instance, are ignored.
    images = [path for path in inside if is_image(path)] or inside
    splits = {path.parts[0] for path in images if len(path.parts) > 2} & SPLITS.keys()
    apart = [path for path in images if len(path.parts) == 2 or path.parts[0] not in SPLITS]
    if apart and (len(splits) > 1 or (splits and all(path.parts[0] in SPLITS for path in images))):
        raise DataMalformed(
            f"{root}: {apart[0]} lies in no class folder of a split, as others do ({', '.join(sorted(splits))}); "
            "move it away, or rename the folders that are no splits"
        )
    return bool(splits) and not apart


def _by_kind(root: Path, images: Sequence[Path], layout: Literal["forensynths", "genimage"]) -> Iterator[Entry]:
    inside = [path for path in images if not set(_PAIRS[layout]).isdisjoint(path.parts[:-1])]
    splits = _splits_above(inside, layout)
    taken = [_take_apart(path, layout, splits) for path in inside]
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
    path: Path, layout: Literal["forensynths", "genimage"], splits: frozenset[str]
) -> tuple[str | None, bool, tuple[str, ...], tuple[str, ...]]:
    """Split, whether the image is real, and folders above (without the split's) and below the one of the pair."""
    above, kind, below = _around_pair(path, layout)
    split = None
    if above and above[0] in splits:
        split, above = SPLITS[above[0]], above[1:]
    elif above and above[-1] in splits:
        split, above = SPLITS[above[-1]], above[:-1]
    return split, kind == _PAIRS[layout][0], above, below


def _around_pair(
    path: Path, layout: Literal["forensynths", "genimage"]
) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Folders above the one of the pair, that folder, and folders below it."""
    folders = path.parts[:-1]
    at = next(index for index, name in enumerate(folders) if name in _PAIRS[layout])
    return folders[:at], folders[at], folders[at + 1 :]


def _splits_above(inside: Sequence[Path], layout: Literal["forensynths", "genimage"]) -> frozenset[str]:
    """Names that are splits here: ForenSynths has images of trains, so ``train`` alone may be a category."""
    above = [_around_pair(path, layout)[0] for path in inside]
    found = [{*folders[:1], *folders[-1:]} & SPLITS.keys() for folders in above]
    sure = layout == "genimage" or all(found) or any(names - _LSUN for names in found)
    return frozenset(SPLITS) if sure else frozenset()


def _listed(file: Path) -> Iterator[Entry]:
    for number, row in enumerate(_rows(file), 1):
        path, label, split = (row.get(key) if isinstance(row, dict) else None for key in ("path", "label", "split"))
        if not isinstance(path, str) or not path or "\0" in path or not is_text(path) or not is_label(label):
            raise DataMalformed(
                f"{file}: image {number} needs a path and a label (text or an integer), got {brief(row)}"
            )
        if split and (not isinstance(split, str) or split not in SPLITS):
            raise DataMalformed(f"{file}: image {number} has the split {brief(split)}, known are {', '.join(SPLITS)}")
        yield Entry(Path(path), Extent(file.parent / path), str(label), SPLITS[split] if split else None)


def _rows(file: Path) -> Iterable[Any]:
    try:
        text = read_regular(file, _LIST_BYTES).decode("utf-8-sig")
        if suffix(file) == "csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if suffix(file) == "jsonl":
            return list(_parsed_lines(text))
        rows = parse_json(text)
    except OSError as error:
        raise DataMalformed(f"{file}: no list of images: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise DataMalformed(f"{file}: no list of images: {error}") from error
    if not isinstance(rows, list):
        raise DataMalformed(f"{file}: needs an array of objects with the keys path and label")
    return rows


def _parsed_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
