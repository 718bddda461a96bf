import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.trainer.conftest import MakeFolder
from trainer.__main__ import app
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig, DataMissing, OutputExists, RealLabelMissing
from trainer.models.spectrum import SpectrumConfig
from trainer.synthesis.autogan import GanConfig
from trainer.synthesis.deep_image_prior import PriorConfig
from trainer.synthesis.simulate import SimulateConfig, simulate

pytestmark = pytest.mark.slow

GAN = SimulateConfig(how=GanConfig(width=2, blocks=1, critic_layers=2, steps=3), size=32)
PRIOR = SimulateConfig(how=PriorConfig(width=2, levels=2, steps=2), size=32, images=3)


def pixels_of(path: Path) -> Any:
    with Image.open(path) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        return np.asarray(image)


def test_autogan_gives_two_classes_of_fakes_of_all_real_images(make_folder: MakeFolder, tmp_path: Path) -> None:
    data, out = make_folder(images=4, size=40), tmp_path / "out"
    report = simulate(data, out, GAN)
    assert report.fakes == {"autogan-transposed": 4, "autogan-nearest": 4}
    assert report.real == ("real/00.png", "real/01.png", "real/02.png", "real/03.png")
    assert json.loads((out / "simulate.json").read_text())["config"]["how"]["kind"] == "autogan"
    folder = ImageFolder.read(out, SpectrumConfig(size=32).preprocessing)
    assert folder.classes == ("autogan-nearest", "autogan-transposed", "real")
    for number, name in enumerate(report.real):
        np.testing.assert_array_equal(pixels_of(out / "real" / f"{number:06}.png"), pixels_of(data / name)[4:36, 4:36])
        assert pixels_of(out / "autogan-nearest" / f"{number:06}.png").shape == (32, 32, 3)


def test_dip_gives_six_snapshots_and_reals_as_often(make_folder: MakeFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = simulate(make_folder(images=5), out, PRIOR)
    names = {f"{number:06}-{steps}.png" for number in range(3) for steps in range(1, 7)}
    assert {path.name for path in (out / "dip").iterdir()} == {path.name for path in (out / "real").iterdir()} == names
    assert (report.fakes, len(report.real)) == ({"dip": 18}, 3)
    np.testing.assert_array_equal(pixels_of(out / "real/000000-1.png"), pixels_of(out / "real/000000-6.png"))


def test_the_same_seed_gives_the_same_pixels(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder(images=5)
    for config in (GAN, PRIOR):
        for name in ("one", "other"):
            simulate(data, tmp_path / name, config, force=True)
        for path in (tmp_path / "one").rglob("*.png"):
            np.testing.assert_array_equal(
                pixels_of(path), pixels_of(tmp_path / "other" / path.relative_to(tmp_path / "one"))
            )


def test_what_was_grey_stays_grey(tmp_path: Path) -> None:
    (tmp_path / "data/real").mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(grey).save(tmp_path / "data/real/grey.png")
    simulate(tmp_path / "data", tmp_path / "out", GAN)
    made = pixels_of(tmp_path / "out/autogan-nearest/000000.png")
    np.testing.assert_array_equal(made[..., 0], made[..., 2])


def test_broken_and_small_images_are_left_out(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder(images=3)
    (data / "real" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (20, 20)).save(data / "real" / "small.png")
    report = simulate(data, tmp_path / "out", GAN)
    assert report.left_out == ("real/broken.png", "real/small.png")
    with pytest.raises(DataMissing, match=r"no image of real can be used \(5 unreadable or smaller than 64 x 64\)"):
        simulate(data, tmp_path / "more", GAN.model_copy(update={"size": 64}))
    with pytest.raises(RealLabelMissing, match="--real photos: no such label, only grid, real"):
        simulate(data, tmp_path / "more", GAN, real=["photos"])
    (data / "real").rename(data / "photos")
    with pytest.raises(DataMissing, match="name the real images' class with --real"):
        simulate(data, tmp_path / "more", GAN)


def test_nothing_is_overwritten_unless_forced_and_nothing_half_made_stays(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_folder(images=2), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match="exists and is not empty"):
        simulate(data, out, GAN)
    monkeypatch.chdir(out)
    with pytest.raises(OutputExists, match="is the current directory"):
        simulate(data, Path(), GAN, force=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bundle.store.replace_directory", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        simulate(data, out, GAN, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert (out / "mine.txt").read_text() == "mine"


def test_sizes_that_an_hourglass_cannot_halve_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    config = SimulateConfig(how=PriorConfig(levels=5), size=96)
    with pytest.raises(BadConfig, match="size: 5 levels need a multiple of 64, got 96"):
        simulate(make_folder(images=2), tmp_path / "out", config)


def test_the_command(make_folder: MakeFolder, tmp_path: Path) -> None:
    data, out = make_folder(images=2), tmp_path / "out"
    small = ["--size", "32", "--set", "width=2", "--set", "levels=2", "--set", "steps=2"]
    done = CliRunner().invoke(app, ["simulate", str(data), str(out), "--kind", "dip", *small])
    assert done.exit_code == 0, done.output
    assert "12" in done.stdout
    done = CliRunner().invoke(app, ["simulate", str(data), str(out), "--kind", "dip", "--set", "steps=3"])
    assert (done.exit_code, "--steps: Input should be a multiple of 2" in done.stderr) == (2, True)
