import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.errors import OutputExists
from trainer.synthesis.autoencoders import UPSAMPLINGS, reproduce, train_autoencoder
from trainer.synthesis.photographs import SPLITS
from trainer.synthesis.synth import SynthConfig, keep_grey, synthesise

TINY = SynthConfig(size=32, train=8, calib=3, test=2, steps=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "out"
    synthesise(out, None, TINY)
    return out


def test_every_class_shows_the_same_content_in_files_of_the_same_kind(made: Path) -> None:
    for split, count in zip(SPLITS, (8, 3, 2), strict=True):
        assert sorted(path.name for path in (made / split).iterdir()) == sorted(["real", *UPSAMPLINGS])
        names = sorted(path.name for path in (made / split / "real").iterdir())
        assert len(names) == count
        for label in UPSAMPLINGS:
            assert sorted(path.name for path in (made / split / label).iterdir()) == names
    for path in made.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (32, 32), {})


def test_no_photograph_is_in_two_splits(made: Path) -> None:
    report = json.loads((made / "synth.json").read_text())
    digests = [digest for split in SPLITS for digest in report["photographs"][split].values()]
    assert len(set(digests)) == len(digests)
    for split in SPLITS:
        used = {path.stem.split("-", 1)[1] for path in (made / split).rglob("*.png")}
        assert used <= set(report["photographs"][split])
    assert report["config"] == TINY.model_dump()
    assert [generator["upsampling"] for generator in report["generators"]] == list(UPSAMPLINGS)


def test_the_same_seed_gives_the_same_pixels(photographs: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        synthesise(tmp_path / name, photographs, TINY)
    for path in (tmp_path / "one").rglob("*.png"):
        with Image.open(path) as one, Image.open(tmp_path / "other" / path.relative_to(tmp_path / "one")) as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_nothing_is_overwritten_unless_forced_and_nothing_half_made_stays(
    photographs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match="exists and is not empty"):
        synthesise(out, photographs, TINY)
    monkeypatch.setattr("trainer.synthesis.synth.train_autoencoder", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthesise(out, photographs, TINY, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_an_autoencoder_learns_to_reproduce(upsampling: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3), np.uint8).repeat(40, 1).repeat(40, 2)
    errors: list[float] = []
    model = train_autoencoder(upsampling, images, steps=60, seed=0, progress=lambda _, error: errors.append(error))
    assert np.mean(errors[-5:]) < errors[0] / 3
    made = reproduce(model, images)
    assert made.shape == images.shape
    assert made.dtype == np.uint8


def test_what_was_grey_stays_grey() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8).repeat(3, 3)
    colour = np.random.default_rng(1).integers(0, 256, (1, 4, 4, 3), np.uint8)
    made = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 3), np.uint8)
    kept = keep_grey(np.concatenate([grey, colour]), made)
    np.testing.assert_array_equal(kept[1], made[1])
    np.testing.assert_array_equal(kept[0, ..., 0], kept[0, ..., 2])
    assert abs(kept[0, 0, 0, 0] - made[0, 0, 0].mean()) <= 0.5
