"""The images an experiment may use: which generator made each, in which split it lies. Nothing is decoded here."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Self, get_args

import numpy as np

from trainer.data.entries import REAL, Entry, Extent
from trainer.data.layouts import list_images
from trainer.errors import BadConfig, DataMissing, RealLabelMissing

SplitName = Literal["train", "val", "calib", "test"]
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
FAKE: Final = "fake"
"""What ``layouts`` calls generated images whose generator the layout does not say."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file of the corpus."""

    extent: Extent
    """Where its bytes lie."""
    split: SplitName
    generator: str | None
    """Whose real images or fakes; None for photographs that are everyone's."""
    category: str
    """What it shows, where the corpus says so."""
    generated: bool
    scene: int = 0
    """Its number among those of its generator and split. Where a corpus is *paired*, pictures of one split
    and scene show the same photograph."""

    @property
    def label(self) -> str:
        """The class it belongs to."""
        return self.generator if self.generated and self.generator is not None else REAL


@dataclass(frozen=True, eq=False)
class Corpus:
    """All pictures, in an order that is the same on every machine."""

    root: Path
    pictures: tuple[Picture, ...]
    name: str
    """For people."""
    remarks: tuple[str, ...] = ()
    """What had to be assumed."""
    tested_on: str = ""
    """The other data set whose images are tested, where there is one."""
    paired: bool = False
    """Whether file i of every class in ``test`` may show the same photograph: all that are there have equally many."""
    sides: Mapping[Extent, int] = field(default_factory=dict)
    """The shorter side of each image in pixels, once they have been read (``protocols.readable``)."""
    _digests: dict[Extent, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, real: Sequence[str] = (REAL,), test: Path | None = None) -> Self:
        """List a data set of any layout (``trainer.data.layouts``) that has splits, ``train`` among them.

        Where ``test`` is missing, ``val`` stands for it (GenImage); where ``val`` or ``calib`` is missing, a tenth of
        each training class is set aside.

        Args:
            root: the data set.
            real: labels of photographs, where the layout does not say which they are.
            test: another data set, with the same labels, whose images are tested in place of this one's: its split
                ``test``, or all where it has no splits.

        Raises:
            DataMissing: no folder, or nothing to train or to test on; ``test`` has no image under a label.
            DataMalformed: see ``layouts.list_images``.
            RealLabelMissing: no photographs; ``real`` names what is no label.
        """
        listing = list_images(root)
        listing.check_real(real)
        entries = listing.entries
        pictures = _owned([p for entry in entries if (p := _picture(entry, real)) is not None])
        remarks = []
        if apart := len(entries) - len(pictures):
            remarks.append(f"{apart} images are in none of the splits {', '.join(SPLITS)}, and left out")
        if test is not None:
            pictures = [p for p in pictures if p.split != "test"] + _tested(test, real)
        if not any(picture.split == "train" for picture in pictures):
            raise DataMissing(f"{root}: no images in a split 'train', which experiments need beside 'test'")
        if not any(picture.split == "test" for picture in pictures):
            pictures = [replace(p, split="test") if p.split == "val" else p for p in pictures]
            remarks.append("no split 'test' in this corpus: 'val' stands for it")
        splits: tuple[SplitName, ...] = ("val", "calib")
        for split in splits:
            if not any(picture.split == split for picture in pictures):
                pictures = _set_aside(pictures, split)
                remarks.append(
                    f"no split {split!r} in this corpus: the last tenth of each training class stands for it"
                )
        if not any(picture.split == "test" for picture in pictures):
            raise DataMissing(f"{root}: no images in a split 'test'")
        if all(picture.generated for picture in pictures):
            raise RealLabelMissing(f"{root}: no photographs; name their folder with --real")
        tested_on = "" if test is None else _name_of(test.resolve())
        return cls(root, _numbered(pictures), root.name, tuple(remarks), tested_on, _paired(pictures))

    @cached_property
    def generators(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted({p.generator for p in self.pictures if p.generated and p.generator is not None}))

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """Those with images to train on."""
        return tuple(name for name in self.generators if self.fakes(name, "train"))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Of the training images, where the corpus says them."""
        return tuple(sorted({p.category for p in self.pictures if p.split == "train" and p.category}))

    def fakes(self, generator: str, split: SplitName, count: int | None = None) -> tuple[Picture, ...]:
        """Images that ``generator`` made; ``count`` of them spread evenly, or all."""
        return spread([p for p in self._in(split) if p.generated and p.generator == generator], count)

    def photographs(
        self, split: SplitName, count: int | None = None, generator: str | None = None
    ) -> tuple[Picture, ...]:
        """Real images: everyone's, or those that belong to ``generator`` where each has its own."""
        found = [p for p in self._in(split) if not p.generated]
        if generator is not None:
            found = [p for p in found if p.generator in (None, generator)]
        return spread(found, count)

    def classes(
        self, names: Iterable[str], split: SplitName, count: int | None = None
    ) -> dict[str, tuple[Picture, ...]]:
        """A folder to be: photographs and the images of these generators, so many of each.

        In ``test``, what has no images is left out.
        """
        chosen = tuple(names)
        owners = {p.generator for p in self._in(split) if not p.generated}
        if None in owners or len(chosen) != 1:
            photographs = self.photographs(split, count)
        else:
            photographs = self.photographs(split, count, chosen[0])
        found = {REAL: photographs, **{name: self.fakes(name, split, count) for name in chosen}}
        return {name: pictures for name, pictures in found.items() if pictures or split != "test"}

    def digest(self, pictures: Iterable[Picture]) -> str:
        """Identity of these files, in this order and under these labels: sha256 (hex, 16 digits) of their contents."""
        content = [[picture.label, self._sha256(picture.extent)] for picture in pictures]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and places of all its files."""
        content = [
            [p.label, p.split, os.path.relpath(p.extent.file, self.root), p.extent.start, _size(p)]
            for p in self.pictures
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def _by_split(self) -> Mapping[str, list[Picture]]:
        by_split: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            by_split[picture.split].append(picture)
        return by_split

    def _in(self, split: SplitName) -> list[Picture]:
        return self._by_split.get(split, [])

    def _sha256(self, extent: Extent) -> str:
        if extent not in self._digests:
            self._digests[extent] = hashlib.sha256(extent.read()).hexdigest()
        return self._digests[extent]


def spread(pictures: Sequence[Picture], count: int | None) -> tuple[Picture, ...]:
    """``count`` of them at even distances, the same places in lists of the same length; all, if there are no more."""
    if count is None or count >= len(pictures):
        return tuple(pictures)
    return tuple(pictures[i] for i in np.linspace(0, len(pictures) - 1, count).round().astype(int))


def draw(pictures: Sequence[Picture], count: int, seed: int) -> tuple[Picture, ...]:
    """``count`` of them at random, without repetition, in the corpus's order."""
    chosen = np.random.default_rng(seed).choice(len(pictures), min(count, len(pictures)), replace=False)
    return tuple(pictures[i] for i in sorted(chosen))


def draw_one(pictures: Sequence[Picture], seed: int) -> tuple[Picture]:
    """One of a label's images at random.

    Each label draws by itself: where file i of every label shows the same photograph, one number for all of them would
    draw that photograph for each.
    """
    rng = np.random.default_rng([seed, *pictures[0].label.encode()])
    return (pictures[int(rng.integers(len(pictures)))],)


def map_names(
    names: Sequence[str], corpus: Corpus, maps: Mapping[str, Mapping[str, str]], chosen: Mapping[str, str]
) -> dict[str, str | None]:
    """What stands for a publication's generators: as ``chosen``, else itself, else by the first map that fits.

    Returns:
        Name -> folder, in the publication's order; None where nothing stands for it.

    Raises:
        BadConfig: ``chosen`` names what is neither the publication's nor the corpus's.
    """
    folders = {name.lower(): name for name in corpus.generators}
    for name, folder in chosen.items():
        if name not in names:
            raise BadConfig(f"--map {name}={folder}: the publication has no {name!r}, only {', '.join(names)}")
        if folder not in corpus.generators:
            raise BadConfig(
                f"--map {name}={folder}: {corpus.root} has no {folder!r}, only {', '.join(corpus.generators)}"
            )
    fitting = next((m for m in maps.values() if set(m.values()) <= set(corpus.generators)), {})
    sure = {name: chosen.get(name) or folders.get(name.lower()) for name in names}
    # No folder stands for two of them by a map.
    spare = {name: folder for name, folder in fitting.items() if folder not in sure.values()}
    return {name: sure[name] or spare.get(name) for name in names}


def _picture(entry: Entry, real: Sequence[str]) -> Picture | None:
    split = next((name for name in SPLITS if name == entry.split), None)
    if split is None:
        return None
    if entry.label in real or entry.label == REAL:
        return Picture(entry.extent, split, entry.generator, entry.category, generated=False)
    return Picture(entry.extent, split, entry.generator or entry.label, entry.category, generated=True)


def _owned(pictures: list[Picture]) -> list[Picture]:
    """ForenSynths does not name the generator of its training images: it is the tested one that shows all the same."""
    nameless = {p.category for p in pictures if p.generator == FAKE and p.split != "test"} - {""}
    shown: dict[str, set[str]] = defaultdict(set)
    for p in pictures:
        if p.split == "test" and p.generator:
            shown[p.generator].add(p.category)
    owners = [generator for generator, categories in shown.items() if nameless and nameless <= categories]
    if len(owners) != 1:
        return pictures
    (owner,) = owners
    return [replace(p, generator=owner) if p.split != "test" and p.generator in {None, FAKE} else p for p in pictures]


def _tested(root: Path, real: Sequence[str]) -> list[Picture]:
    listing = list_images(root)
    entries = listing.of("test" if "test" in listing.splits else None)
    found = [p for e in entries if (p := _picture(replace(e, split="test"), real)) is not None]
    if not found:
        raise DataMissing(f"{root}: no images to test on; it needs a folder for each of the corpus's classes")
    return found


def _name_of(test: Path) -> str:
    """Of its parent where it is called as a split is."""
    return test.parent.name if test.name in SPLITS else test.name


def _paired(pictures: Sequence[Picture]) -> bool:
    tested = Counter(p.label for p in pictures if p.split == "test")
    return len(set(tested.values())) == 1 and all(p.generator is None for p in pictures if not p.generated)


def _size(picture: Picture) -> int:
    """In bytes; -1 where there is no such file, which is for reading to find."""
    try:
        return picture.extent.file.stat().st_size
    except OSError:
        return -1


def _set_aside(pictures: list[Picture], split: SplitName) -> list[Picture]:
    groups: dict[tuple[str | None, str, bool], list[Picture]] = defaultdict(list)
    for p in pictures:
        if p.split == "train":
            groups[p.generator, p.category, p.generated].append(p)
    taken = {p.extent for group in groups.values() for p in group[len(group) - max(1, len(group) // 10) :]}
    return [replace(p, split=split) if p.split == "train" and p.extent in taken else p for p in pictures]


def _numbered(pictures: list[Picture]) -> tuple[Picture, ...]:
    seen: dict[tuple[SplitName, str | None, bool], int] = defaultdict(int)
    numbered = []
    for picture in pictures:
        key = (picture.split, picture.generator, picture.generated)
        numbered.append(replace(picture, scene=seen[key]))
        seen[key] += 1
    return tuple(numbered)
