"""Doubles that were put there, found, and counted as loops count them."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.inspection.duplicates import Duplicates, find_duplicates, perceptual_hash


def smooth(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_the_hash_survives_what_makes_near_duplicates_and_tells_pictures_apart() -> None:
    for seed in range(20):
        image = smooth(seed)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=50)
        for copy in (Image.open(buffer), image.resize((64, 64)), image.point(lambda v: min(255, v + 6))):
            assert bits(perceptual_hash(image), perceptual_hash(copy)) <= 4
        assert bits(perceptual_hash(image), perceptual_hash(smooth(seed + 100))) > 12


def by_loops(
    hashes: list[int], splits: list[int], classes: list[int], distance: int
) -> tuple[int, int, dict[tuple[int, int], int]]:
    same = other = 0
    across: dict[tuple[int, int], int] = {}
    count = len(hashes)
    for i in range(count):
        near = [j for j in range(count) if j != i and bits(hashes[i], hashes[j]) <= distance]
        same += any(splits[j] == splits[i] and classes[j] == classes[i] for j in near)
        other += any(classes[j] != classes[i] for j in near)
        for split in {splits[j] for j in near} - {splits[i]}:
            across[splits[i], split] = across.get((splits[i], split), 0) + 1
    return same, other, across


@pytest.mark.parametrize("distance", [0, 1, 4])
def test_counts_are_those_of_loops(distance: int) -> None:
    rng = np.random.default_rng(distance)
    originals = rng.integers(0, 2**63, 60, np.uint64)
    hashes = []
    for original in rng.choice(originals, 150):
        flips = rng.choice(64, rng.integers(0, 7), replace=False).astype(np.uint64)
        hashes.append(int(original ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))))
    splits, classes = rng.integers(0, 3, 150), rng.integers(0, 4, 150)
    found = find_duplicates(
        np.array(hashes, np.uint64), splits, classes, ("a", "b", "c"), [str(i) for i in range(150)], distance
    )
    same, other, across = by_loops(hashes, splits.tolist(), classes.tolist(), distance)
    assert (found.same_class, found.other_class) == (same, other)
    counts = {("abc".index(a), "abc".index(b)): n for a, others in found.other_split.items() for b, n in others.items()}
    assert counts == across
    for one, two in found.examples:
        assert one != two
        assert bits(hashes[int(one)], hashes[int(two)]) <= distance


def test_examples_across_splits_come_first() -> None:
    hashes = np.array([5, 5, 7, 9, 9], np.uint64)
    found = find_duplicates(
        hashes, np.array([0, 0, 0, 0, 1]), np.zeros(5, np.int64), ("train", "test"), ["a", "b", "c", "d", "e"]
    )
    assert found == Duplicates(
        same_class=2,
        other_class=0,
        other_split={"train": {"test": 1}, "test": {"train": 1}},
        examples=(("d", "e"), ("a", "b")),
    )


def test_examples_of_other_classes_come_before_them() -> None:
    hashes = np.array([5, 5, 9, 9], np.uint64)
    found = find_duplicates(
        hashes, np.array([0, 1, 0, 1]), np.array([0, 0, 0, 1]), ("train", "test"), ["a", "b", "c", "d"]
    )
    assert found.other_class == 2
    assert found.examples == (("c", "d"), ("a", "b"))
