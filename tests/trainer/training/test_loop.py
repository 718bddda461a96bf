import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.bundles import one_thread
from tests.trainer.training import shared_training
from trainer.errors import BadConfig, OutputUnwritable, UnknownClass
from trainer.models.resnet_blur_jpeg import S3Config
from trainer.models.srm_metric import S1Config
from trainer.training.checkpoint import Checkpoint, load_checkpoint
from trainer.training.device import choose_precision
from trainer.training.loop import Run, train

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]

QUIET = Console(quiet=True)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, *map(str, command)]
    ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran


def same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = ((one.weights, other.weights), (one.objective, other.objective))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_a_seed_gives_the_same_numbers_twice_and_another_seed_others(
    make_folder: MakeFolder, tiny: S1Config, tmp_path: Path
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
    make_folder: MakeFolder, tiny: S1Config, tmp_path: Path, *, binary: bool
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
    moved = [name for name, state in written.objective.items() if state.abs().sum() > 0]
    assert moved == ([] if binary else ["centre.centres"])


def test_classes_of_the_watched_folder_are_checked_before_training(
    make_folder: MakeFolder, tiny: S1Config, tmp_path: Path
) -> None:
    with pytest.raises(UnknownClass, match="no class 'other'"):
        train(tiny, make_folder("a"), tmp_path / "a.pt", make_folder("b", ("other", "real")), QUIET)
    assert not (tmp_path / "a.pt").exists()


def test_an_output_that_cannot_be_written_stops_before_training(tiny: S1Config, tmp_path: Path) -> None:
    """Before the images are read, too: there are none."""
    with pytest.raises(OutputUnwritable, match="it is a folder; pass the name of a file"):
        train(tiny, tmp_path / "nowhere", tmp_path, None, QUIET)
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match="file: Not a directory"):
        train(tiny, tmp_path / "nowhere", tmp_path / "file/a.pt", None, QUIET)


def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    assert choose_precision(cpu).dtype is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert choose_precision(cpu).dtype is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert choose_precision(torch.device("cuda")).scaled


def test_bf16_autocast_trains(
    make_folder: MakeFolder, tiny: S1Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    checkpoint = train(tiny.model_copy(update={"epochs": 1}), make_folder(images=2), tmp_path / "a.pt", None, QUIET)
    assert checkpoint.origin.precision == "bf16"
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())


def test_two_processes_end_alike_and_as_one_does_with_the_whole_batch(make_folder: MakeFolder, tmp_path: Path) -> None:
    """As one: without batch norm, which sees each process's own share."""
    data, alone, both = make_folder(images=6), tmp_path / "alone", tmp_path / "both"
    alone.mkdir()
    both.mkdir()
    with one_thread():
        shared_training.main(data, alone)
    script = "tests.trainer.training.shared_training"
    ran = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", script, data, both)
    assert ran.stdout.count("wrote") == 1  # one of them speaks
    assert ran.stderr.count("epoch  1/1") == 1
    assert load_checkpoint(both / "cli.pt").origin.processes == 2

    for system in ("plain", "s1"):
        first, second = (torch.load(both / f"{system}-{rank}.pt", weights_only=True) for rank in (0, 1))
        for part in ("weights", "objective"):
            assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
        assert first["loss"] == second["loss"]
    one, two = (torch.load(folder / "plain-0.pt", weights_only=True) for folder in (alone, both))
    for part in ("weights", "objective"):
        for name in one[part]:
            torch.testing.assert_close(two[part][name], one[part][name], rtol=1e-3, atol=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_a_run_that_is_steered_by_other_images_asks_for_them(make_folder: MakeFolder, tiny: S1Config) -> None:
    with pytest.raises(BadConfig, match="give them with --val"):
        train(tiny.model_copy(update={"keep": "best"}), make_folder(), Path("a.pt"), None, QUIET)


def test_the_best_weights_are_kept_or_the_last(
    make_folder: MakeFolder, tiny: S1Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By accuracies that we make up; the third epoch's, though equal, is not better than the second's."""
    seen: list[dict[str, torch.Tensor]] = []
    made_up = iter([0.2, 0.6, 0.6, 0.4] * 2)

    def accuracy(self: Run, *_: object) -> float:
        seen.append({name: tensor.clone() for name, tensor in self.net.state_dict().items()})
        return next(made_up)

    monkeypatch.setattr(Run, "accuracy", accuracy)
    data = make_folder(images=2)
    for keep, epoch in (("best", 1), ("last", 3)):
        seen.clear()
        config = tiny.model_copy(update={"keep": keep, "epochs": 4})
        checkpoint = train(config, data, tmp_path / f"{keep}.pt", data, QUIET)
        assert [found.val_accuracy for found in checkpoint.history] == [0.2, 0.6, 0.6, 0.4]
        for number, state in enumerate(seen):
            equal = all(torch.equal(checkpoint.weights[name], state[name]) for name in state)
            assert equal == (number == epoch)


def test_a_schedule_may_end_the_run(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Three falls of the rate by plateau: the first epoch, then one each."""
    config = S3Config(size=32, load=32, resize=False, backbone="resnet18", batch=4, patience=1, lr=1e-5, epochs=50)
    data = make_folder(images=2)
    checkpoint = train(config, data, tmp_path / "a.pt", data, QUIET)
    assert len(checkpoint.history) < 50
    assert checkpoint.history[-1].lr == pytest.approx(1e-6)
