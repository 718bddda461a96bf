from dataclasses import replace

import numpy as np
import pytest

from trainer.inspection.metadata import INSPECTED, Metadata, MetadataTable, tabulate
from trainer.inspection.separation import separate

NAMES = ("a", "b", "real")
PNG = Metadata("PNG", "RGB", 64, 64, 6000, "", 0, False, "", False, False, False, 8, "default", ())


def table(form: list[str], sizes: list[int]) -> MetadataTable:
    return tabulate([replace(PNG, format=name, bytes=size) for name, size in zip(form, sizes, strict=True)])


def test_formats_that_follow_the_class_are_found_and_named() -> None:
    labels = np.repeat([0, 1, 2], 40)
    forms = ["PNG"] * 80 + ["JPEG"] * 40
    sizes = np.random.default_rng(0).integers(4000, 9000, 120).tolist()
    found = separate(table(forms, sizes), labels, NAMES, frozenset({"real"}))
    assert found is not None
    assert found.by_class.culprit.name == "format and coding"
    assert found.by_class.groups[0].balanced_accuracy == pytest.approx(2 / 3, abs=0.01)  # real, and one of the others
    assert found.by_class.chance == pytest.approx(1 / 3)
    assert found.by_class.everything.p_value == 0.001
    assert found.by_class.alarming
    assert found.real is not None
    assert (found.real.auroc, found.real.chance) == (1, 0.5)
    assert found.real.everything.balanced_accuracy == pytest.approx(1)
    assert list(found.questions) == ["the classes apart", "real from generated"]


def test_photographs_that_stand_out_among_many_generators_alarm() -> None:
    """One class of 25 told from the rest is hardly more than chance for naming the class."""
    names = ("real", *(f"generator {number}" for number in range(24)))
    labels = np.repeat(np.arange(25), 12)
    sizes = np.random.default_rng(0).integers(4000, 9000, 300).tolist()
    found = separate(table(["JPEG"] * 12 + ["PNG"] * 288, sizes), labels, names, frozenset({"real"}))
    assert found is not None
    assert not found.by_class.alarming
    assert found.real is not None
    assert found.real.alarming
    assert found.real.culprit.name == "format and coding"
    assert found.alarming


def test_a_group_alone_alarms_where_all_together_do_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    sizes, sides, qualities = rng.integers(4000, 9000, 80), rng.integers(64, 512, (80, 2)), rng.integers(50, 100, 80)
    tagged = labels * rng.random(80) > 0.5
    images = [
        replace(PNG, bytes=int(size), width=int(width), height=int(height), quality=int(quality), exif=bool(exif))
        for size, (width, height), quality, exif in zip(sizes, sides, qualities, tagged, strict=True)
    ]
    found = separate(tabulate(images), labels, ("a", "real"), frozenset({"real"}))
    assert found is not None
    assert not found.by_class.everything.alarming
    assert found.by_class.culprit.name == "EXIF, profile, tags"
    assert found.by_class.culprit.alarming
    assert found.alarming


def test_sides_that_are_multiples_are_found_by_an_inspection() -> None:
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.integers(64, 257, (60, 2)) // 8 * 8, rng.integers(64, 257, (60, 2))])
    images = [replace(PNG, width=int(width), height=int(height)) for width, height in sides]
    found = separate(tabulate(images, INSPECTED), np.repeat([0, 1], 60), ("a", "real"), frozenset({"real"}))
    assert found is not None
    assert found.by_class.culprit.name == "width and height"
    assert found.by_class.culprit.balanced_accuracy > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_metadata_that_say_nothing_do_not_alarm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = separate(
        table(["PNG"] * 150, rng.integers(4000, 9000, 150).tolist()), np.repeat([0, 1, 2], 50), NAMES, frozenset()
    )
    assert found is not None
    assert not found.alarming
    assert found.real is None
    constant = [group for group in found.by_class.groups if group.name != "file size"]
    assert {(round(group.balanced_accuracy, 9), group.p_value) for group in constant} == {(round(1 / 3, 9), 1)}


def test_of_two_classes_both_questions_are_one() -> None:
    found = separate(table(["PNG"] * 20, list(range(100, 120))), np.repeat([0, 2], 10), NAMES, frozenset({"real"}))
    assert found is not None
    assert found.real == found.by_class
    assert list(found.questions) == ["the classes apart"]


def test_classes_with_too_few_images_are_left_out() -> None:
    labels = np.array([0] * 10 + [1] * 4 + [2] * 10)
    found = separate(table(["PNG"] * 24, list(range(100, 124))), labels, NAMES, frozenset({"real"}))
    assert found is not None
    assert found.classes == ("a", "real")
    assert found.images == 20
    assert found.by_class.everything.p_value <= 0.05  # sizes ascend with the class
    assert separate(table(["PNG"] * 10, [9] * 10), np.array([0] * 9 + [1]), NAMES, frozenset()) is None
