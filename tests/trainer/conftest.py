import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from trainer.experiments.corpus import Corpus, map_names
from trainer.experiments.recipe import Recipe, Scale
from trainer.experiments.steps import Steps
from trainer.experiments.study import Study
from trainer.models.srm_metric import S1Config

MakeFolder = Callable[..., Path]
MakeStudy = Callable[..., Study]

GENERATORS = ("deconv", "nearest", "bilinear", "shuffle")
COUNTS = {"train": 8, "val": 4, "calib": 6, "test": 6}


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A folder of noise: smooth for ``real``, with a grid of another period for every other class."""

    def make(name: str = "data", classes: tuple[str, ...] = ("grid", "real"), images: int = 6, size: int = 32) -> Path:
        root = tmp_path / name
        for number, label in enumerate(sorted(classes)):
            (root / label).mkdir(parents=True)
            rng = np.random.default_rng(sum(name.encode()) + number)
            for index in range(images):
                pixels = rng.integers(60, 180, (size, size, 3)).astype(np.uint8)
                if label != "real":
                    pixels[:: 2 + number, :: 2 + number] += 60
                Image.fromarray(pixels).save(root / label / f"{index:02}.png")
        return root

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of noise, 200 x 160."""
    root = tmp_path_factory.mktemp("photographs")
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (160, 200, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tiny() -> S1Config:
    return S1Config(size=32, fit="crop", epochs=2, batch=4, embedding=8)


def write_corpus(root: Path, generators: tuple[str, ...] = GENERATORS, side: int = 32) -> Path:
    """Noise; generators put grids of different periods on the very same noise. One more is kept from training."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        photographs = rng.integers(40, 180, (count, side, side, 3)).astype(np.uint8)
        names = ["real", *generators, *(["rec_other"] if split in {"calib", "test"} else [])]
        for number, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index, photograph in enumerate(photographs):
                pixels = photograph.copy()
                if number:
                    pixels[:: 1 + number, :: 1 + number] += 60
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.read(write_corpus(tmp_path_factory.mktemp("corpus")))


@pytest.fixture
def make_study(corpus: Corpus, tmp_path: Path) -> MakeStudy:
    """A study at a tiny scale: two epochs of a small network on 32 pixels."""

    def make(
        recipe: Mapping[str, Any],
        steps: Steps | None = None,
        pretrained: Mapping[str, Path] | None = None,
        **scale: Any,
    ) -> Study:
        parsed = Recipe.model_validate(
            {"title": "t", "source": "s", "question": "q", **recipe, "smoke": tiny_scale(**scale)}
        )
        mapping = map_names(parsed.names, corpus, parsed.maps, {})
        steps = steps or Steps(tmp_path / "steps")
        return Study(parsed, "smoke", corpus, mapping, steps, tmp_path, Console(quiet=True), pretrained)

    return make


def tiny_scale(**more: Any) -> Scale:
    return Scale.model_validate(
        {
            "resamples": 20,
            "common": {"size": 32, "fit": "crop", "epochs": 1, "batch": 8},
            "systems": {
                "s1": {"embedding": 8},
                "s2": {"width": 4},
                "s3": {"load": 32, "resize": False, "backbone": "resnet18"},
            },
            **more,
        }
    )
