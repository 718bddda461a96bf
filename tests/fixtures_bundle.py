"""The data, the checkpoint and the bundle of ``tests.bundles``: each made once a session, and not to be changed."""

from pathlib import Path

import pytest

from bundle.store import Bundle
from tests.bundles import export_bundle, train_checkpoint, write_data
from trainer.training.checkpoint import Checkpoint, load_checkpoint


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train, calib and test; classes ``real``, ``doubled`` and ``striped``."""
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_checkpoint_path(tiny_data: Path) -> Path:
    """The checkpoint's file."""
    path = tiny_data.parent / "checkpoint.pt"
    train_checkpoint(tiny_data, path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_checkpoint_path: Path) -> Checkpoint:
    """Read back from its file."""
    return load_checkpoint(tiny_checkpoint_path)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Checkpoint, tiny_data: Path) -> Bundle:
    """Exported, loaded and verified; ``tiny_bundle.path`` is its directory."""
    return export_bundle(tiny_checkpoint, tiny_data, tiny_data.parent / "bundle")
