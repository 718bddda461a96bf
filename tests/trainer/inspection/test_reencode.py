"""Pixels against Pillow's, names and labels against the source, and nothing half done."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.folders import very_deep
from trainer.data.layouts import list_images
from trainer.errors import DataMalformed, DataMissing, OutputExists, TooManyUnreadable
from trainer.inspection.metadata import read_metadata
from trainer.inspection.reencode import Reencoding, encode, reencode

MakeFolder = Callable[..., Path]

PNG = Reencoding(format="png")


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))


def test_tags_go_and_orientation_is_carried_out() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    data = encoded(PICTURE, exif=exif, icc_profile=b"profile" * 20)
    for form in ("png", "jpeg", "webp"):
        made = encode(data, Reencoding(format=form))
        assert made is not None
        metadata = read_metadata(made)
        assert (metadata.exif, metadata.icc, metadata.other_tags) == (False, False, False)
        assert (metadata.width, metadata.height) == (40, 56)
    made = encode(data, PNG)
    assert made is not None
    np.testing.assert_array_equal(pixels(made), np.rot90(np.asarray(PICTURE), -1))


def test_quality_and_sizes() -> None:
    data = encoded(PICTURE)
    jpeg = encode(data, Reencoding(format="jpeg", quality=73))
    assert jpeg is not None
    assert jpeg == encoded(PICTURE, "JPEG", quality=73, subsampling="4:2:0")
    crop = encode(data, Reencoding(format="png", size=32))
    assert crop is not None
    np.testing.assert_array_equal(pixels(crop), np.asarray(PICTURE)[4:36, 12:44])
    whole = encode(data, Reencoding(format="png", size=32, fit="resize"))
    assert whole is not None
    assert pixels(whole).shape == (32, 32, 3)
    assert encode(data, Reencoding(format="png", size=41)) is None


def test_folders_keep_their_names(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("set/train", images=2).parent
    Image.open(root / "train/real/00.png").save(root / "train/real/00.bmp")
    (root / "train/real/broken.png").write_text("words")
    Image.new("RGB", (20, 20)).save(root / "train/grid/small.png")
    out = tmp_path / "out"
    report = reencode(root, out, Reencoding(format="webp", size=24))
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "reencode.json",
        "train/grid/00.webp",
        "train/grid/01.webp",
        "train/real/00.bmp.webp",
        "train/real/00.png.webp",
        "train/real/01.webp",
    ]
    assert report.written == 5
    assert report.too_small == ("train/grid/small.png",)
    assert report.unreadable[0].startswith("train/real/broken.png: ")
    assert json.loads((out / "reencode.json").read_text())["reencoding"]["format"] == "webp"
    assert [(entry.label, entry.split) for entry in list_images(out).entries][:1] == [("grid", "train")]


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl"])
def test_lists_are_written_anew(make_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    root = make_folder(images=2)
    rows = [
        {"path": "grid/00.png", "label": "a", "split": "train"},
        {"path": "real/01.png", "label": "b, c", "split": "test"},
    ]
    if name.endswith(".csv"):
        with (root / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "label", "split"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (root / name).write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
    reencode(root / name, tmp_path / "out", Reencoding(format="jpeg"))
    entries = list_images(tmp_path / "out" / name).entries
    assert [(entry.path.as_posix(), entry.label, entry.split) for entry in entries] == [
        ("grid/00.jpg", "a", "train"),
        ("real/01.jpg", "b, c", "test"),
    ]
    assert all(entry.extent.read() for entry in entries)


def test_a_list_may_not_reach_out_of_its_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    (root / "l.csv").write_text("path,label\n../x.png,a\n")
    with pytest.raises(DataMalformed, match="lies outside of the list's folder"):
        reencode(root / "l.csv", tmp_path / "out", PNG)


def test_folders_too_deep_to_write_are_refused(make_folder: MakeFolder, tmp_path: Path, png: bytes) -> None:
    data = make_folder()
    with very_deep(data / "real/a") as deepest:
        (deepest / "x.png").write_bytes(png)
        with pytest.raises(DataMalformed, match=r"real/a/a/\.\.\. lies too deep, move it up"):
            reencode(data, tmp_path / "out", PNG)
    assert not (tmp_path / "out").exists()


def test_shards_keep_their_other_members(tmp_path: Path) -> None:
    members = {"1.jpg": encoded(PICTURE, "JPEG"), "1.cls": b"7", "a/2.png": encoded(PICTURE), "readme": b"words"}
    (tmp_path / "in/train").mkdir(parents=True)
    with tarfile.open(tmp_path / "in/train/0.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    report = reencode(tmp_path / "in", tmp_path / "out", PNG)
    assert report.written == 2
    with tarfile.open(tmp_path / "out/train/0.tar") as tar:
        assert tar.getnames() == ["1.png", "1.cls", "a/2.png", "readme"]
    old, new = (list_images(tmp_path / name).entries for name in ("in", "out"))
    assert [(entry.label, entry.split) for entry in new] == [("7", "train"), ("a", "train")]
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(pixels(before.extent.read()), pixels(after.extent.read()))


def pack(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


@pytest.mark.parametrize("before", ["./", "/"])
def test_samples_of_a_shard_stay_together(tmp_path: Path, before: str) -> None:
    root = pack(tmp_path / "in/0.tar", {f"{before}0.PNG": encoded(PICTURE), f"{before}0.cls": b"7"})
    reencode(root, tmp_path / "out", Reencoding(format="jpeg"))
    with tarfile.open(tmp_path / "out/0.tar") as tar:
        assert tar.getnames() == [f"{before}0.jpg", f"{before}0.cls"]
    assert [entry.label for entry in list_images(tmp_path / "out").entries] == ["7"]


def test_no_mask_stands_for_an_image_that_is_left_out(tmp_path: Path) -> None:
    members = {"a/0.mask.png": encoded(PICTURE), "a/0.png": b"broken", "a/0.txt": b"words", "a/1.png": encoded(PICTURE)}
    reencode(pack(tmp_path / "in/0.tar", members), tmp_path / "out", PNG)
    with tarfile.open(tmp_path / "out/0.tar") as tar:
        assert tar.getnames() == ["a/0.txt", "a/1.png"]


def test_no_member_of_a_shard_takes_the_name_of_another(tmp_path: Path) -> None:
    members = {
        "a/0.png": encoded(PICTURE),
        "a/0.jpg.json": b"{}",
        "a/1.mask.webp": b"mask",
        "a/1.PNG": encoded(PICTURE),
    }
    reencode(pack(tmp_path / "in/0.tar", members), tmp_path / "out", PNG)
    with tarfile.open(tmp_path / "out/0.tar") as tar:
        assert tar.getnames() == ["a/0.png", "a/0.jpg.json", "a/1.mask.webp", "a/1.png"]

    apart = {name: encoded(PICTURE) for name in ("a/0.png", "a/0.png.jpg", "a/1.png", "a/0.webp")}
    with pytest.raises(DataMalformed, match=r"a/0\.png: cannot become a/0\.png\.jpg, which is another file"):
        reencode(pack(tmp_path / "apart/0.tar", apart), tmp_path / "apart.out", Reencoding(format="jpeg"), force=True)


def test_no_image_takes_the_name_of_another(tmp_path: Path) -> None:
    pictures = {
        name: Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i, name in enumerate(("a.png", "a.gif", "a.png.jpg"))
    }
    (tmp_path / "in/real").mkdir(parents=True)
    for name, picture in pictures.items():
        (tmp_path / "in/real" / name).write_bytes(encoded(picture))
    reencode(tmp_path / "in", tmp_path / "out", Reencoding(format="jpeg"))
    assert {path.name for path in (tmp_path / "out/real").iterdir()} == {"a.png.jpg", "a.gif.jpg", "a.png.jpg.jpg"}


@pytest.mark.parametrize("what", ["nothing but words", "all broken", "all too small"])
def test_nothing_is_replaced_by_nothing(tmp_path: Path, what: str) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    (root / "real").mkdir(parents=True)
    out.mkdir()
    (out / "mine").write_text("kept")
    match what:
        case "nothing but words":
            (root / "real").rmdir()
            (root / "README.txt").write_text("words")
        case "all broken":
            (root / "real/0.png").write_text("words")
        case "all too small":
            PICTURE.save(root / "real/0.png")
    with pytest.raises(DataMissing, match=r"no images? "):
        reencode(root, out, Reencoding(format="png", size=100), force=True)
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_what_the_format_cannot_hold_is_left_out(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(images=1)
    Image.new("RGB", (16_500, 2)).save(root / "real/wide.png")
    report = reencode(root, tmp_path / "out", Reencoding(format="webp"))
    assert report.written == 2
    assert report.unreadable[0].startswith("real/wide.png: 16500 x 2 pixels cannot be webp")


def test_the_output_may_be_a_link_but_not_where_we_are(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(images=1)
    (tmp_path / "disk/full").mkdir(parents=True)
    (tmp_path / "disk/full/old").touch()
    (tmp_path / "out").symlink_to("disk/full")
    reencode(root, tmp_path / "out", PNG, force=True)
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk/full").iterdir()) == ["grid", "real", "reencode.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "disk", "out"]
    assert len(list((tmp_path / "disk").iterdir())) == 1

    monkeypatch.chdir(tmp_path / "disk/full")
    with pytest.raises(OutputExists, match="is the current directory"):
        reencode(root, Path(), PNG, force=True)


def test_nothing_is_overwritten_or_left_half_done(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(images=2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(OutputExists, match="pass --force"):
        reencode(root, out, PNG)
    for place in (root, root / "real" / "new", tmp_path):
        with pytest.raises(OutputExists, match="overlaps"):
            reencode(root, place, PNG, force=True)
    (root / "real/broken.png").write_text("words")
    with pytest.raises(TooManyUnreadable, match=r"more than 0 unreadable images, first real/broken\.png"):
        reencode(root, out, PNG, max_unreadable=0, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert (out / "mine").read_text() == "kept"

    reencode(root, out, PNG, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["grid", "real", "reencode.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
