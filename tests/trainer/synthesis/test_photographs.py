from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.errors import DataMissing, TooFewPhotographs
from trainer.synthesis.photographs import SPLITS, Photograph, cut_patches, split_photographs


def test_no_bundled_photograph_and_no_scene_is_in_two_splits() -> None:
    split = split_photographs(None, seed=0)
    digests = [photo.sha256 for part in SPLITS for photo in split[part]]
    assert len(set(digests)) == len(digests)
    scenes = [{photo.name.removesuffix("_left").removesuffix("_right") for photo in split[part]} for part in SPLITS]
    assert not scenes[0] & scenes[1] | scenes[0] & scenes[2] | scenes[1] & scenes[2]
    assert all(len(part) >= 2 for part in scenes)


def test_a_folder_is_dealt_out_whole_and_by_the_seed(photographs: Path) -> None:
    split = split_photographs(photographs, seed=3)
    assert [len(split[part]) for part in SPLITS] == [4, 2, 2]
    assert len({photo.sha256 for part in split.values() for photo in part}) == 8
    assert split == split_photographs(photographs, seed=3)
    assert any(split != split_photographs(photographs, seed=seed) for seed in range(5))


def test_copies_and_other_files_are_not_dealt_out(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for photo in photographs.iterdir():
        for copy in (photo.name, f"copy of {photo.name}", f"more/{photo.name}"):
            (folder / copy).parent.mkdir(parents=True, exist_ok=True)
            (folder / copy).write_bytes(photo.read_bytes())
    for other in ("0.txt", ".thumbnails/1.png"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"other")
    split, plain = (split_photographs(where, seed=3) for where in (folder, photographs))
    assert [[p.path.name for p in split[part]] for part in SPLITS] == [
        [p.path.name for p in plain[part]] for part in SPLITS
    ]
    few = tmp_path / "few"
    few.mkdir()
    for number in range(4):
        (few / f"{number}.png").write_bytes(b"the same")
    with pytest.raises(TooFewPhotographs, match="1 photograph;"):
        split_photographs(few, seed=0)


def test_patches_are_cut_from_the_shrunken_photograph(photographs: Path) -> None:
    photo = split_photographs(photographs, seed=0)["train"][:2]
    patches = cut_patches(photo, size=32, shrink=2, count=20, seed=0)
    assert patches.pixels.shape == (20, 32, 32, 3)
    for patch, pixels in zip(patches.origins, patches.pixels, strict=True):
        source = next(found for found in photo if found.name == patch.photograph)
        small = Image.open(source.path).resize((100, 80), Image.Resampling.LANCZOS)
        wanted = np.asarray(small)[patch.y : patch.y + 32, patch.x : patch.x + 32]
        np.testing.assert_array_equal(pixels, wanted[:, ::-1] if patch.mirrored else wanted)
    assert len({(patch.photograph, patch.x, patch.y) for patch in patches.origins}) == 20
    assert {patch.photograph for patch in patches.origins} == {found.name for found in photo}


def test_flat_patches_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = np.full((64, 128, 3), 200, np.uint8)
        pixels[:, 64:] = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{index}.png")
    split = split_photographs(tmp_path / "photos", seed=0)
    patches = cut_patches(split["train"], size=32, shrink=1, count=20, seed=0)
    assert min(patch.x for patch in patches.origins) > 32


def test_too_little_is_said(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no such folder of photographs"):
        split_photographs(tmp_path / "nowhere", seed=0)
    (tmp_path / "few").mkdir()
    with pytest.raises(TooFewPhotographs, match="0 photographs; 4 are the least"):
        split_photographs(tmp_path / "few", seed=0)
    split = split_photographs(photographs, seed=0)
    with pytest.raises(TooFewPhotographs, match="2 photographs hold 126 patches of 32 px"):
        cut_patches(split["test"], size=32, shrink=2, count=1000, seed=0)
    (tmp_path / "note.txt").write_text("no photograph")
    with pytest.raises(DataMissing, match=r"note\.txt: not a photograph that can be used"):
        cut_patches((Photograph("note", tmp_path / "note.txt", ""),), size=32, shrink=2, count=1, seed=0)
