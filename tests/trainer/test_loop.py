import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import TrainConfig
from trainer.device import choose_precision
from trainer.errors import UnknownClass
from trainer.loop import train

MakeFolder = Callable[..., Path]

QUIET = Console(quiet=True)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights) and torch.equal(
        one.centres, other.centres
    )


def test_a_seed_gives_the_same_numbers_twice_and_another_seed_others(
    make_folder: MakeFolder, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = make_folder(images=4)
    config = tiny.model_copy(update={"flip": True})
    first = train(config, data, tmp_path / "1.pt", None, QUIET)
    again = train(config, data, tmp_path / "2.pt", None, QUIET)
    other = train(config.model_copy(update={"seed": 1}), data, tmp_path / "3.pt", None, QUIET)

    assert same(first, again)
    assert not same(first, other)
    assert [epoch.loss for epoch in first.history] == [epoch.loss for epoch in again.history]
    assert first.fingerprint == other.fingerprint


@pytest.mark.parametrize("binary", [False, True])
def test_a_run_learns_and_writes_what_it_returns(
    make_folder: MakeFolder, tiny: TrainConfig, tmp_path: Path, *, binary: bool
) -> None:
    config = tiny.model_copy(update={"epochs": 3, "batch": 8, "binary": binary})
    classes = ("grid", "real")
    returned = train(config, make_folder("a", classes, 12), tmp_path / "a.pt", make_folder("b", classes, 4), QUIET)
    written = load_checkpoint(tmp_path / "a.pt")

    assert same(returned, written)
    assert written.history == returned.history
    assert written.origin.images == {"grid": 12, "real": 12}
    assert written.history[-1].loss < written.history[0].loss
    assert written.history[-1].accuracy > 0.8
    assert written.history[-1].val_accuracy is not None
    rates = [epoch.lr for epoch in written.history]
    assert rates == sorted(set(rates), reverse=True)  # falls after every epoch
    assert rates[0] == config.lr
    assert written.centres.abs().sum() > 0


def test_classes_of_the_watched_folder_are_checked_before_training(
    make_folder: MakeFolder, tiny: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(UnknownClass, match="no class 'other'"):
        train(tiny, make_folder("a"), tmp_path / "a.pt", make_folder("b", ("other", "real")), QUIET)
    assert not (tmp_path / "a.pt").exists()


def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    assert choose_precision(cpu).dtype is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert choose_precision(cpu).dtype is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert choose_precision(torch.device("cuda")).scaled


def test_bf16_autocast_trains(
    make_folder: MakeFolder, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    checkpoint = train(tiny.model_copy(update={"epochs": 1}), make_folder(images=2), tmp_path / "a.pt", None, QUIET)
    assert checkpoint.origin.precision == "bf16"
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())


def test_torchrun_trains_on_two_processes_and_one_of_them_speaks(make_folder: MakeFolder, tmp_path: Path) -> None:
    options = ["--size", "32", "--fit", "crop", "--epochs", "1", "--batch", "4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "trainer", "train", str(make_folder(images=2)), str(tmp_path / "a.pt"), *options]
    ran = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("wrote") == 1
    assert ran.stderr.count("epoch  1/1") == 1
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.origin.processes == 2
    assert checkpoint.history[0].loss > 0
