"""A data set with everything that can be wrong, made by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from trainer.errors import DataMissing
from trainer.inspection import inspect
from trainer.show_inspection import show

MakeFolder = Callable[..., Path]


@pytest.fixture
def flawed(make_folder: MakeFolder) -> Path:
    root = make_folder("set/train", images=12).parent
    make_folder("set/test", images=6)
    for path in root.glob("*/real/*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    (root / "test/grid/00.png").write_bytes((root / "train/grid/00.png").read_bytes())
    Image.open(root / "train/grid/01.png").save(root / "test/grid/01.png", compress_level=1)
    (root / "train/grid/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def test_what_is_there_and_what_is_wrong(flawed: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = inspect(flawed, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 37) for n in range(1, 38)]
    assert (found.images, found.layout, found.splits) == (36, "folders", ("train", "test"))
    grid, real = found.classes
    assert (grid.name, grid.images, grid.unreadable) == ("grid", {"test": 6, "train": 12}, 1)
    assert (grid.formats, grid.modes, grid.sizes, grid.qualities) == ({"PNG": 18}, {"RGB": 18}, {"32 x 32": 18}, {})
    assert (real.formats, real.qualities, real.subsamplings) == ({"JPEG baseline": 18}, {"90": 18}, {"4:2:0": 18})
    assert real.bytes == tuple(
        sorted(path.stat().st_size for path in flawed.glob("*/real/*"))[index] for index in (0, 9, 17)
    )
    assert [bad.path for bad in found.unreadable] == ["train/grid/broken.png"]

    assert found.same_file.other_split == {"train": {"test": 1}, "test": {"train": 1}}
    assert found.same_file.examples == (("test/grid/00.png", "train/grid/00.png"),)
    assert found.same_pixels.other_split == {"train": {"test": 2}, "test": {"train": 2}}
    assert found.near.other_split["train"]["test"] >= 2

    assert found.metadata is not None
    assert found.metadata.balanced_accuracy == 1
    warned = "\n".join(found.warnings)
    assert "metadata alone tell the classes apart: 100.0%" in warned
    assert "format and coding alone reaches 100.0%" in warned
    assert "equal pixels: 2 images of train are in test, too" in warned
    assert "1 files cannot be read, first train/grid/broken.png: " in warned


def test_tables_say_it_too(flawed: Path) -> None:
    console = Console(record=True, width=120, quiet=False, file=(flawed / "shown").open("w"))
    show(inspect(flawed), console)
    text = console.export_text()
    for word in ("JPEG baseline", "32 x 32", "test in train: 2", "metadata alone tell", "broken.png"):
        assert word in text
    console.file.close()


def test_nothing_is_wrong_with_a_good_set(make_folder: MakeFolder) -> None:
    found = inspect(make_folder(images=8))
    assert found.same_file.other_class == 0
    assert found.splits == ("",)
    assert not [warning for warning in found.warnings if "file size" not in warning]


def test_a_set_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_text("words")
    with pytest.raises(DataMissing, match="none of its 1 files is an image"):
        inspect(tmp_path)


def test_an_empty_folder_is_told_what_a_set_is(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no images here; a data set has a sub-folder for each class"):
        inspect(tmp_path)
