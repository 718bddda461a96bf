import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import decode, make_views
from trainer.data.folder import ImageFolder, label_ids, make_labels
from trainer.errors import DataMissing, RealLabelMissing, TooFewClasses, TooManyUnreadable, UnknownClass

MakeFolder = Callable[..., Path]

CROP = Preprocessing(views=(View(crop=Crop(mode="centre", size=32)),))
RESIZE = Preprocessing(views=(View(resize=Resize(mode="exact", size=16)),))


def test_order_is_sorted_and_pixels_are_those_of_the_one_decoder(make_folder: MakeFolder) -> None:
    root = make_folder(classes=("real", "b", "a"), images=3)
    folder = ImageFolder.read(root, RESIZE)

    assert folder.classes == ("a", "b", "real")
    assert [str(path) for path in folder.paths][:4] == ["a/00.png", "a/01.png", "a/02.png", "b/00.png"]
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert folder.counts() == (3, 3, 3)
    for index, path in enumerate(folder.paths):
        wanted = make_views(decode((root / path).read_bytes()), RESIZE)[0]
        np.testing.assert_array_equal(folder.pixels([index])[0], wanted)


def test_without_a_cache_the_pixels_are_the_same(make_folder: MakeFolder) -> None:
    root = make_folder()
    cached, decoded = ImageFolder.read(root, CROP), ImageFolder.read(root, CROP, cache_mib=0)
    assert cached.cached is not None
    assert decoded.cached is None
    np.testing.assert_array_equal(cached.pixels(slice(None)), decoded.pixels(slice(None)))
    np.testing.assert_array_equal(cached.pixels([3, 1]), decoded.pixels([3, 1]))


def test_the_fingerprint_knows_content_and_names_but_not_the_place(make_folder: MakeFolder) -> None:
    root = make_folder()
    before = ImageFolder.read(root, CROP).fingerprint
    root = root.rename(root.with_name("elsewhere"))
    assert ImageFolder.read(root, CROP).fingerprint == before

    (root / "real/00.png").rename(root / "real/99.png")
    renamed = ImageFolder.read(root, CROP).fingerprint
    Image.new("RGB", (32, 32), "red").save(root / "real/01.png")
    changed = ImageFolder.read(root, CROP).fingerprint
    assert len({before, renamed, changed}) == 3


def test_hidden_files_are_ignored_and_sub_folders_belong_to_their_class(make_folder: MakeFolder, png: bytes) -> None:
    root = make_folder(images=1)
    (root / "real/.DS_Store").write_bytes(b"?")
    (root / ".git").mkdir()
    (root / "real/phone").mkdir()
    (root / "real/phone/00.png").write_bytes(png)
    folder = ImageFolder.read(root, CROP)
    assert [path.as_posix() for path in folder.paths] == ["grid/00.png", "real/00.png", "real/phone/00.png"]


def test_unreadable_images_are_skipped_up_to_a_limit(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "real/broken.png").write_bytes((root / "real/00.png").read_bytes()[:200])
    (root / "real/notes").write_text("not an image")
    (root / "real/00.txt").write_text("a caption")
    folder = ImageFolder.read(root, CROP, max_unreadable=2)
    assert [bad.path.name for bad in folder.unreadable] == ["broken.png", "notes"]
    assert len(folder) == 12

    with pytest.raises(TooManyUnreadable, match=r"more than 1 unreadable images, first real/broken\.png: damaged"):
        ImageFolder.read(root, CROP, max_unreadable=1)


def test_images_too_small_for_the_crop_are_counted(make_folder: MakeFolder) -> None:
    root = make_folder()
    Image.new("RGB", (31, 40)).save(root / "real/small.png")
    folder = ImageFolder.read(root, CROP)
    assert folder.too_small == (Path("real/small.png"),)
    assert len(folder) == 12


def test_progress_counts_every_file(make_folder: MakeFolder) -> None:
    seen: list[tuple[int, int]] = []
    ImageFolder.read(make_folder(images=2), CROP, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_wrong_with_a_folder_is_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="nowhere: no such folder"):
        ImageFolder.read(tmp_path / "nowhere", CROP)
    with pytest.raises(TooFewClasses, match="found only 'real'"):
        ImageFolder.read(make_folder("one", classes=("real",)), CROP)
    (tmp_path / "none").mkdir()
    with pytest.raises(TooFewClasses, match="found none"):
        ImageFolder.read(tmp_path / "none", CROP)
    small = r"small: no image of grid to use \(2 too small for 32 x 32, 0 unreadable\): the worker .* 'unsure'; enlarge"
    with pytest.raises(DataMissing, match=small):
        ImageFolder.read(make_folder("small", images=2, size=16), CROP)
    broken = make_folder("broken", images=1)
    (broken / "real/00.png").write_text("words")
    with pytest.raises(DataMissing, match=r"no image of real to use \(0 too small for 32 x 32, 1 unreadable\)$"):
        ImageFolder.read(broken, CROP)


def test_labels_follow_the_folder_and_need_photographs(make_folder: MakeFolder) -> None:
    folder = ImageFolder.read(make_folder(classes=("0_real", "1_fake", "photos")), CROP)
    labels = make_labels(folder, ("0_real", "photos"))
    assert [(label.id, label.name, label.kind) for label in labels] == [
        (0, "0_real", "real"),
        (1, "1_fake", "generator"),
        (2, "photos", "real"),
    ]
    with pytest.raises(RealLabelMissing, match=r"no sub-folder 'real'.*found 0_real, 1_fake, photos.*--real"):
        make_labels(folder, ("real",))
    with pytest.raises(TooFewClasses, match="none is generated"):
        make_labels(folder, folder.classes)


def test_numbers_are_those_of_the_checkpoint_and_strangers_are_refused(make_folder: MakeFolder) -> None:
    labels = make_labels(ImageFolder.read(make_folder("a", classes=("a", "b", "real")), CROP), ("real",))
    fewer = ImageFolder.read(make_folder("b", classes=("b", "real"), images=1), CROP)
    assert label_ids(fewer, labels).tolist() == [1, 2]
    with pytest.raises(UnknownClass, match="no class 'z', only a, b, real"):
        label_ids(ImageFolder.read(make_folder("c", classes=("real", "z")), CROP), labels)


def test_splits_lists_and_shards_give_the_same_images(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("set/train", images=3)
    make_folder("set/test", images=2)
    plain = ImageFolder.read(root, CROP)

    split = ImageFolder.read(root.parent, CROP, split="train")
    assert [path.as_posix() for path in split.paths[:1]] == ["train/grid/00.png"]

    names = [path.as_posix() for path in plain.paths]
    (root / "list.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names))
    listed = ImageFolder.read(root / "list.csv", CROP)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in names:
            tar.add(root / name, name)
    shard = ImageFolder.read(tmp_path / "0.tar", CROP, cache_mib=0)

    for other in (split, listed, shard):
        assert other.classes == plain.classes
        np.testing.assert_array_equal(other.labels, plain.labels)
        np.testing.assert_array_equal(other.pixels(slice(None)), plain.pixels(slice(None)))
        assert other.encoded(4) == (root / names[4]).read_bytes()
    assert listed.fingerprint == plain.fingerprint
    assert len({plain.fingerprint, split.fingerprint, shard.fingerprint}) == 3


def test_the_fingerprint_knows_the_labels_of_a_list(make_folder: MakeFolder) -> None:
    root = make_folder(images=2)
    names = ["grid/00.png", "grid/01.png", "real/00.png", "real/01.png"]
    prints = set()
    for labels in ("abab", "aabb", "bbaa"):
        (root / "list.csv").write_text("path,label\n" + "".join(map("{},{}\n".format, names, labels)))
        prints.add(ImageFolder.read(root / "list.csv", CROP).fingerprint)
    assert len(prints) == 3


def test_shards_that_are_not_cached_are_shuffled_close_to_their_order(png: bytes, tmp_path: Path) -> None:
    for number in range(4):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for image in range(50):
                info = tarfile.TarInfo(f"{'real' if image % 2 else 'grid'}/{number}-{image}.png")
                info.size = len(png)
                tar.addfile(info, io.BytesIO(png))
    streamed = ImageFolder.read(tmp_path, CROP, cache_mib=0)
    orders = [streamed.shuffled(np.random.default_rng(seed), buffer=20) for seed in (0, 0, 1)]
    for order in orders:
        assert sorted(order) == list(range(200))
        shards = order // 50
        first_seen = list(dict.fromkeys(shards.tolist()))
        place = np.argsort(np.argsort([first_seen.index(shard) for shard in shards], kind="stable"))
        assert (place - np.arange(200)).max() <= 20  # nothing is read before its turn by more than the buffer
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    assert (np.diff(orders[0]) != 1).mean() > 0.8

    cached = ImageFolder.read(tmp_path, CROP)
    np.testing.assert_array_equal(cached.shuffled(np.random.default_rng(5)), np.random.default_rng(5).permutation(200))
