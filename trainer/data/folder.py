"""A data set as fixed-size ``uint8`` views, whatever its layout on disk.

Only ``bundle.preprocess`` decodes, so the network learns from the very pixels that it will be served.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from bundle.errors import ImageError
from bundle.manifest import Label, Preprocessing
from bundle.preprocess import read_views
from trainer.arrays import Images
from trainer.data.entries import Entry, Extent
from trainer.data.layouts import Layout, list_images
from trainer.errors import DataMissing, RealLabelMissing, TooFewClasses, TooManyUnreadable, UnknownClass

R = TypeVar("R")

WHERE_TOO_SMALL: Final = (
    "the worker answers such images 'unsure'; enlarge copies back to the size that they had, or train with a smaller "
    "--size or with --fit resize"
)
"""Advice on images that are too small for the preprocessing."""


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """N images of a data set in one of the layouts of ``layouts.py``.

    In folders, the order is that of the sorted class names and, within a class, of the sorted relative paths: the same
    on every machine. Lists and shards keep their own.

    Attributes:
        root: the folder that paths are relative to.
        classes: names, sorted.
        paths: N names, relative to ``root``.
        extents: N locations of the images' bytes.
        labels: ``int64[N]``, index into ``classes``.
        fingerprint: sha256 (hex) over class names and, for every image that was used, relative path, class and the
            sha256 of its bytes.
        unreadable: images that were skipped because they are broken.
        too_small: images that were skipped because they are too small for the preprocessing.
    """

    root: Path
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    extents: tuple[Extent, ...]
    labels: npt.NDArray[np.int64]
    fingerprint: str
    unreadable: tuple[UnreadableImage, ...]
    too_small: tuple[Path, ...]
    cached: Images | None

    @classmethod
    def read(
        cls,
        root: Path,
        preprocessing: Preprocessing,
        *,
        layout: Layout | None = None,
        split: str | None = None,
        least: int = 2,
        max_unreadable: int = 20,
        cache_mib: int = 4096,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Self:
        """Decode every image once, to know which can be used, and keep the views that fit into ``cache_mib``.

        Args:
            root: the folder, list or shard.
            preprocessing: makes one view an image (its first is taken where there are more).
            layout: how the data set is laid out; None recognises it.
            split: the split to read, where images are in splits.
            least: fewest classes that are no error.
            max_unreadable: most broken images that are skipped before it is an error.
            cache_mib: MiB of memory for views; all are kept, or none.
            progress: called with the number of images read and their total.

        Raises:
            DataMissing: there is nothing, or a class without an image that can be used.
            DataMalformed, SplitUnknown: see ``layouts.list_images``.
            TooFewClasses: there are fewer than ``least``.
            TooManyUnreadable: names the first broken images.
        """
        listing = list_images(root, layout)
        entries = listing.of(split)
        classes = tuple(sorted({entry.label for entry in entries}))
        if len(classes) < least:
            found = f"only {classes[0]!r}" if classes else "none"
            raise TooFewClasses(f"{root}: needs one sub-folder a class and at least {least}, found {found}")
        size = preprocessing.size
        cached = (
            np.empty((len(entries), size, size, 3), np.uint8) if len(entries) * size**2 * 3 <= cache_mib << 20 else None
        )
        kept: list[Entry] = []
        digests: list[str] = []
        unreadable: list[UnreadableImage] = []
        too_small: list[Path] = []
        reads = read_each([(e.path, e.extent) for e in entries], lambda extent: _read(extent, preprocessing))
        for number, (entry, read) in enumerate(zip(entries, reads, strict=True), 1):
            if isinstance(read, UnreadableImage):
                unreadable.append(read)
                if len(unreadable) > max_unreadable:
                    listed = "; ".join(f"{bad.path}: {bad.reason}" for bad in unreadable[:5])
                    raise TooManyUnreadable(f"{root}: more than {max_unreadable} unreadable images, first {listed}")
            elif len(read.views) == 0:
                too_small.append(entry.path)
            else:
                if cached is not None:
                    cached[len(kept)] = read.views[0]
                kept.append(entry)
                digests.append(read.sha256)
            progress(number, len(entries))
        counts, all_counts = Counter(entry.label for entry in kept), Counter(entry.label for entry in entries)
        if empty := [name for name in classes if not counts[name]]:
            broken = {bad.path for bad in unreadable}
            bad = sum(entry.path in broken for entry in entries if entry.label == empty[0])
            small = all_counts[empty[0]] - bad
            found = f"no image of {empty[0]} to use ({small} too small for {size} x {size}, {bad} unreadable)"
            raise DataMissing(f"{root}: {found}" + (f": {WHERE_TOO_SMALL}" if small else ""))
        used = [[e.path.as_posix(), e.label, digest] for e, digest in zip(kept, digests, strict=True)]
        return cls(
            root=listing.root,
            preprocessing=preprocessing,
            classes=classes,
            paths=tuple(entry.path for entry in kept),
            extents=tuple(entry.extent for entry in kept),
            labels=np.array([classes.index(entry.label) for entry in kept], np.int64),
            fingerprint=hashlib.sha256(json.dumps([classes, used]).encode()).hexdigest(),
            unreadable=tuple(unreadable),
            too_small=tuple(too_small),
            cached=None if cached is None else cached[: len(kept)],
        )

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64] | slice) -> Images:
        """Views of some images, from the cache or decoded: ``uint8[n, size, size, 3]``."""
        if self.cached is not None:
            return self.cached[indices]
        chosen = np.arange(len(self))[indices]
        return np.stack([_read(self.extents[index], self.preprocessing).views[0] for index in chosen])

    def encoded(self, index: int) -> bytes:
        """Bytes of an image as they are stored, for analyses of files."""
        return self.extents[index].read()

    def counts(self) -> tuple[int, ...]:
        """Number of images of each class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    def among(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which classes are among these: ``bool[C]``."""
        return np.isin(self.classes, names)

    def shuffled(self, rng: np.random.Generator, buffer: int = 8192) -> npt.NDArray[np.int64]:
        """All indices in a random order, ``int64[N]``.

        Shards that are not cached are read from front to back, as suits disks: the shards come in random order, and
        each image is drawn from the next ``buffer``, all as likely.
        """
        starts = [i for i in range(len(self)) if i == 0 or self.extents[i].file != self.extents[i - 1].file]
        if self.cached is not None or all(extent.length is None for extent in self.extents):
            return rng.permutation(len(self))
        shards = np.split(np.arange(len(self)), starts[1:])
        stream = np.concatenate([shards[number] for number in rng.permutation(len(shards))])
        waiting, order = stream[:buffer].copy(), np.empty_like(stream)
        for position, following in enumerate(stream[buffer:]):
            slot = rng.integers(len(waiting))
            order[position], waiting[slot] = waiting[slot], following
        order[len(stream) - len(waiting) :] = rng.permutation(waiting)
        return order


def make_labels(folder: ImageFolder, real: Sequence[str]) -> tuple[Label, ...]:
    """Labels that a network will learn, in the order of its outputs.

    Raises:
        RealLabelMissing: a name in ``real`` is no class of the folder.
        TooFewClasses: all classes are of photographs.
    """
    found = ", ".join(folder.classes)
    if missing := [name for name in real if name not in folder.classes]:
        raise RealLabelMissing(
            f"{folder.root}: no sub-folder {missing[0]!r} with the photographs, found {found}; name it with --real"
        )
    if set(real) == set(folder.classes):
        raise TooFewClasses(f"{folder.root}: all classes ({found}) are named as photographs; none is generated")
    return tuple(
        Label(id=index, name=name, kind="real" if name in real else "generator")
        for index, name in enumerate(folder.classes)
    )


def label_ids(folder: ImageFolder, labels: Sequence[Label]) -> npt.NDArray[np.int64]:
    """Label ids of the images in a checkpoint's numbering: ``int64[N]``.

    Raises:
        UnknownClass: the folder has a class that the checkpoint does not know.
    """
    id_of = {label.name: label.id for label in labels}
    if unknown := [name for name in folder.classes if name not in id_of]:
        raise UnknownClass(f"{folder.root}: the checkpoint has no class {unknown[0]!r}, only {', '.join(id_of)}")
    return np.array([id_of[name] for name in folder.classes], np.int64)[folder.labels]


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    views: Images
    sha256: str


def read_each(images: Sequence[tuple[Path, Extent]], read: Callable[[Extent], R]) -> Iterator[R | UnreadableImage]:
    """Apply ``read`` to each image, given by name and location; yields its result or why it cannot be read, in order.

    Decoding and coding release the GIL, so threads do it. Few are in flight at a time: decoded images are large.
    """

    def attempt(image: tuple[Path, Extent]) -> R | UnreadableImage:
        name, extent = image
        try:
            return read(extent)
        except (ImageError, OSError) as error:
            return UnreadableImage(name, (isinstance(error, OSError) and error.strerror) or str(error))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(images), 64):
            yield from pool.map(attempt, images[start : start + 64])


def _read(extent: Extent, preprocessing: Preprocessing) -> _Read:
    data = extent.read()
    return _Read(read_views(data, preprocessing), hashlib.sha256(data).hexdigest())
