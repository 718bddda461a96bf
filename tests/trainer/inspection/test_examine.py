"""A data set with everything that can be wrong, made by hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from rich.console import Console

from trainer.errors import DataMissing, RealLabelMissing
from trainer.inspection.examine import inspect
from trainer.inspection.show import show

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
    assert (grid.formats, grid.modes, grid.sizes, grid.qualities) == (
        {"PNG": 17, "PNG fastest": 1},
        {"RGB": 18},
        {"32 x 32": 18},
        {},
    )
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
    assert found.metadata.by_class.everything.balanced_accuracy == pytest.approx(1)
    warned = "\n".join(found.warnings)
    assert "metadata alone tell the classes apart: 100.0%" in warned
    assert "format and coding alone reaches 100.0%" in warned
    assert "equal pixels: 2 images of train are in test, too" in warned
    assert "1 file cannot be read, first train/grid/broken.png: " in warned


def test_tables_say_it_too(flawed: Path) -> None:
    console = Console(record=True, width=120, quiet=False, file=(flawed / "shown").open("w"))
    show(inspect(flawed), console)
    text = console.export_text()
    for word in ("JPEG baseline", "32 x 32", "test in train: 2", "metadata alone tell", "broken.png"):
        assert word in text
    console.file.close()


def test_nothing_is_wrong_with_a_good_set(make_folder: MakeFolder) -> None:
    found = inspect(make_folder(images=12))
    assert found.same_file.other_class == 0
    assert found.splits == ("",)
    assert not [warning for warning in found.warnings if "file size" not in warning]
    assert found.containers_alike


def test_a_set_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_text("words")
    with pytest.raises(DataMissing, match=r"none of its files \(1\) is an image"):
        inspect(tmp_path)


def test_an_empty_folder_is_told_what_a_set_is(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no images here; a data set has a sub-folder for each class"):
        inspect(tmp_path)


def noise(seed: int, smooth: bool = False) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return Image.fromarray(pixels // 64 * 64 if smooth else pixels)


def save(root: Path, of_class: dict[str, Callable[[int, Path], None]], images: int = 12) -> Path:
    for number, (label, write) in enumerate(of_class.items()):
        (root / label).mkdir(parents=True)
        for index in range(images):
            write(100 * number + index, root / label / f"{index}.png")
    return root


def test_a_mistyped_class_of_photographs_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(classes=("grid", "photos"))
    inspect(folder, real=["photos"])
    with pytest.raises(RealLabelMissing, match="--real fotos: no such label, only grid, photos"):
        inspect(folder, real=["fotos"])


def test_what_re_encoding_removes_is_not_said_to_follow_from_pictures(tmp_path: Path) -> None:
    def png(level: int) -> Callable[[int, Path], None]:
        return lambda seed, path: noise(seed).save(path, compress_level=level)

    def claimed(seed: int, path: Path) -> None:
        manifest = PngImagePlugin.PngInfo()
        manifest.add(b"caBX", bytes(4000 + seed))
        noise(seed).save(path, pnginfo=manifest)

    def smooth(seed: int, path: Path) -> None:
        noise(seed, smooth=True).save(path)

    for name, other in (("levels", png(0)), ("claims", claimed)):
        warning = inspect(save(tmp_path / name, {"fake": other, "real": png(6)})).warnings[0]
        assert "`genprint trainer reencode` makes containers alike: do that first" in warning
    warning = inspect(save(tmp_path / "smooth", {"fake": smooth, "real": png(6)})).warnings[0]
    assert "file size alone reaches" in warning
    assert "state this baseline" in warning

    def large(seed: int, path: Path) -> None:
        noise(seed).resize((40, 40)).save(path)

    warning = inspect(save(tmp_path / "large", {"fake": large, "real": png(6)})).warnings[0]
    assert "`genprint trainer reencode --size` makes sides alike" in warning


def test_photographs_apart_from_many_generators(tmp_path: Path) -> None:
    def png(seed: int, path: Path) -> None:
        noise(seed).save(path)

    def jpeg(seed: int, path: Path) -> None:
        noise(seed).save(path.with_suffix(".jpg"))

    root = save(tmp_path, {**{f"g{number:02}": png for number in range(22)}, "real": jpeg}, images=12)
    (warning,) = inspect(root).warnings
    assert "metadata alone tell real from generated: 100.0%" in warning
    assert "format and coding alone reaches 100.0%" in warning


def test_tags_and_chunks_are_counted_and_few_images_told(tmp_path: Path) -> None:
    def text(seed: int, path: Path) -> None:
        words = PngImagePlugin.PngInfo()
        words.add_text("parameters", "Steps: 20")
        noise(seed).save(path, pnginfo=words)

    root = save(tmp_path / "set", {"fake": text})
    save(root, {"real": lambda seed, path: noise(seed + 50).save(path)}, images=4)
    found = inspect(root)
    assert [(facts.other_tags, facts.parts) for facts in found.classes] == [(12, {"tEXt": 12}), (0, {})]
    assert found.warnings == ("too few images (under 5) of real to say what metadata tell",)


def test_a_set_that_is_too_small_to_say_so_says_this(make_folder: MakeFolder) -> None:
    root = make_folder(images=6)
    for path in root.glob("real/*.png"):
        Image.open(path).save(path, "JPEG")
    assert "too few images (12) to say what metadata tell" in inspect(root).warnings


def test_doubles_are_those_of_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "train", {"real": lambda seed, path: noise(seed).save(path)})
    save(
        tmp_path / "test",
        {"real": lambda seed, path: noise(seed).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)},
    )
    found = inspect(tmp_path)
    assert found.same_pixels.other_split == {"train": {"test": 12}, "test": {"train": 12}}
    assert found.near.other_split == found.same_pixels.other_split


def test_an_image_with_two_labels_in_two_splits(tmp_path: Path) -> None:
    for split, label in (("train", "real"), ("test", "fake")):
        save(tmp_path / split, {label: lambda seed, path: noise(seed).save(path)}, images=3)
    assert "equal pixels in different classes, in any split: 6 images" in inspect(tmp_path).warnings


def test_names_are_no_markup_and_need_not_be_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latin = os.fsdecode(b"g\xe9n\xe9rateur")
    found = inspect(
        save(tmp_path, {name: lambda seed, path: noise(seed).save(path) for name in ("gan[v1]", "[b]0", latin)})
    )
    assert {facts.name for facts in found.classes} == {"gan[v1]", "[b]0", r"g\udce9n\udce9rateur"}
    assert r"g\\udce9n" in found.model_dump_json()
    show(found, Console(width=200))
    shown = capsys.readouterr().out
    for name in ("gan[v1]", "[b]0", r"g\udce9n\udce9rateur"):
        assert shown.count(name) == 2
