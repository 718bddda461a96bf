from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.errors import BadConfig, DataMissing, RealLabelMissing
from trainer.experiments.corpus import Corpus, draw, map_names, spread
from trainer.experiments.recipe import read_recipe

KINDS = ("0_real", "1_fake")


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)


def test_class_folders_share_their_photographs(corpus: Corpus) -> None:
    assert corpus.generators == ("bilinear", "deconv", "nearest", "rec_other", "shuffle")
    assert corpus.trainable == ("bilinear", "deconv", "nearest", "shuffle")
    assert corpus.paired
    classes = corpus.classes(["deconv"], "test", 3)
    assert {name: len(images) for name, images in classes.items()} == {"real": 3, "deconv": 3}
    assert [p.scene for p in classes["real"]] == [p.scene for p in classes["deconv"]]


def test_forensynths_has_reals_of_each_generator(tmp_path: Path) -> None:
    put(
        tmp_path,
        *(f"train/{category}/{kind}/{i}.png" for category in ("car", "cat") for kind in KINDS for i in range(3)),
        *(f"test/progan/{category}/{kind}/0.png" for category in ("car", "cat") for kind in KINDS),
        *(f"test/stylegan/car/{kind}/{i}.png" for kind in KINDS for i in range(2)),  # one of the same categories
        *(f"test/seeingdark/{kind}/0.png" for kind in KINDS),
    )
    corpus = Corpus.read(tmp_path)
    assert corpus.generators == ("progan", "seeingdark", "stylegan")
    assert corpus.trainable == ("progan",)
    assert corpus.categories == ("car", "cat")
    assert not corpus.paired
    assert {p.generator for p in corpus.classes(["stylegan"], "test")["real"]} == {"stylegan"}
    assert len(corpus.classes(["stylegan"], "test")["real"]) == 2
    recipe = read_recipe("s3-table2")
    found = map_names(recipe.names, corpus, recipe.maps, {})
    named = {name: folder for name, folder in found.items() if folder is not None}
    assert named == {"ProGAN": "progan", "StyleGAN": "stylegan", "SITD": "seeingdark"}


def test_what_is_set_aside_is_not_trained_on(tmp_path: Path) -> None:
    put(tmp_path, *(f"{s}/{c}/{i:02}.png" for s in ("train", "test") for c in ("real", "gan") for i in range(20)))
    corpus = Corpus.read(tmp_path)
    sizes = {split: len(corpus.fakes("gan", split)) for split in ("train", "val", "calib", "test")}
    assert sizes == {"train": 17, "val": 2, "calib": 1, "test": 20}
    assert len(corpus.remarks) == 2


def test_test_images_stay_whatever_is_set_aside_and_what_has_no_split_is_said(tmp_path: Path) -> None:
    files = [f"{name}/{number:02}.png" for name in ("real", "gan") for number in range(20)]
    put(tmp_path, *files)
    rows = [f"{file},{file.split('/')[0]},{split}" for file in files for split in ("train", "test", "")]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    corpus = Corpus.read(tmp_path / "list.csv")
    assert len(corpus.fakes("gan", "test")) == len(corpus.photographs("test")) == 20
    assert "40 images are in none of the splits train, val, calib, test, and left out" in corpus.remarks


def test_a_mistyped_label_of_photographs_is_refused(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/{name}/0.png" for split in ("train", "test") for name in ("photo", "gan")))
    assert Corpus.read(tmp_path, ("photo",)).generators == ("gan",)
    with pytest.raises(RealLabelMissing, match="--real foto: no such label, only gan, photo"):
        Corpus.read(tmp_path, ("foto",))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    put(tmp_path, "test/real/0.png", "test/gan/0.png")
    with pytest.raises(DataMissing, match="no images in a split 'train'"):
        Corpus.read(tmp_path)
    put(tmp_path, "train/photos/0.png", "train/gan/0.png")
    (tmp_path / "test/real/0.png").unlink()
    (tmp_path / "test/real").rmdir()
    with pytest.raises(RealLabelMissing, match="--real"):
        Corpus.read(tmp_path)


def test_other_images_can_be_tested_in_place_of_the_corpus_own(tmp_path: Path) -> None:
    put(tmp_path / "a", *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("real", "gan") for i in range(20)))
    put(tmp_path / "plain", *(f"{c}/{i}.png" for c in ("real", "gan") for i in range(3)))
    put(tmp_path / "split", *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("real", "gan") for i in range(2)))
    for name, count in (("plain", 3), ("split", 2)):
        corpus = Corpus.read(tmp_path / "a", test=tmp_path / name)
        assert {p.extent.file.parents[1].name for p in corpus.fakes("gan", "test")} <= {"plain", "test"}
        assert len(corpus.fakes("gan", "test")) == len(corpus.photographs("test")) == count
        assert len(corpus.fakes("gan", "train")) == 17
        assert (corpus.name, corpus.tested_on) == ("a", name)


def test_a_test_set_without_known_folders_is_not_replaced_by_another_split(tmp_path: Path) -> None:
    put(
        tmp_path / "a",
        *(f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in ("real", "gan") for i in range(5)),
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissing, match="empty: no images to test on"):
        Corpus.read(tmp_path / "a", test=tmp_path / "empty")
    put(tmp_path / "flat", "0.png", "1.png")
    corpus = Corpus.read(tmp_path / "a", test=tmp_path / "flat")
    assert [len(corpus.fakes(name, "test")) for name in ("gan", "flat")] == [0, 2]
    assert not corpus.photographs("test")


def test_a_test_set_that_is_called_as_a_split_has_its_parents_name(tmp_path: Path) -> None:
    put(tmp_path / "a", *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("real", "gan") for i in range(20)))
    assert Corpus.read(tmp_path / "a", test=tmp_path / "a" / "test").tested_on == "a"


def test_classes_without_test_images_are_left_out_and_break_no_pairs(tmp_path: Path) -> None:
    put(
        tmp_path / "a",
        *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("real", "gan", "x") for i in range(20)),
    )
    put(tmp_path / "b", *(f"{c}/{i}.png" for c in ("real", "gan") for i in range(4)))
    corpus = Corpus.read(tmp_path / "a", test=tmp_path / "b")
    assert corpus.generators == ("gan", "x")
    assert corpus.classes(corpus.generators, "test").keys() == {"real", "gan"}
    assert corpus.classes(corpus.generators, "train").keys() == {"real", "gan", "x"}
    assert corpus.paired


def test_other_content_is_another_digest(corpus: Corpus) -> None:
    first = corpus.fakes("deconv", "test")
    assert corpus.digest(first) == corpus.digest(first)
    assert len({corpus.digest(p) for p in (first, first[::-1], first[:-1], corpus.photographs("test"))}) == 4


def test_spread_and_draw(corpus: Corpus) -> None:
    images = corpus.fakes("deconv", "train")
    assert [p.scene for p in spread(images, 3)] == [0, 4, 7]
    assert spread(images, None) == spread(images, 99) == images
    assert draw(images, 4, 1) == draw(images, 4, 1) != draw(images, 4, 2)
    assert len(set(draw(images, 4, 1))) == 4


MAPS = {"mini8": {"PGGAN": "progressive"}, "synth": {"PGGAN": "nearest", "DCGAN": "deconv"}}


def test_stand_ins_are_chosen_itself_or_by_the_first_map_that_fits(corpus: Corpus) -> None:
    names = ("DCGAN", "PGGAN", "Glow")
    assert map_names(names, corpus, MAPS, {}) == {"DCGAN": "deconv", "PGGAN": "nearest", "Glow": None}
    assert map_names(names, corpus, MAPS, {"Glow": "shuffle"})["Glow"] == "shuffle"
    itself = map_names(("Deconv", "PGGAN", "DCGAN"), corpus, MAPS, {})
    assert itself == {"Deconv": "deconv", "PGGAN": "nearest", "DCGAN": None}
    with pytest.raises(BadConfig, match="has no 'flow'"):
        map_names(names, corpus, MAPS, {"Glow": "flow"})
    with pytest.raises(BadConfig, match="the publication has no 'VAE'"):
        map_names(names, corpus, MAPS, {"VAE": "shuffle"})
