"""Each layout, made by hand: which images there are, of which class and split."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.folders import very_deep
from trainer.data.entries import Entry
from trainer.data.layouts import Layout, list_images
from trainer.errors import DataMalformed, DataMissing, SplitUnknown

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
    with pytest.raises(SplitUnknown, match=r"it has no split 'calib'; its splits: \(train, val, test\)"):
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


def test_a_class_whose_name_a_terminal_would_obey_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "real/1.png", "g\x1b[31man/1.png")
    with pytest.raises(DataMalformed, match=r"the class 'g\\x1b\[31man' has a control character"):
        list_images(tmp_path)


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "real/1.png", "grid/1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissing, match="empty: no image in this class"):
        list_images(tmp_path)


def test_what_is_no_image_by_its_suffix_is_ignored(tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/1{end}" for split in ("train", "test") for label in ("real", "gan") for end in ("", ".png")
    ]
    make(tmp_path, *names, "train/real/1.txt", "test/gan/Thumbs.DB", "notes/deep/coco.json")
    listing = list_images(tmp_path)
    assert [entry.path.as_posix() for entry in listing.entries] == sorted(names)
    assert listing.splits == ("train", "test")


@pytest.mark.parametrize("names", [["train/preview.png"], ["more/1.png"], ["train/preview.png", "more/gan/1.png"]])
def test_images_beside_splits_are_an_error(tmp_path: Path, names: list[str]) -> None:
    make(tmp_path, "train/real/1.png", "train/gan/1.png", "test/real/1.png", "test/gan/1.png", *names)
    with pytest.raises(DataMalformed, match=r"(more|preview).* lies in no class folder of a split.*\(test, train\)"):
        list_images(tmp_path)


def test_links_back_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "set", "real/1.png", "gan/1.png")
    (tmp_path / "set/real/all").symlink_to("..")
    (tmp_path / "set/real/itself").symlink_to("itself")
    (tmp_path / "set/gan/more").symlink_to(make(tmp_path / "elsewhere", "2.png"))
    (tmp_path / "set/above").symlink_to("..")
    (tmp_path / "set/here").symlink_to(".")
    found = [entry.path.as_posix() for entry in list_images(tmp_path / "set").entries]
    assert found == ["gan/1.png", "gan/more/2.png", "real/1.png", "real/itself"]


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


def test_forensynths_with_the_split_below_the_generator(tmp_path: Path) -> None:
    names = [f"progan/{split}/{kind}/1.png" for split in ("train", "val") for kind in ("0_real", "1_fake")]
    assert [(entry.label, entry.split) for entry in list_images(make(tmp_path, *names)).entries] == [
        ("real", "train"),
        ("progan", "train"),
        ("real", "val"),
        ("progan", "val"),
    ]


PAIRS = ("gan/0_real/1.png", "gan/1_fake/1.png")


@pytest.mark.parametrize("suffix", ["", ".weird"])
def test_a_pair_is_known_whatever_its_files_are_called_and_lies_at_the_root(tmp_path: Path, suffix: str) -> None:
    root = make(tmp_path, *(name.replace(".png", suffix) for name in PAIRS), "overview.png", "README.md")
    assert [entry.label for entry in list_images(root).of(None)] == ["real", "gan"]


@pytest.mark.parametrize("odd", ["photos/1.png", "photos/1", "more.tar", "more/1.tar"])
def test_what_is_beside_pairs_is_an_error(tmp_path: Path, odd: str) -> None:
    root = make(tmp_path, *PAIRS, odd)
    with pytest.raises(DataMalformed, match=f"seems to be of the layout 'forensynths', but {odd} is not.*--layout"):
        list_images(root)
    assert [entry.label for entry in list_images(root, "forensynths").entries] == ["real", "gan"]


def test_reals_alone_are_an_error(tmp_path: Path) -> None:
    """They may as well show nature."""
    with pytest.raises(DataMalformed, match="has 'nature', but no 'ai'; pass --layout genimage or --layout folders"):
        list_images(make(tmp_path, "real/nature/1.png", "gan/nature/1.png"))


def test_a_third_folder_makes_them_plain_classes(tmp_path: Path) -> None:
    listing = list_images(make(tmp_path, "0_real/1.png", "1_fake/1.png", "photos/1.png"))
    assert listing.layout == "folders"
    assert [entry.label for entry in listing.of(None)] == ["0_real", "1_fake", "photos"]


@pytest.mark.parametrize(("above", "fake"), [("{}", "fake"), ("sdv5/{}", "sdv5"), ("{}/sdv5", "sdv5")])
def test_genimage(tmp_path: Path, above: str, fake: str) -> None:
    names = [f"{above.format(split)}/{name}" for split in ("train", "val") for name in ("nature/1.JPEG", "ai/1.png")]
    listing = list_images(make(tmp_path, *names))
    assert listing.layout == "genimage"
    assert listing.splits == ("train", "val")
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


ROWS: list[dict[str, Any]] = [
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
        ("L.CSV", 'label,path,split,prompt\nreal,"a, b/1.png",train,"1\n2"\ngrid,2.png,val\n7,/elsewhere/3.png,\n'),
        ("l.JSONL", "\n".join(json.dumps(row | {"prompt": "a\u2028b"}, ensure_ascii=False) for row in ROWS)),
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
        ("l.json", '[{"path": "1.png", "label": ["real"]}]', "image 1 needs a path and a label"),
        ("l.json", '[{"path": "\\u0000.png", "label": "real"}]', "image 1 needs a path and a label"),
        ("l.json", '[{"path": "1.png", "label": "real", "split": ["train"]}]', r"image 1 has the split \['train'\]"),
        *(
            (
                "l.json",
                f'[{{"path": "1.png", "label": {label}}}]',
                "image 1 needs a path and a label .text or an integer",
            )
            for label in ("NaN", "1e999", "1.0", "true", "null", '"x\\ud800"')
        ),
        ("l.json", '[{"path": "a\\ud800b", "label": "x"}]', "image 1 needs a path and a label"),
        ("l.json", "[" * 100_000, r"l\.json: no list of images: nested too deeply"),
        ("l.json", "[" * 500 + "]" * 500, "image 1 needs a path and a label"),
        ("l.json", "[" + "1" * 10_000 + "]", r"l\.json: no list of images: a number has too many digits"),
        ("l.jsonl", "\n" + "[" * 100_000, "no list of images: line 2: nested too deeply"),
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
            "1.cls": b"\xef\xbb\xbfgrid\n",  # with a byte order mark
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


def test_names_in_shards(make_shard: Callable[..., Path]) -> None:
    shard = make_shard(
        "a.tar",
        {
            "./real/1.png": b"one",
            "/data/real/2.TIF": b"two",
            "./3.cls": b"gan",
            "./3.jfif": b"three",
            "4.cls": b"real",
            "4.mask.png": b"mask",
            "4.png": b"four",
            "real/._4.png": b"hidden",
            "real/5.json": b'{"label": null}',
            "real/5.jpg": b"five",
        },
    )
    listing = list_images(shard)
    assert told(listing.entries) == [
        ("a.tar/real/1.png", "real", None),
        ("a.tar/data/real/2.TIF", "real", None),
        ("a.tar/3.jfif", "gan", None),
        ("a.tar/4.png", "real", None),
        ("a.tar/real/5.jpg", "real", None),
    ]
    assert [entry.extent.read() for entry in listing.entries] == [b"one", b"two", b"three", b"four", b"five"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a/1.jpg": PNG, "a/1.png": PNG}, r"the sample a/1 has 2 images \(a/1\.jpg, a/1\.png\), it may have one"),
        ({"a/cfg7.0.png": PNG, "a/cfg7.5.png": PNG}, r"the sample a/cfg7 has 2 images .* before the first dot"),
        ({"1.json": b"[]", "1.png": PNG}, r"1\.json: needs an object, got \[\]"),
        ({"1.json": b"3", "1.png": PNG}, r"1\.json: needs an object, got 3"),
        ({"1.json": b'{"label": [1]}', "1.png": PNG}, r"1\.json: \[1\] is no label"),
        ({"1.json": b'{"label": true}', "1.png": PNG}, r"1\.json: True is no label \(text or an integer\)"),
        ({"1.json": b"[" * 100_000, "1.png": PNG}, r"1\.json: not JSON: nested too deeply"),
        ({"1.json": b"1" * 10_000, "1.png": PNG}, r"1\.json: not JSON: a number has too many digits"),
        ({"1.cls": bytes(64 * 2**20 + 1), "1.png": PNG}, r"1\.cls: more than 67108864 bytes"),
        ({"1.cls": b"\xff", "1.png": PNG}, r"1\.cls: not UTF-8"),
    ],
)
def test_samples_that_are_not_as_they_should_be(
    make_shard: Callable[..., Path], members: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataMalformed, match=rf"a\.tar: {message}"):
        list_images(make_shard("a.tar", members))


def test_links_in_shards_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, "real/1.png")
    (tmp_path / "real/2.png").symlink_to("1.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "real", "real")
    with pytest.raises(DataMalformed, match=r"real/2\.png is a link; pack files"):
        list_images(tmp_path / "a.tar")


def test_an_image_beside_shards_is_an_error(tmp_path: Path, make_shard: Callable[..., Path]) -> None:
    make_shard("0.tar", {"real/1.png": PNG})
    make(tmp_path, "preview.png", "0.idx")
    with pytest.raises(DataMalformed, match=r"seems to be of the layout 'shards', but preview\.png is not"):
        list_images(tmp_path)
    assert len(list_images(tmp_path, "shards").entries) == 1
    assert [entry.path.name for entry in list_images(tmp_path, "folders").entries] == ["preview.png"]


def test_files_that_are_no_data_sets(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "packed/train-0.tar.gz")
    with pytest.raises(DataMalformed, match=r"1\.png: neither a list .* nor a shard .*; name the images' folder"):
        list_images(tmp_path / "1.png")
    with pytest.raises(DataMalformed, match="a file; data of the layout 'folders' are a folder"):
        list_images(tmp_path / "1.png", "folders")
    for packed in ("packed", "packed/train-0.tar.gz"):
        with pytest.raises(DataMalformed, match=r"train-0\.tar\.gz: an archive; unpack it"):
            list_images(tmp_path / packed)


def test_shards_that_are_not_as_they_should_be(tmp_path: Path, make_shard: Callable[..., Path]) -> None:
    with pytest.raises(DataMalformed, match=r"a\.tar: 1 has no label"):
        list_images(make_shard("a.tar", {"1.png": PNG}))
    with pytest.raises(DataMalformed, match=r"b\.tar: 1\.json: not JSON"):
        list_images(make_shard("b.tar", {"1.json": b"{", "1.png": PNG}))
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataMalformed, match=r"c\.tar: no plain tar file"):
        list_images(tmp_path / "c.tar")


def test_shards_and_lists_that_are_no_files(tmp_path: Path) -> None:
    for name in ("shards/a.tar", "l.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataMalformed, match=r"a\.tar: no plain tar file: not a regular file"):
        list_images(tmp_path / "shards")
    with pytest.raises(DataMissing, match=r"l\.csv: neither a folder nor a regular file"):
        list_images(tmp_path / "l.csv")
    (tmp_path / "b.tar").touch()
    with pytest.raises(DataMalformed, match=r"b\.tar: no plain tar file: it is empty$"):
        list_images(tmp_path / "b.tar")


def test_folders_however_deep_are_listed(tmp_path: Path) -> None:
    make(tmp_path, "grid/1.png")
    with very_deep(tmp_path / "real") as deepest:
        make(deepest, "1.png")
        assert [entry.label for entry in list_images(tmp_path).entries] == ["grid", "real"]


@pytest.mark.parametrize("layout", ["forensynths", "genimage", "shards"])
def test_nothing_of_the_layout_that_was_named(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(DataMissing, match=f"no images of the layout '{layout}'"):
        list_images(make(tmp_path, "real/1.png"), layout)
    with pytest.raises(DataMalformed, match="name the list itself"):
        list_images(tmp_path, "list")
    with pytest.raises(DataMissing, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere", layout)
