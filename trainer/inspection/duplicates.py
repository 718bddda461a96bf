"""Duplicate images: equal hashes, or hashes that differ in a few bits."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict
from scipy.fft import dctn
from scipy.sparse import coo_array, csr_array, eye_array

from trainer.arrays import Numbers

Hashes = npt.NDArray[np.uint64]

NEAR: Final = 4
"""The largest number of bits, of 64, in which the hashes of near duplicates differ."""


class Duplicates(BaseModel):
    """How many images have a duplicate, by where that lies; an image may count several times."""

    model_config = ConfigDict(frozen=True)

    same_class: int
    """Images with a duplicate in the same split and class."""
    other_class: int
    """Images with a duplicate in another class, in any split: a label is wrong, or the classes overlap."""
    other_split: dict[str, dict[str, int]]
    """Split -> other split -> images of the former with a duplicate in the latter; without zeros."""
    examples: tuple[tuple[str, str], ...]
    """Paths of pairs: those of different classes first, then those of different splits."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that survive scaling and compression: signs of the 8 x 8 lowest frequencies against their median.

    It is the ``phash`` of the ImageHash library (after Zauner 2010): the DCT of the image at 32 x 32, in grey.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    lowest = dctn(grey)[:8, :8]
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def find_duplicates(
    hashes: Hashes, splits: Numbers, classes: Numbers, split_names: tuple[str, ...], names: list[str], distance: int = 0
) -> Duplicates:
    """Count duplicates among N images.

    Args:
        hashes: ``uint64[N]``.
        splits: ``int64[N]``, indices into ``split_names``.
        classes: ``int64[N]``.
        split_names: the names of the splits.
        names: the paths of the images, for the examples.
        distance: the largest number of bits in which duplicates differ.
    """
    distinct, which = np.unique(hashes, return_inverse=True)
    near = _neighbours(distinct, distance)
    class_count = int(classes.max()) + 1
    cells, cell = np.unique(splits * class_count + classes, return_inverse=True)
    in_cell = near @ _count(which, cell, len(distinct), len(cells))
    in_class = near @ _count(which, classes, len(distinct), class_count)
    in_split = near @ _count(which, splits, len(distinct), len(split_names))
    conflicting = in_split[which].sum(axis=1) > in_class[which, classes]
    elsewhere = {
        name: {
            other: count
            for to, other in enumerate(split_names)
            if to != number and (count := int((in_split[which[splits == number], to] > 0).sum()))
        }
        for number, name in enumerate(split_names)
    }
    across = (in_split[which] > 0).sum(axis=1) > 1
    return Duplicates(
        same_class=int((in_cell[which, cell] > 1).sum()),
        other_class=int(conflicting.sum()),
        other_split={name: counts for name, counts in elsewhere.items() if counts},
        examples=_examples(
            (
                (conflicting, lambda one, other: classes[one] != classes[other]),
                (across, lambda one, other: splits[one] != splits[other]),
                (in_split[which, splits] > 1, lambda one, other: splits[one] == splits[other]),
            ),
            near,
            which,
            names,
        ),
    )


def _count(rows: Numbers, columns: Numbers, height: int, width: int) -> npt.NDArray[np.int64]:
    """How many of N (row, column) pairs there are of each kind: ``int64[height, width]``."""
    counts = np.zeros((height, width), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _neighbours(distinct: Hashes, distance: int) -> csr_array:
    """Which of K hashes differ in at most ``distance`` bits, as a sparse symmetric matrix of 0 and 1.

    Two such hashes are equal in at least one of ``distance + 1`` bands of bits: only those that share a band are
    compared.
    """
    bands = np.array_split(np.arange(64, dtype=np.uint64), distance + 1) if distance else []
    pairs: list[tuple[Numbers, Numbers]] = []
    for band in bands:
        mask = np.bitwise_or.reduce(np.uint64(1) << band)
        _, bucket, sizes = np.unique(distinct & mask, return_inverse=True, return_counts=True)
        order = np.argsort(bucket, kind="stable")
        for members in np.split(order, np.cumsum(sizes)[:-1]):
            for index in range(len(members) - 1):
                later = members[index + 1 :]
                close = later[np.bitwise_count(distinct[members[index]] ^ distinct[later]) <= distance]
                pairs.append((np.full(len(close), members[index]), close))
    matrix = csr_array(eye_array(len(distinct), dtype=np.int64))
    if pairs:
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        linked = coo_array((np.ones(len(one), np.int64), (one, other)), matrix.shape).tocsr()
        matrix = ((matrix + linked + linked.T) > 0).astype(np.int64)
    return csr_array(matrix)


def _examples(
    kinds: Sequence[tuple[npt.NDArray[np.bool_], Callable[[int, int], np.bool_]]],
    near: csr_array,
    which: Numbers,
    names: list[str],
    most: int = 10,
) -> tuple[tuple[str, str], ...]:
    """Pairs of paths: for each kind, images that have such a duplicate, and the first duplicate that fits."""
    found: dict[tuple[str, str], None] = {}
    for wanted, fits in kinds:
        for index in np.flatnonzero(wanted):
            if len(found) == most:
                return tuple(found)
            others = np.flatnonzero(np.isin(which, near[[which[index]]].indices))
            fitting = [other for other in others if other != index and fits(int(index), int(other))]
            if fitting:
                first, second = sorted((int(index), int(fitting[0])))
                found[names[first], names[second]] = None
    return tuple(found)
