import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.models.srm_metric import S1Config

MakeFolder = Callable[..., Path]


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
