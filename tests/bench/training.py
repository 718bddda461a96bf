"""Is training as fast as its arithmetic, and can reading images ever hold it up?

Each system is trained by the trainer's own loop (reading, augmentation, forward, backward, optimiser, losses, figures)
and, in turn with that, by the bare forward and backward of the same network on one batch that lies in memory.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from tests.bench.report import Measure, Report
from trainer.data.folder import ImageFolder, make_labels
from trainer.training.batches import Batches
from trainer.training.config import TrainConfig
from trainer.training.device import World, choose_device, choose_precision
from trainer.training.loop import Run
from trainer.training.systems import make_network, parse_config, system

_SHARE = 0.85
"""Share of the bare speed that training must reach."""
_SYSTEMS: Final[dict[str, dict[str, Any]]] = {
    "s1": {},
    "s2": {"train_preprocessing": "blur"},
    "s3": {},
}
_QUICK: Final[dict[str, Any]] = {"size": 64, "fit": "crop", "batch": 32}
_ROUNDS, _QUICK_ROUNDS = 3, 1
_STEPS, _QUICK_STEPS = 2, 4
"""Steps of an epoch."""


def measure_training(report: Report, *, quick: bool, seed: int) -> None:
    """Systems as published, at 64 pixels when ``quick``; images of noise, as PNG and JPEG in equal parts."""
    with tempfile.TemporaryDirectory() as folder, report.section("training"):
        for name, settings in _SYSTEMS.items():
            small = _QUICK | ({"load": 64, "resize": False} if name == "s3" else {}) if quick else {}
            config = parse_config({"system": name, "seed": seed, **settings, **small})
            data = Path(folder) / name
            steps = _QUICK_STEPS if quick else _STEPS
            with report.step(f"training {name}"):
                _write_images(data, steps * config.batch, config.training_preprocessing.size, seed)
                _measure(report, config, data, _QUICK_ROUNDS if quick else _ROUNDS)


def _measure(report: Report, config: TrainConfig, data: Path, rounds: int) -> None:
    world = World(0, 1, choose_device())
    folder = ImageFolder.read(data, config.training_preprocessing)
    torch.manual_seed(config.seed)
    labels, kind = make_labels(folder, config.real), system(config.system)
    net = make_network(config, labels).to(world.device).to(memory_format=torch.channels_last)
    objective = kind.objective(config, labels).to(world.device)
    run = Run(config, net, objective, folder, world, choose_precision(world.device))
    bare_step = _bare(run, folder)
    bare, trained = [], []
    with Progress(console=Console(quiet=True), disable=True) as silent:
        run.epoch(0, silent)  # warm
        for number in range(1, rounds + 1):
            bare.append(_per_second(lambda: [bare_step() for _ in range(len(run.batches))], folder))
            trained.append(run.epoch(number, silent).images_per_s)
    name = f"{config.system}, {config.size} px, batch {config.batch}"
    share = statistics.median(one / other for one, other in zip(trained, bare, strict=True))
    parts = {"trained": trained, "bare": bare}
    speeds = f"{statistics.median(trained):.1f} of {statistics.median(bare):.1f} images/s"
    report.add(Measure(f"{name}: training against bare", share, "of its speed", _SHARE, parts=parts, note=speeds))

    reading = {
        "reading, decoded before": _read(config, folder, world),
        "reading and decoding": _read(
            config, ImageFolder.read(data, config.training_preprocessing, cache_mib=0), world
        ),
    }
    for what, speed in reading.items():
        report.add(Measure(f"{name}: {what}, one process", speed, "images/s", statistics.median(trained)))


def _bare(run: Run, folder: ImageFolder) -> Callable[[], None]:
    """Forward and backward of the network alone."""
    size, device, precision = run.config.size, run.world.device, run.precision
    images = torch.from_numpy(np.ascontiguousarray(folder.pixels(slice(run.config.batch))[:, :size, :size])).to(device)
    labels = torch.from_numpy(folder.labels[: run.config.batch]).to(device)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision.dtype, enabled=precision.dtype is not None):
            scores, _ = run.net.train()(images)
        run.net.zero_grad(set_to_none=True)  # here, as the trainer does: sooner costs some percent
        torch.autograd.backward(run.objective.classification(scores.float(), labels))

    return step


def _read(config: TrainConfig, folder: ImageFolder, world: World) -> float:
    """Images a second that come out of the loader, with the augmentation of single images."""
    batches = Batches(config, folder, system(config.system).augment_image(config), world)
    return _per_second(lambda: list(batches.epoch(0)), folder)


def _per_second(work: Callable[[], object], folder: ImageFolder) -> float:
    started = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(folder) / (perf_counter() - started)


def _write_images(root: Path, count: int, side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        label, suffix = ("real", "generated")[number % 2], ("png", "jpg")[number // 2 % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side))
        pixels = np.asarray(coarse).astype(np.int16) + rng.integers(-8, 9, (side, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / label / f"{number:04}.{suffix}")
