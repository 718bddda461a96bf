"""Pictures that are there twice: equal hashes, or hashes that differ in a few bits."""

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
"""Bits of 64 in which the hashes of near duplicates may differ."""


class Duplicates(BaseModel):
    """How many images have a double, and where the double lies; an image may count under several."""

    model_config = ConfigDict(frozen=True)

    same_class: int
    """In the same split and class."""
    other_class: int
    """In another class, in whatever split: one of the two labels is wrong, or the classes show the same."""
    other_split: dict[str, dict[str, int]]
    """Split -> other split -> images of the former with a double in the latter; without the zeros."""
    examples: tuple[tuple[str, str], ...]
    """Pairs, those of different classes first, then those across splits."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that survive scaling and compression: signs of the 8 x 8 lowest frequencies against their median.

    As ``phash`` of the ImageHash library (after Zauner 2010): the DCT of the picture at 32 x 32, in grey.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    lowest = dctn(grey)[:8, :8]
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def find_duplicates(
    hashes: Hashes, splits: Numbers, classes: Numbers, split_names: tuple[str, ...], names: list[str], distance: int = 0
) -> Duplicates:
    """Count doubles among N images.

    Args:
        hashes: ``uint64[N]``.
        splits: ``int64[N]``, index into ``split_names``.
        classes: ``int64[N]``.
        split_names: of the splits.
        names: of the images, for the examples.
        distance: bits in which doubles may differ.
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
    """How many of N fall into each place of ``int64[height, width]``."""
    counts = np.zeros((height, width), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _neighbours(distinct: Hashes, distance: int) -> csr_array:
    """Which hashes are near which, themselves included: ``bool[K, K]``, sparse.

    Of two hashes that differ in ``distance`` bits, at least one of ``distance + 1`` bands is alike: only those that
    share a band are compared.
    """
    bands = np.array_split(np.arange(64, dtype=np.uint64), distance + 1) if distance else []
    pairs: list[tuple[Numbers, Numbers]] = []
    for band in bands:
        mask = np.bitwise_or.reduce(np.uint64(1) << band)
        _, bucket, sizes = np.unique(distinct & mask, return_inverse=True, return_counts=True)
        order = np.argsort(bucket, kind="stable")
        for members in np.split(order, np.cumsum(sizes)[:-1]):
            for place in range(len(members) - 1):
                later = members[place + 1 :]
                close = later[np.bitwise_count(distinct[members[place]] ^ distinct[later]) <= distance]
                pairs.append((np.full(len(close), members[place]), close))
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
    """Of each kind those images that have such a double, and which of their doubles it is."""
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
