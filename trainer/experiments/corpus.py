"""The images that an experiment may use, each with its generator and split. Nothing is decoded here."""

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
"""The label that ``layouts`` gives to generated images if the layout does not name the generator."""


@dataclass(frozen=True, slots=True)
class CorpusImage:
    """A file of the corpus."""

    extent: Extent
    """Where its bytes lie."""
    split: SplitName
    generator: str | None
    """The generator that made it, or that a photograph belongs to; None for photographs that all generators share."""
    category: str
    """What it shows; empty where the corpus does not say."""
    generated: bool
    scene: int = 0
    """Its number among the images of its generator and split. In a *paired* corpus, images of one split and scene show
    the same photograph."""

    @property
    def label(self) -> str:
        """The class that it belongs to."""
        return self.generator if self.generated and self.generator is not None else REAL


@dataclass(frozen=True, eq=False)
class Corpus:
    """All images of a data set, in an order that is the same on every machine."""

    root: Path
    images: tuple[CorpusImage, ...]
    name: str
    """The folder's name, for people."""
    remarks: tuple[str, ...] = ()
    """Assumptions that were made, for people."""
    tested_on: str = ""
    """The other data set whose images are tested; empty if there is none."""
    paired: bool = False
    """Whether file i of every class in ``test`` may show the same photograph: all classes there have equally many."""
    sides: Mapping[Extent, int] = field(default_factory=dict)
    """The shorter side of each image in pixels, known after ``readable`` has read them."""
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
        images = _owned([p for entry in entries if (p := _corpus_image(entry, real)) is not None])
        remarks = []
        if apart := len(entries) - len(images):
            remarks.append(f"{apart} images are in none of the splits {', '.join(SPLITS)}, and left out")
        if test is not None:
            images = [p for p in images if p.split != "test"] + _tested(test, real)
        if not any(image.split == "train" for image in images):
            raise DataMissing(f"{root}: no images in a split 'train', which experiments need beside 'test'")
        if not any(image.split == "test" for image in images):
            images = [replace(p, split="test") if p.split == "val" else p for p in images]
            remarks.append("no split 'test' in this corpus: 'val' stands for it")
        splits: tuple[SplitName, ...] = ("val", "calib")
        for split in splits:
            if not any(image.split == split for image in images):
                images = _set_aside(images, split)
                remarks.append(
                    f"no split {split!r} in this corpus: the last tenth of each training class stands for it"
                )
        if not any(image.split == "test" for image in images):
            raise DataMissing(f"{root}: no images in a split 'test'")
        if all(image.generated for image in images):
            raise RealLabelMissing(f"{root}: no photographs; name their folder with --real")
        tested_on = "" if test is None else _name_of(test.resolve())
        return cls(root, _numbered(images), root.name, tuple(remarks), tested_on, _paired(images))

    @cached_property
    def generators(self) -> tuple[str, ...]:
        """All generators, sorted."""
        return tuple(sorted({p.generator for p in self.images if p.generated and p.generator is not None}))

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """The generators with images to train on."""
        return tuple(name for name in self.generators if self.fakes(name, "train"))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The content categories of the training images, where the corpus has them."""
        return tuple(sorted({p.category for p in self.images if p.split == "train" and p.category}))

    def fakes(self, generator: str, split: SplitName, count: int | None = None) -> tuple[CorpusImage, ...]:
        """Images that ``generator`` made: ``count`` of them, spread evenly, or all."""
        return spread([p for p in self._in(split) if p.generated and p.generator == generator], count)

    def photographs(
        self, split: SplitName, count: int | None = None, generator: str | None = None
    ) -> tuple[CorpusImage, ...]:
        """Real images: all, or those of ``generator`` where each generator has its own."""
        found = [p for p in self._in(split) if not p.generated]
        if generator is not None:
            found = [p for p in found if p.generator in (None, generator)]
        return spread(found, count)

    def classes(
        self, names: Iterable[str], split: SplitName, count: int | None = None
    ) -> dict[str, tuple[CorpusImage, ...]]:
        """Label -> images, for photographs and these generators, ``count`` of each or all.

        In ``test``, classes without images are left out.
        """
        chosen = tuple(names)
        owners = {p.generator for p in self._in(split) if not p.generated}
        if None in owners or len(chosen) != 1:
            photographs = self.photographs(split, count)
        else:
            photographs = self.photographs(split, count, chosen[0])
        found = {REAL: photographs, **{name: self.fakes(name, split, count) for name in chosen}}
        return {name: images for name, images in found.items() if images or split != "test"}

    def digest(self, images: Iterable[CorpusImage]) -> str:
        """Content address of these files, in this order, with their labels: sha256 (hex, 16 digits)."""
        content = [[image.label, self._sha256(image.extent)] for image in images]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex, 16 digits) of the labels, splits, paths and sizes of all files."""
        content = [
            [p.label, p.split, os.path.relpath(p.extent.file, self.root), p.extent.start, _size(p)] for p in self.images
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def _by_split(self) -> Mapping[str, list[CorpusImage]]:
        by_split: dict[str, list[CorpusImage]] = defaultdict(list)
        for image in self.images:
            by_split[image.split].append(image)
        return by_split

    def _in(self, split: SplitName) -> list[CorpusImage]:
        return self._by_split.get(split, [])

    def _sha256(self, extent: Extent) -> str:
        if extent not in self._digests:
            self._digests[extent] = hashlib.sha256(extent.read()).hexdigest()
        return self._digests[extent]


def spread(images: Sequence[CorpusImage], count: int | None) -> tuple[CorpusImage, ...]:
    """``count`` of the images at even distances, at the same indices in lists of equal length; or all there are."""
    if count is None or count >= len(images):
        return tuple(images)
    return tuple(images[i] for i in np.linspace(0, len(images) - 1, count).round().astype(int))


def draw(images: Sequence[CorpusImage], count: int, seed: int) -> tuple[CorpusImage, ...]:
    """``count`` of the images at random, without repetition, in the corpus's order."""
    chosen = np.random.default_rng(seed).choice(len(images), min(count, len(images)), replace=False)
    return tuple(images[i] for i in sorted(chosen))


def draw_one(images: Sequence[CorpusImage], seed: int) -> tuple[CorpusImage]:
    """One of a label's images at random.

    The draw depends on the label: where file i of every label shows the same photograph, a draw by seed alone would
    give the same photograph for all labels.
    """
    rng = np.random.default_rng([seed, *images[0].label.encode()])
    return (images[int(rng.integers(len(images)))],)


def map_names(
    names: Sequence[str], corpus: Corpus, maps: Mapping[str, Mapping[str, str]], chosen: Mapping[str, str]
) -> dict[str, str | None]:
    """Find a folder for each of a publication's generators: as ``chosen``, else of the same name, else by a map.

    The first of ``maps`` whose folders the corpus has is taken.

    Returns:
        Name -> folder, in the publication's order; None where nothing stands for it.

    Raises:
        BadConfig: ``chosen`` has a name that is not the publication's, or a folder that is not the corpus's.
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
    # A map gives no folder that already stands for another generator.
    spare = {name: folder for name, folder in fitting.items() if folder not in sure.values()}
    return {name: sure[name] or spare.get(name) for name in names}


def _corpus_image(entry: Entry, real: Sequence[str]) -> CorpusImage | None:
    split = next((name for name in SPLITS if name == entry.split), None)
    if split is None:
        return None
    if entry.label in real or entry.label == REAL:
        return CorpusImage(entry.extent, split, entry.generator, entry.category, generated=False)
    return CorpusImage(entry.extent, split, entry.generator or entry.label, entry.category, generated=True)


def _owned(images: list[CorpusImage]) -> list[CorpusImage]:
    """Name the generator of ForenSynths' training images, which the layout leaves out.

    It is the one tested generator whose images show all categories of the training images.
    """
    nameless = {p.category for p in images if p.generator == FAKE and p.split != "test"} - {""}
    shown: dict[str, set[str]] = defaultdict(set)
    for p in images:
        if p.split == "test" and p.generator:
            shown[p.generator].add(p.category)
    owners = [generator for generator, categories in shown.items() if nameless and nameless <= categories]
    if len(owners) != 1:
        return images
    (owner,) = owners
    return [replace(p, generator=owner) if p.split != "test" and p.generator in {None, FAKE} else p for p in images]


def _tested(root: Path, real: Sequence[str]) -> list[CorpusImage]:
    listing = list_images(root)
    entries = listing.of("test" if "test" in listing.splits else None)
    found = [p for e in entries if (p := _corpus_image(replace(e, split="test"), real)) is not None]
    if not found:
        raise DataMissing(f"{root}: no images to test on; it needs a folder for each of the corpus's classes")
    return found


def _name_of(test: Path) -> str:
    """The name of a data set for people: its parent's if it is named like a split."""
    return test.parent.name if test.name in SPLITS else test.name


def _paired(images: Sequence[CorpusImage]) -> bool:
    tested = Counter(p.label for p in images if p.split == "test")
    return len(set(tested.values())) == 1 and all(p.generator is None for p in images if not p.generated)


def _size(image: CorpusImage) -> int:
    """Size in bytes; -1 if the file is missing, which reading it will report."""
    try:
        return image.extent.file.stat().st_size
    except OSError:
        return -1


def _set_aside(images: list[CorpusImage], split: SplitName) -> list[CorpusImage]:
    groups: dict[tuple[str | None, str, bool], list[CorpusImage]] = defaultdict(list)
    for p in images:
        if p.split == "train":
            groups[p.generator, p.category, p.generated].append(p)
    taken = {p.extent for group in groups.values() for p in group[len(group) - max(1, len(group) // 10) :]}
    return [replace(p, split=split) if p.split == "train" and p.extent in taken else p for p in images]


def _numbered(images: list[CorpusImage]) -> tuple[CorpusImage, ...]:
    seen: dict[tuple[SplitName, str | None, bool], int] = defaultdict(int)
    numbered = []
    for image in images:
        key = (image.split, image.generator, image.generated)
        numbered.append(replace(image, scene=seen[key]))
        seen[key] += 1
    return tuple(numbered)
