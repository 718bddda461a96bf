"""Each layout, made by hand: which images there are, of which class and split."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.errors import DataMalformed, DataMissing, SplitUnknown
from trainer.layouts import Entry, Layout, list_images

PNG = b"not decoded here"


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def told(entries: tuple[Entry, ...]) -> list[tuple[str, str, str | None]]:
    return [(entry.path.as_posix(), entry.label, entry.split) for entry in entries]


def test_folders(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "real/b/2.png", "grid/1.png", "real/1.png", ".git/x/1.png", "notes.txt"))
    assert listing.layout == "folders"
    assert told(listing.of(None)) == [
        ("grid/1.png", "grid", None),
        ("real/1.png", "real", None),
        ("real/b/2.png", "real", None),
    ]
    assert listing.entries[2].category == "b"
    assert listing.entries[0].extent.read() == PNG


def test_a_folder_without_sub_folders_is_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = make(tmp_path / "deconv", "2.png", "1.png", ".git/x/1.png")
    assert told(list_images(flat).of(None)) == [("1.png", "deconv", None), ("2.png", "deconv", None)]
    monkeypatch.chdir(flat)
    assert told(list_images(Path()).of(None)) == [("1.png", "deconv", None), ("2.png", "deconv", None)]
    assert list_images(make(tmp_path / "words", "README.md")).entries == ()


def test_folders_in_splits(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "train/real/1.png", "train/grid/1.png", "valid/real/1.png", "test/grid/1.png"))
    assert listing.splits == ("train", "val", "test")
    assert told(listing.of("val")) == [("valid/real/1.png", "real", "val")]
    with pytest.raises(SplitUnknown, match=r"name one of its splits \(train, val, test\)"):
        listing.of(None)
    with pytest.raises(SplitUnknown, match=r"none is 'calib' of its splits"):
        listing.of("calib")


def test_files_beside_the_classes_of_a_split_are_ignored(tmp_path: Path) -> None:
    for name in ("train/glow/a.png", "train/labels.csv", "test/real/b.png", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(entry.split, entry.label, entry.path.name) for entry in list_images(tmp_path).entries]
    assert sorted(found) == [("test", "real", "b.png"), ("train", "glow", "a.png")]


def test_a_class_may_be_named_as_a_split(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "train/1.png", "plane/1.png"))
    assert told(listing.of(None)) == [("plane/1.png", "plane", None), ("train/1.png", "train", None)]


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "real/1.png", "grid/1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissing, match="empty: no image in this class"):
        list_images(tmp_path)


def test_forensynths_as_it_is_tested(tmp_path: Path) -> None:
    """Some generators have categories, others have not; one category is called ``train``."""
    root = make(tmp_path, "biggan/0_real/1.png", "biggan/1_fake/1.png", "progan/train/0_real/1.png")
    listing = list_images(make(root, "progan/train/1_fake/1.png", "readme.txt"))
    assert listing.layout == "forensynths"
    assert told(listing.of(None)) == [
        ("biggan/0_real/1.png", "real", None),
        ("biggan/1_fake/1.png", "biggan", None),
        ("progan/train/0_real/1.png", "real", None),
        ("progan/train/1_fake/1.png", "progan", None),
    ]
    assert [entry.generator for entry in listing.entries] == ["biggan", "biggan", "progan", "progan"]
    assert [entry.category for entry in listing.entries] == ["", "", "train", "train"]


def test_forensynths_as_it_is_trained_on(tmp_path: Path) -> None:
    """No folder of the generator; without splits, and with a split above."""
    names = ("cat/0_real/1.png", "cat/1_fake/1.png", "train/1_fake/1.png")
    plain = list_images(make(tmp_path / "plain", *names))
    assert [(entry.label, entry.category, entry.split) for entry in plain.entries] == [
        ("real", "cat", None),
        ("fake", "cat", None),
        ("fake", "train", None),
    ]
    split = list_images(make(tmp_path / "split", *(f"train/{name}" for name in names), "val/cat/1_fake/1.png"))
    assert [(entry.label, entry.category, entry.split) for entry in split.entries] == [
        ("real", "cat", "train"),
        ("fake", "cat", "train"),
        ("fake", "train", "train"),
        ("fake", "cat", "val"),
    ]


def test_forensynths_without_any_level_above(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "0_real/1.png", "1_fake/1.png"))
    assert [entry.label for entry in listing.of(None)] == ["real", "fake"]


def test_a_third_folder_makes_them_plain_classes(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "0_real/1.png", "1_fake/1.png", "photos/1.png"))
    assert listing.layout == "folders"
    assert [entry.label for entry in listing.of(None)] == ["0_real", "1_fake", "photos"]


@pytest.mark.parametrize("above", ["", "sdv5/"])
def test_genimage(tmp_path: Path, above: str) -> None:
    names = [
        f"{above}{name}" for name in ("train/nature/1.JPEG", "train/ai/1.png", "val/nature/1.JPEG", "val/ai/1.png")
    ]
    listing = list_images(make(tmp_path, *names))
    assert listing.layout == "genimage"
    assert listing.splits == ("train", "val")
    fake = above.rstrip("/") or "fake"
    assert [(entry.label, entry.split) for entry in listing.entries] == [
        (fake, "train"),
        ("real", "train"),
        (fake, "val"),
        ("real", "val"),
    ]


def test_genimage_one_split(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "nature/1.JPEG", "ai/n01440764/1.png"))
    assert [(entry.label, entry.split, entry.category) for entry in listing.entries] == [
        ("fake", None, "n01440764"),
        ("real", None, ""),
    ]


def test_the_layout_can_be_named(tmp_path: Path) -> None:
    root = make(tmp_path, "train/nature/1.png", "train/ai/1.png", "val/nature/1.png")
    listing = list_images(root, "folders")
    assert [(entry.label, entry.split) for entry in listing.entries] == [
        ("ai", "train"),
        ("nature", "train"),
        ("nature", "val"),
    ]


ROWS = [
    {"path": "a, b/1.png", "label": "real", "split": "train"},
    {"path": "2.png", "label": "grid", "split": "validation", "more": 1},
    {"path": "/elsewhere/3.png", "label": 7, "split": ""},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "l.csv",
            'label,path,split\nreal,"a, b/1.png",train\ngrid,2.png,validation\n7,/elsewhere/3.png,\n',
        ),
        ("l.json", json.dumps(ROWS)),
        ("l.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n"),
    ],
)
def test_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    listing = list_images(tmp_path / name)
    assert listing.layout == "list"
    assert told(listing.entries) == [
        ("a, b/1.png", "real", "train"),
        ("2.png", "grid", "val"),
        ("/elsewhere/3.png", "7", None),
    ]
    assert [entry.extent.file for entry in listing.entries] == [
        tmp_path / "a, b/1.png",
        tmp_path / "2.png",
        Path("/elsewhere/3.png"),
    ]
    with pytest.raises(SplitUnknown):
        listing.of(None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "file,label\n1.png,real\n", "image 1 needs a path and a label"),
        ("l.csv", "path,label,split\n1.png,real,later\n", "image 1 has the split 'later', known are train"),
        ("l.json", "{", "no list of images"),
        ("l.json", '{"path": "1.png"}', "needs an array of objects"),
        ("l.jsonl", '{"path": "1.png", "label": "real"}\n[1]\n', "image 2 needs a path and a label"),
    ],
)
def test_lists_that_are_not_as_they_should_be(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataMalformed, match=message):
        list_images(tmp_path / name)


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[..., Path]:
    def shard(name: str, members: dict[str, bytes]) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return tmp_path / name

    return shard


def test_shards(tmp_path: Path, make_shard: Callable[..., Path]) -> None:
    make_shard("set-val-000000.tar", {"real/9.a.png": b"nine"})
    make_shard(
        "set-train-000001.tar",
        {
            "1.cls": b"grid\n",
            "1.jpg": b"one",
            "1.txt": b"a caption",
            "2.json": b'{"label": 3}',
            "2.PNG": b"two" * 5000,
            "real/3.webp": b"three",
            "readme.md": b"",
        },
    )
    listing = list_images(tmp_path)
    assert listing.layout == "shards"
    assert told(listing.entries) == [
        ("set-train-000001.tar/1.jpg", "grid", "train"),
        ("set-train-000001.tar/2.PNG", "3", "train"),
        ("set-train-000001.tar/real/3.webp", "real", "train"),
        ("set-val-000000.tar/real/9.a.png", "real", "val"),
    ]
    assert [entry.extent.read() for entry in listing.entries] == [b"one", b"two" * 5000, b"three", b"nine"]


def test_a_single_shard_and_shards_in_a_folder_of_their_split(tmp_path: Path, make_shard: Callable[..., Path]) -> None:
    shard = make_shard("calib/0.tar", {"real/1.png": PNG})
    assert told(list_images(shard).of(None)) == [("0.tar/real/1.png", "real", None)]
    assert told(list_images(tmp_path).entries) == [("calib/0.tar/real/1.png", "real", "calib")]


def test_shards_that_are_not_as_they_should_be(tmp_path: Path, make_shard: Callable[..., Path]) -> None:
    with pytest.raises(DataMalformed, match=r"a\.tar: 1 has no label"):
        list_images(make_shard("a.tar", {"1.png": PNG}))
    with pytest.raises(DataMalformed, match=r"b\.tar: 1\.json: not JSON"):
        list_images(make_shard("b.tar", {"1.json": b"{", "1.png": PNG}))
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataMalformed, match=r"c\.tar: no plain tar file"):
        list_images(tmp_path / "c.tar")


@pytest.mark.parametrize("layout", ["forensynths", "genimage", "shards"])
def test_nothing_of_the_layout_that_was_named(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(DataMissing, match=f"no images of the layout '{layout}'"):
        list_images(make(tmp_path, "real/1.png"), layout)
    with pytest.raises(DataMalformed, match="name the list itself"):
        list_images(tmp_path, "list")
    with pytest.raises(DataMissing, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere", layout)
