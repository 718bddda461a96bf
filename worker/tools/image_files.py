"""The images under the paths of a command: found without following loops, and nothing is left out in silence."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundle.text import printable

SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".webp"}
)
"""Endings of image files in folders (``bundle.preprocess.FORMATS``); a file that is named itself is always tried."""
OTHER_SUFFIXES = frozenset(
    {".cr2", ".dng", ".eps", ".heic", ".heif", ".hif", ".ico", ".jp2", ".jxl", ".nef", ".psd", ".svg", ".tif", ".tiff"}
)
"""Endings of images in other formats: these are tried as well, so that they do not go without a word."""
_APPLE_DOUBLE = "._"
"""Begins the names of files in which macOS keeps what other file systems cannot: ``._a.jpg`` is no image."""


_NAMED_KINDS = 20


@dataclass
class ImageFiles:
    """What lies under some paths."""

    paths: list[Path] = field(default_factory=list)
    """Files that may be images; those of a folder are sorted."""
    unread: list[tuple[Path, OSError]] = field(default_factory=list)
    """Folders that cannot be read."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What was left out, by kind: the ending of a file, or a description."""
    bases: dict[Path, Path] = field(default_factory=dict)
    """The folders that were named, and what the paths in each are shown relative to."""

    def name(self, path: Path) -> Path:
        """A path as people read it: below the folder that they named, whose name begins it where they named more."""
        folder = next((above for above in path.parents if above in self.bases), None)
        return path.relative_to(self.bases[folder]) if folder is not None else path

    @property
    def left_out(self) -> str:
        """What was left out, in one line; empty if nothing was. Of many kinds the most frequent are named."""
        named = dict(self.skipped.most_common(_NAMED_KINDS))
        parts = [f"{count} {printable(kind)}" for kind, count in sorted(named.items())]
        if others := self.skipped.total() - sum(named.values()):
            parts.append(f"{others} of {len(self.skipped) - len(named)} other kinds")
        return ", ".join(parts)


def find_images(paths: Sequence[Path], *, only_taken: bool = False) -> ImageFiles:
    """The files as given, and the images in folders, those in linked folders apart.

    Args:
        paths: files and folders.
        only_taken: leave out of folders, and count, what certainly gets no verdict: images of formats that are not
            taken, and what is no regular file.

    Raises:
        FileNotFoundError: a path does not exist, or there is no image in any folder.
    """
    found = ImageFiles()
    folders: set[Path] = set()
    files: set[Path] = set()
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path's raises where a folder above cannot be searched
            _search(path, found, only_taken=only_taken)
            folders.add(path)
        elif _may_exist(path):
            found.paths.append(path)
            files.add(path)
        else:
            raise FileNotFoundError(f"{printable(path)}: no such file or folder")
    found.bases = _bases(folders, files)
    if not found.paths and not found.unread:
        instead = f"; left out: {found.left_out}" if found.skipped else ""
        raise FileNotFoundError(
            f"{', '.join(map(printable, paths))}: no images here ({', '.join(sorted(SUFFIXES))}){instead}"
        )
    return found


def _bases(folders: set[Path], files: set[Path]) -> dict[Path, Path]:
    """See ``ImageFiles.bases``; none where two paths might be shown as the same, so that each is shown as given."""
    if len(folders) == 1 and not files:
        return {folder: folder for folder in folders}
    names = {folder.name for folder in folders}
    taken = {"", ".."}.union(*(file.parts[:1] for file in files))
    return {folder: folder.parent for folder in folders} if len(names) == len(folders) and not names & taken else {}


def _may_exist(path: Path) -> bool:
    """Whether there is such a path, as far as anybody tells; why it cannot be read is found out by reading it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _search(folder: Path, found: ImageFiles, *, only_taken: bool) -> None:
    paths: list[Path] = []
    folders = [folder]
    while folders:  # os.walk would recurse, and not come back from very deep folders
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if not _is_folder(entry):
                        _sort_out(path, paths, found, only_taken=only_taken)
                    elif entry.is_symlink():
                        found.skipped["links to folders"] += 1
                    else:
                        folders.append(path)
        except OSError as error:
            found.unread.append((here, error))
    found.paths += sorted(paths)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that nobody may follow
        return False


def _sort_out(path: Path, paths: list[Path], found: ImageFiles, *, only_taken: bool) -> None:
    """Take a file that may be an image, or count it as left out."""
    suffix = path.suffix.lower()
    if path.name.startswith(_APPLE_DOUBLE):
        found.skipped["._ files of macOS"] += 1
    elif suffix in SUFFIXES and only_taken and not os.path.isfile(path):  # noqa: PTH113 - Path's may raise
        found.skipped["that are no files"] += 1
    elif suffix in SUFFIXES or (suffix in OTHER_SUFFIXES and not only_taken):
        paths.append(path)
    else:
        found.skipped[suffix or "without an ending"] += 1
