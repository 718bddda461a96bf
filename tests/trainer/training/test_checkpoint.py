import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bundle.manifest import Label
from trainer.errors import CheckpointInvalid, CheckpointMissing, OutputUnwritable
from trainer.models.srm_metric import S1Config, SrmMetricNet
from trainer.training.checkpoint import Checkpoint, Epoch, Origin, load_checkpoint, save_checkpoint
from trainer.training.embedding import embed
from trainer.versions import installed_versions, now

LABELS = (
    Label(id=0, name="a", kind="generator"),
    Label(id=1, name="real", kind="real"),
    Label(id=2, name="z", kind="generator"),
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    config = S1Config(size=32, fit="crop", embedding=8, seed=5)
    epoch = Epoch(
        number=1, lr=1e-3, loss=1.5, parts={"cross_entropy": 1.4, "centre": 20}, accuracy=0.5, images_per_s=10
    )
    return Checkpoint(
        config=config,
        labels=LABELS,
        origin=Origin(
            fingerprint="f" * 64,
            images={"a": 1, "real": 2, "z": 3},
            precision="fp32",
            device="cpu",
            processes=1,
            versions=installed_versions(),
            created_at=now(),
        ),
        history=(epoch,),
        weights=SrmMetricNet(config, 3).state_dict(),
        objective={"centre.centres": torch.ones(3, 8)},
    )


def test_everything_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "runs/a.pt"
    save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)

    assert loaded.config == checkpoint.config
    assert loaded.labels == LABELS
    assert loaded.origin == checkpoint.origin
    assert loaded.history == checkpoint.history
    assert (loaded.seed, loaded.fingerprint) == (5, "f" * 64)
    assert torch.equal(loaded.objective["centre.centres"], torch.ones(3, 8))
    assert {"torch", "genprint", "decoder"} <= loaded.origin.versions.keys()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for one, other in zip(embed(loaded.model(), images), embed(checkpoint.model(), images), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not loaded.model().training
    assert [path.name for path in path.parent.iterdir()] == ["a.pt"]  # nothing is left beside it


def test_a_failed_write_leaves_the_old_one(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr(torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match=r"a\.pt: cannot be written: .+; choose another place"):
        save_checkpoint(tmp_path / "file/a.pt", checkpoint)
    with pytest.raises(OutputUnwritable, match="cannot be written"):
        save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(CheckpointMissing, match="no checkpoint here: Is a directory"):
        load_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def test_what_is_no_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointMissing, match=r"a\.pt: no checkpoint here"):
        load_checkpoint(path)
    path.write_text("no")
    with pytest.raises(CheckpointInvalid, match="not a checkpoint, or damaged"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(CheckpointInvalid, match=r"format None, expected 'genprint-checkpoint-2'"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointInvalid, match="damaged"):
        load_checkpoint(path)

    monkeypatch.chdir(tmp_path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointInvalid):
        load_checkpoint(path)
    assert not Path("evil").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(checkpoint: Checkpoint, tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.pt"
    weights = {**checkpoint.weights, "head.bias": torch.full_like(checkpoint.weights["head.bias"], value)}
    save_checkpoint(path, replace(checkpoint, weights=weights))
    with pytest.raises(CheckpointInvalid, match=r"weights head\.bias are not finite numbers"):
        load_checkpoint(path)


def test_a_checkpoint_that_does_not_fit_its_own_config_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, checkpoint)
    content = torch.load(path, weights_only=True)
    del content["weights"]["head.bias"]
    torch.save(content, path)
    with pytest.raises(CheckpointInvalid, match=r"do not fit together: .*head\.bias"):
        load_checkpoint(path)
    config = content["config"]
    for good, bad, message in (
        ('"rgbn3"', '"rgbn4"', r"config: srm: Input should be 'rgbn3' or 'srm30', got 'rgbn4'"),
        ('"s1"', '"s9"', "config: system: no system 's9', only s1, s2, s3"),
        ("}", "", "do not fit together: .*delimiter"),
        (config, "[]", "config: expected an object, found list"),
    ):
        torch.save({**content, "config": config.replace(good, bad)}, path)
        with pytest.raises(CheckpointInvalid, match=message):
            load_checkpoint(path)
