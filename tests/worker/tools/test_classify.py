"""Files for which memory is too short: rows like any other, and the files beside and after them are judged."""

from pathlib import Path
from typing import Any

import pytest

from bundle.store import Bundle
from bundle.views import Views
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.images.decoder_pool import DecoderPool
from worker.images.files import read_any_file
from worker.images.prepare import PreparedImage
from worker.scoring.engine import Engine
from worker.settings import InferenceSettings, Settings
from worker.tools.classify import classify

MUCH = encoded_image(255)
"""The image that takes more memory than there is; all of its pixels are 255."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    engine = Engine(bundle, InferenceSettings(device="cpu"))
    engine.start()
    return engine


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Four files, in two batches of which the first has the image ``MUCH``."""
    images = {"dark.png": encoded_image(40), "much.png": MUCH, "bright.png": encoded_image(220), "z.png": MUCH[:50]}
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in images]


def rows(paths: list[Path], bundle: Bundle, engine: Engine) -> list[tuple[str, str]]:
    """What each file's row says: the decision, or why there is none."""
    settings = Settings.model_validate({"inference": {"batch_size": 2}, "images": {"decode_processes": 1}})
    found = list(classify(paths, settings, bundle, engine))
    assert [row.path for row in found] == paths
    assert all(str(row.error) for row in found if row.error)
    return [(row.path.name, row.verdict.generated.decision if row.verdict else row.reason) for row in found]


EXPECTED = [
    ("dark.png", "real"),
    ("much.png", "memory_short"),
    ("bright.png", "generated"),
    ("z.png", "broken_image"),
]


def test_without_memory_to_score_it_a_file_alone_has_no_verdict(
    bundle: Bundle, engine: Engine, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.run

    def short(model: Any, views: Views) -> Any:
        if (views == 255).all(axis=(1, 2, 3)).any():
            raise MemoryError
        return run(model, views)

    monkeypatch.setattr(engine, "run", short)
    assert rows(paths, bundle, engine) == EXPECTED


def test_without_memory_to_read_it_a_file_alone_has_no_verdict(
    bundle: Bundle, engine: Engine, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(path: Path, max_bytes: int) -> bytes:
        if path.name == "much.png":
            raise MemoryError
        return read_any_file(path, max_bytes)

    monkeypatch.setattr("worker.tools.classify.read_any_file", short)
    assert rows(paths, bundle, engine) == EXPECTED


def test_without_memory_to_decode_it_a_file_alone_has_no_verdict(
    bundle: Bundle, engine: Engine, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = DecoderPool.prepare

    def short(pool: DecoderPool, data: bytes) -> PreparedImage:
        if data == MUCH:
            raise MemoryError
        return prepare(pool, data)

    monkeypatch.setattr(DecoderPool, "prepare", short)
    assert rows(paths, bundle, engine) == EXPECTED
