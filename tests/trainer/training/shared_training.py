"""``torchrun -m tests.trainer.training.shared_training DATA OUT``: a short run for ``test_loop.py``.

Every process writes what it ended with to ``OUT/SYSTEM-RANK.pt``; for S1, and for a network without batch norm. Then
the command line trains once more.
"""

import os
import sys
from pathlib import Path
from typing import Final, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from trainer.__main__ import app
from trainer.choices import SYSTEMS
from trainer.models.srm_metric import S1Config, S1Objective
from trainer.training.config import TrainConfig
from trainer.training.loop import train
from trainer.training.systems import System


class PlainConfig(S1Config):
    """S1's losses on another network."""

    system: Literal["plain"] = "plain"  # type: ignore[assignment]


class Plain(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self, config: PlainConfig, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, config.embedding, 4, 4), nn.Tanh())
        self.head = nn.Linear(config.embedding, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and embeddings."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 rounds too much to compare
            embedding = self.features(images.permute(0, 3, 1, 2).float() / 255).mean((2, 3))
            return self.head(embedding), embedding


def sgd(config: PlainConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Unlike Adam, it does not blow rounding up to whole steps."""
    return torch.optim.SGD(module.parameters(), lr=config.lr)


SYSTEM: Final = System("nowhere", PlainConfig, lambda _: "plain", Plain, objective=S1Objective, optimiser=sgd)


def main(data: Path, out: Path) -> None:
    """Train both."""
    SYSTEMS["plain"] = "tests.trainer.training.shared_training"  # type: ignore[index]
    for kind in (PlainConfig, S1Config):
        values = {"size": 32, "fit": "crop", "epochs": 2, "batch": 4, "embedding": 8, "lr": 0.1, "centre_weight": 0.1}
        config: TrainConfig = kind.model_validate(values)
        checkpoint = train(config, data, out / f"{config.system}.pt", data, Console(quiet=True))
        rank = os.environ.get("RANK", "0")
        state = {"weights": dict(checkpoint.weights), "objective": dict(checkpoint.objective)}
        torch.save(state | {"loss": checkpoint.history[-1].loss}, out / f"{config.system}-{rank}.pt")


if __name__ == "__main__":
    folder, target = map(Path, sys.argv[1:])
    main(folder, target)
    options = ("--size", "32", "--fit", "crop", "--epochs", "1", "--batch", "4")
    app(["train", str(folder), str(target / "cli.pt"), *options])
