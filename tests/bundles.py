"""A trained, exported bundle in a dozen seconds: three textures, a small network, the project's own programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console

from bundle.store import Bundle
from exporter.export import export
from exporter.options import ExportOptions
from exporter.source import from_checkpoint
from trainer.data.folder import ImageFolder
from trainer.models.srm_metric import S1Config
from trainer.training.checkpoint import Checkpoint, save_checkpoint
from trainer.training.loop import train

SIZE = 32
CLASSES = ("doubled", "real", "striped")
IMAGES = {"train": 24, "calib": 20, "test": 8}
"""A class; enough calibration images for an alpha of 0.05."""
OPTIONS = ExportOptions(name="tiny", alpha=0.05, error_target=0.05)


def texture(name: str, rng: np.random.Generator, side: int = 40) -> npt.NDArray[np.uint8]:
    """``uint8[side, side, 3]``: noise around a colour, each pixel of it twice, or a stripe on each fourth column."""
    colour = rng.integers(60, 190, 3)
    noise = rng.normal(0, 12, (side, side, 3))
    match name:
        case "doubled":
            noise = noise[: side // 2, : side // 2].repeat(2, axis=0).repeat(2, axis=1)
        case "striped":
            noise[:, ::4] += 40
    return (colour + noise).clip(0, 255).astype(np.uint8)


def write_data(root: Path, seed: int = 0) -> Path:
    """``root/split/class/NN.png``, for the splits train, calib and test."""
    rng = np.random.default_rng(seed)
    for split, count in IMAGES.items():
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(texture(name, rng)).save(folder / f"{number:02}.png")
    return root


def train_checkpoint(data: Path, out: Path) -> Checkpoint:
    """A network that tells the three textures apart.

    Nine steps are enough for the weights but not for the running means of batch norm, so those are taken anew.
    """
    config = S1Config(size=SIZE, fit="crop", embedding=16, epochs=3, batch=24)
    with one_thread():
        trained = train(config, data / "train", out, None, Console(quiet=True))
    settled = replace(trained, weights=_settle(trained, data / "train"))
    save_checkpoint(out, settled)
    return settled


def _settle(checkpoint: Checkpoint, folder: Path) -> dict[str, torch.Tensor]:
    net = checkpoint.model().net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        net(torch.from_numpy(ImageFolder.read(folder, checkpoint.config.preprocessing).pixels(slice(None))))
    return net.state_dict()


def export_bundle(checkpoint: Checkpoint, data: Path, out: Path, options: ExportOptions = OPTIONS) -> Bundle:
    """As ``python -m exporter export`` does."""
    with one_thread():
        return export(from_checkpoint(checkpoint), data, out, options, force=False, progress=lambda _: None)


@contextmanager
def one_thread() -> Iterator[None]:
    """So small a network gains nothing from more, and on a busy machine they wait for each other: 7 s become 30."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
