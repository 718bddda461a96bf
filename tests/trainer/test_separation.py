import numpy as np
import pytest

from trainer.metadata import Metadata, MetadataTable, tabulate
from trainer.separation import separate

NAMES = ("a", "b", "real")


def table(form: list[str], sizes: list[int]) -> MetadataTable:
    return tabulate(
        [
            Metadata(name, "RGB", 64, 64, size, "", 0, False, "", False, False, False)
            for name, size in zip(form, sizes, strict=True)
        ]
    )


def test_formats_that_follow_the_class_are_found_and_named() -> None:
    labels = np.repeat([0, 1, 2], 40)
    forms = ["PNG"] * 80 + ["JPEG"] * 40
    sizes = np.random.default_rng(0).integers(4000, 9000, 120).tolist()
    found = separate(table(forms, sizes), labels, NAMES, frozenset({"real"}))
    assert found is not None
    assert found.groups[0].name == "format and coding"
    assert found.groups[0].balanced_accuracy == pytest.approx(2 / 3, abs=0.01)  # real, and one of the others
    assert found.auroc_real == 1
    assert found.chance == pytest.approx(1 / 3)
    assert found.p_value == 0.001
    assert found.alarming
    assert found.skill > 0.4


@pytest.mark.parametrize("seed", range(3))
def test_metadata_that_say_nothing_do_not_alarm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = separate(
        table(["PNG"] * 150, rng.integers(4000, 9000, 150).tolist()), np.repeat([0, 1, 2], 50), NAMES, frozenset()
    )
    assert found is not None
    assert not found.alarming
    assert found.auroc_real is None
    assert {group.balanced_accuracy for group in found.groups if group.name != "file size"} == {1 / 3}


def test_classes_with_too_few_images_are_left_out() -> None:
    labels = np.array([0] * 10 + [1] * 4 + [2] * 10)
    found = separate(table(["PNG"] * 24, list(range(100, 124))), labels, NAMES, frozenset({"real"}))
    assert found is not None
    assert found.classes == ("a", "real")
    assert found.images == 20
    assert found.p_value <= 0.05  # sizes ascend with the class
    assert separate(table(["PNG"] * 10, [9] * 10), np.array([0] * 9 + [1]), NAMES, frozenset()) is None
