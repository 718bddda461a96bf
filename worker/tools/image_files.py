"""The images under the paths of a command: found without following loops, and nothing is left out in silence."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class ImageFiles:
    """What lies under some paths."""

    paths: list[Path] = field(default_factory=list)
    """Files that may be images; those of a folder are sorted."""
    unread: list[tuple[Path, OSError]] = field(default_factory=list)
    """Folders that cannot be read."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What was left out, by kind: the ending of a file, or a description."""
    base: Path | None = None
    """The folder in which everything lies, if one was named and nothing else."""

    def name(self, path: Path) -> Path:
        """A path as people read it: below the folder that they named."""
        return path.relative_to(self.base) if self.base is not None and path != self.base else path

    @property
    def left_out(self) -> str:
        """What was left out, in one line; empty if nothing was."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.skipped.items()))


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
    for path in paths:
        if path.is_dir():
            _search(path, found, only_taken=only_taken)
        elif path.exists() or path.is_symlink():
            found.paths.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if len(paths) == 1 and paths[0].is_dir():
        found.base = paths[0]
    if not found.paths and not found.unread:
        instead = f"; left out: {found.left_out}" if found.skipped else ""
        raise FileNotFoundError(
            f"{', '.join(map(str, paths))}: no images here ({', '.join(sorted(SUFFIXES))}){instead}"
        )
    return found


def _search(folder: Path, found: ImageFiles, *, only_taken: bool) -> None:
    def unreadable(error: OSError) -> None:
        found.unread.append((Path(error.filename), error))

    paths: list[Path] = []
    for here, folders, names in os.walk(folder, onerror=unreadable):
        if linked := sum(Path(here, name).is_symlink() for name in folders):
            found.skipped["links to folders"] += linked
        for path in (Path(here, name) for name in names):
            suffix = path.suffix.lower()
            if path.name.startswith(_APPLE_DOUBLE):
                found.skipped["._ files of macOS"] += 1
            elif suffix in SUFFIXES and only_taken and not path.is_file():
                found.skipped["that are no files"] += 1
            elif suffix in SUFFIXES or (suffix in OTHER_SUFFIXES and not only_taken):
                paths.append(path)
            else:
                found.skipped[suffix or "without an ending"] += 1
    found.paths += sorted(paths)
