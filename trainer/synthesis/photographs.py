"""Real photographs, their split, and the patches that are cut from them.

The split comes first: no photograph, and no second image of the same scene, is in two splits.
"""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from bundle.errors import ImageError
from bundle.files import IMAGE_BYTES, read_regular
from bundle.preprocess import decode
from bundle.text import counted
from trainer.arrays import Pixels
from trainer.data.entries import may_be_image
from trainer.data.layouts import walk
from trainer.errors import DataMissing, TooFewPhotographs

Split = Literal["train", "calib", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calib", "test")
HELD_OUT: Final = 0.25
"""Share of a folder's photographs that goes to ``calib``, and to ``test`` as well."""

BUNDLED: Final[dict[Split, tuple[tuple[str, str], ...]]] = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/brick.png"),
        ("skimage", "data/camera.png"),
        ("skimage", "data/grass.png"),
        ("skimage", "data/hubble_deep_field.jpg"),
        ("skimage", "data/ihc.png"),
        ("skimage", "data/moon.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/motorcycle_right.png"),
        ("skimage", "data/retina.jpg"),
        ("skimage", "data/rocket.jpg"),
    ),
    "calib": (
        ("skimage", "data/coffee.png"),
        ("skimage", "data/coins.png"),
        ("skimage", "data/gravel.png"),
        ("sklearn", "datasets/images/china.jpg"),
    ),
    "test": (
        ("skimage", "data/chelsea.png"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
}
"""Photographs in the wheels of scikit-image and scikit-learn: (package, file). So few scenes are too few to be split at
random, so the split is fixed, with former JPEGs and PNGs in each part and everyday subjects in the last. ``retina``, a
strongly compressed JPEG, is in ``train``: where it is held out, its reals are taken for generated ones, so no such
photograph is held out. Six are grey and stay grey in every class (``synth.keep_grey``)."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """File of a photograph."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Location of a patch in its (shrunken) photograph: left upper corner, in pixels."""

    photograph: str
    x: int
    y: int
    mirrored: bool


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of one split: ``pixels`` is ``uint8[N, size, size, 3]``, ``origins`` has the location of each."""

    pixels: Pixels
    origins: tuple[Patch, ...]


def split_photographs(real: Path | None, seed: int) -> dict[Split, tuple[Photograph, ...]]:
    """Split the photographs of a folder at random by ``seed``, or the bundled ones by a fixed split.

    Only the first by name of equal files is taken.

    Raises:
        DataMissing: there is no such folder, or a bundled photograph is missing from its package.
        TooFewPhotographs: there are fewer than four.
    """
    if real is None:
        return {split: tuple(_bundled(*where) for where in BUNDLED[split]) for split in SPLITS}
    if not real.is_dir():
        raise DataMissing(f"{real}: no such folder of photographs")
    paths = sorted(real / path for path in walk(real) if may_be_image(path))
    photographs = _without_copies([_photograph(*named) for named in zip(_unique_names(paths), paths, strict=True)])
    if (count := len(photographs)) < 4:
        raise TooFewPhotographs(f"{real}: {counted(count, 'photograph')}; 4 are the least that can be split in three")
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, round(count * HELD_OUT))
    parts = {"calib": order[:held_out], "test": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    return {split: tuple(photographs[i] for i in sorted(parts[split])) for split in SPLITS}


def cut_patches(photographs: tuple[Photograph, ...], size: int, shrink: float, count: int, seed: int) -> Patches:
    """Cut ``count`` patches, as evenly from all photographs as their sizes allow.

    Photographs are made ``shrink`` times smaller first (Lanczos, antialiased): that weakens the traces of an earlier
    JPEG compression and of the camera's own interpolation, which only the reals would show in full. Flat patches
    are passed over, for all classes alike: a clipped sky holds no evidence of anything. Neighbours may overlap by three
    quarters.

    Raises:
        DataMissing: a photograph cannot be decoded.
        TooFewPhotographs: the photographs hold fewer patches.
    """
    rng = np.random.default_rng(seed)
    shrunken = {photograph.name: _shrunken(photograph, shrink) for photograph in photographs}
    candidates = {name: _candidates(name, pixels, size, rng) for name, pixels in shrunken.items()}
    if (available := sum(map(len, candidates.values()))) < count:
        raise TooFewPhotographs(
            f"{len(photographs)} photographs hold {available} patches of {size} px (after shrinking by {shrink}), "
            f"{count} are requested; give more photographs or request fewer"
        )
    chosen: list[Patch] = []
    while len(chosen) < count:
        chosen += [remaining.pop() for remaining in candidates.values() if remaining]
    chosen = chosen[:count]
    return Patches(np.stack([_cut(shrunken[patch.photograph], patch, size) for patch in chosen]), tuple(chosen))


def _bundled(package: str, path: str) -> Photograph:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataMissing(f"{package} is not installed; its photographs are the default, name others with --real")
    return _photograph(Path(path).stem, Path(spec.origin).parent / path)


def _photograph(name: str, path: Path) -> Photograph:
    try:
        return Photograph(name, path, hashlib.sha256(read_regular(path, IMAGE_BYTES)).hexdigest())
    except OSError as error:
        raise DataMissing(f"{path}: cannot be read: {error.strerror}") from error


def _without_copies(photographs: list[Photograph]) -> list[Photograph]:
    first: dict[str, Photograph] = {}
    for photograph in photographs:
        first.setdefault(photograph.sha256, photograph)
    return list(first.values())


def _unique_names(paths: list[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}-{number}" for number, stem in enumerate(stems)]


def _shrunken(photograph: Photograph, shrink: float) -> Pixels:
    try:
        image = decode(read_regular(photograph.path, IMAGE_BYTES)).image
    except ImageError as error:
        raise DataMissing(f"{photograph.path}: not a photograph that can be used: {error}") from error
    size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _candidates(name: str, pixels: Pixels, size: int, rng: np.random.Generator) -> list[Patch]:
    """Patches on a grid with a quarter of ``size`` as its step, in random order, without the flat ones."""
    height, width = pixels.shape[:2]
    step = size // 4
    corners = [(x, y) for y in range(0, height - size + 1, step) for x in range(0, width - size + 1, step)]
    lively = [(x, y) for x, y in corners if not _is_flat(pixels[y : y + size, x : x + size])]
    shuffled = [lively[index] for index in rng.permutation(len(lively))]
    return [Patch(name, x, y, mirrored=bool(rng.integers(2))) for x, y in shuffled]


def _is_flat(pixels: Pixels) -> bool:
    """Whether neighbours differ by less than 2 grey levels on average."""
    grey = pixels.mean(axis=2)
    return bool(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean() < 4)


def _cut(pixels: Pixels, patch: Patch, size: int) -> Pixels:
    cut = pixels[patch.y : patch.y + size, patch.x : patch.x + size]
    return cut[:, ::-1] if patch.mirrored else cut
