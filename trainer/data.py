"""A folder with one sub-folder a class, as fixed-size ``uint8`` views.

Only ``bundle.preprocess`` decodes, so the network learns from the very pixels it will be served.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from bundle.errors import ImageError
from bundle.manifest import Label, Preprocessing
from bundle.preprocess import decode, make_views
from trainer.errors import DataMissing, RealLabelMissing, TooFewClasses, TooManyUnreadable, UnknownClass

Images = npt.NDArray[np.uint8]
"""``uint8[N, size, size, 3]``."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is no image we take, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """N images of a folder with one sub-folder a class.

    The order is that of the sorted class names and, within a class, of the sorted relative paths: the same on every
    machine. Sub-folders of a class belong to it; names that begin with a dot are ignored.

    Attributes:
        classes: sub-folder names, sorted.
        paths: N files, relative to ``root``.
        labels: ``int64[N]``, index into ``classes``.
        fingerprint: sha256 (hex) over class names, relative paths and the sha256 of every file that was used.
        unreadable: files that were left out because they are broken.
        too_small: files that were left out because the preprocessing has no opinion on them.
    """

    root: Path
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    fingerprint: str
    unreadable: tuple[Unreadable, ...]
    too_small: tuple[Path, ...]
    cached: Images | None

    @classmethod
    def read(
        cls,
        root: Path,
        preprocessing: Preprocessing,
        *,
        max_unreadable: int = 20,
        cache_mib: int = 4096,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Self:
        """Decode every image once, to know which can be used, and keep the views that fit into ``cache_mib``.

        Args:
            root: the folder.
            preprocessing: one view an image (its first is taken where there are more).
            max_unreadable: broken files that are skipped before it is an error.
            cache_mib: all views are kept in memory, or none.
            progress: called with the number of files read and their total.

        Raises:
            DataMissing: no folder, or a class without an image that can be used.
            TooFewClasses: fewer than two sub-folders.
            TooManyUnreadable: names the first of them.
        """
        classes, found = _list(root)
        size = preprocessing.size
        cached = (
            np.empty((len(found), size, size, 3), np.uint8) if len(found) * size**2 * 3 <= cache_mib << 20 else None
        )
        kept: list[int] = []
        digests: list[str] = []
        unreadable: list[Unreadable] = []
        too_small: list[Path] = []
        for number, read in enumerate(_read_all(root, found, preprocessing)):
            if isinstance(read, Unreadable):
                unreadable.append(read)
                if len(unreadable) > max_unreadable:
                    listed = "; ".join(f"{bad.path}: {bad.reason}" for bad in unreadable[:5])
                    raise TooManyUnreadable(f"{root}: more than {max_unreadable} unreadable images, first {listed}")
            elif len(read.views) == 0:
                too_small.append(found[number])
            else:
                if cached is not None:
                    cached[len(kept)] = read.views[0]
                kept.append(number)
                digests.append(read.sha256)
            progress(number + 1, len(found))
        paths = tuple(found[number] for number in kept)
        labels = np.array([classes.index(path.parts[0]) for path in paths], np.int64)
        for label, name in enumerate(classes):
            if label not in labels:
                raise DataMissing(
                    f"{root / name}: no image to use ({sum(p.parts[0] == name for p in too_small)} too small for "
                    f"{size} x {size}, {sum(bad.path.parts[0] == name for bad in unreadable)} unreadable)"
                )
        content = [list(classes), [[path.as_posix(), digest] for path, digest in zip(paths, digests, strict=True)]]
        return cls(
            root=root,
            preprocessing=preprocessing,
            classes=classes,
            paths=paths,
            labels=labels,
            fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            unreadable=tuple(unreadable),
            too_small=tuple(too_small),
            cached=None if cached is None else cached[: len(paths)],
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Images, int]:
        """``uint8[size, size, 3]`` and its label: what a torch ``DataLoader`` asks for."""
        return self.pixels([index])[0], int(self.labels[index])

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64] | slice) -> Images:
        """Views of some images, from the cache or decoded anew: ``uint8[n, size, size, 3]``."""
        if self.cached is not None:
            return self.cached[indices]
        chosen = np.arange(len(self))[indices]
        return np.stack([_read(self.root, self.paths[index], self.preprocessing).views[0] for index in chosen])

    def counts(self) -> tuple[int, ...]:
        """Images a class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())


def make_labels(folder: ImageFolder, real: Sequence[str]) -> tuple[Label, ...]:
    """The labels a network will learn, in the order of its outputs.

    Raises:
        RealLabelMissing: a name in ``real`` is no class of the folder, or there is nothing but reals.
    """
    found = ", ".join(folder.classes)
    if missing := [name for name in real if name not in folder.classes]:
        raise RealLabelMissing(
            f"{folder.root}: no sub-folder {missing[0]!r} with the photographs, found {found}; name it with --real"
        )
    if set(real) == set(folder.classes):
        raise TooFewClasses(f"{folder.root}: all sub-folders ({found}) are said to hold photographs; none is generated")
    return tuple(
        Label(id=index, name=name, kind="real" if name in real else "generator")
        for index, name in enumerate(folder.classes)
    )


def label_numbers(folder: ImageFolder, labels: Sequence[Label]) -> npt.NDArray[np.int64]:
    """The folder's labels in the numbering of a checkpoint: ``int64[N]``.

    Raises:
        UnknownClass: the folder has a class that the checkpoint has not.
    """
    number = {label.name: label.id for label in labels}
    if unknown := [name for name in folder.classes if name not in number]:
        raise UnknownClass(f"{folder.root}: the checkpoint has no class {unknown[0]!r}, only {', '.join(number)}")
    return np.array([number[name] for name in folder.classes], np.int64)[folder.labels]


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    views: Images
    sha256: str


def _list(root: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    if not root.is_dir():
        raise DataMissing(f"{root}: no such folder")
    classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise TooFewClasses(f"{root}: needs one sub-folder a class and at least two, found {found}")
    files: list[Path] = []
    for name in classes:
        relative = [path.relative_to(root) for path in (root / name).rglob("*") if path.is_file()]
        files += sorted(path for path in relative if not any(part.startswith(".") for part in path.parts))
    return classes, tuple(files)


def _read_all(root: Path, paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[_Read | Unreadable]:
    """In order; decoding releases the GIL, so threads do. Few are in flight at a time: decoded images are large."""

    def attempt(path: Path) -> _Read | Unreadable:
        try:
            return _read(root, path, preprocessing)
        except (ImageError, OSError) as error:
            return Unreadable(path, str(error))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 64):
            yield from pool.map(attempt, paths[start : start + 64])


def _read(root: Path, path: Path, preprocessing: Preprocessing) -> _Read:
    data = (root / path).read_bytes()
    return _Read(make_views(decode(data), preprocessing), hashlib.sha256(data).hexdigest())
