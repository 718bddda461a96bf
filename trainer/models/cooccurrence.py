"""A small CNN on co-occurrence matrices: how often two grey levels are neighbours.

Nataraj, Mohammed, Manjunath, Chandrasekaran, Flenner, Bappy, Roy-Chowdhury: "Detecting GAN generated Fake Images using
Co-occurrence Matrices", Electronic Imaging 2019.
"""

from itertools import pairwise
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.choices import Fit
from trainer.training.config import TrainConfig
from trainer.training.systems import System


class CooccurrenceConfig(TrainConfig):
    """256 px, three 256x256 matrices and batches of 40 are the paper's; rate and epochs are Genprint's choice.

    A step on one image costs 6 GMAC forward, whatever the image's size: at mini and smoke scale take 64 or 32 levels.
    """

    system: Literal["cooccurrence"] = "cooccurrence"

    size: int = Field(default=256, ge=32, le=1024)
    fit: Fit = "crop"
    levels: Literal[256, 128, 64, 32, 16] = 256
    """Side of the matrices; with fewer than 256, neighbouring grey levels are one."""
    counts: Literal["raw", "log"] = "raw"
    """The paper's raw counts, or Genprint's ``log(1 + count)``: flat areas make counts up to ``levels ** 2`` times the
    mean. On 1,400 images of 64 px, 32 levels, five epochs at 1e-3, raw counts stayed at chance and logs reached
    60 %."""
    width: int = Field(default=32, ge=1)
    """Maps of the first block; twice as many in the second, four times in the third."""
    dense: int = Field(default=256, ge=2)
    """Neurons of each of the two hidden layers."""

    batch: int = Field(default=40, ge=2)
    lr: float = Field(default=1e-4, gt=0)


class Cooccurrence(nn.Module):
    """``uint8[N, H, W, 3]`` -> ``float32[N, 3, L, L]``: how often level i has level j as its right neighbour.

    Horizontal pairs, each channel by itself. Counts are scaled to a mean of 1, which at 256 px and 256 levels are the
    counts themselves (up to 256/255), so that a network does not depend on the image's size.
    """

    def __init__(self, levels: int, counts: Literal["raw", "log"] = "raw") -> None:
        super().__init__()
        self.levels, self.log = levels, counts == "log"

    def forward(self, images: Tensor) -> Tensor:
        """Count the pairs."""
        binned = images.permute(0, 3, 1, 2).long() // (256 // self.levels)
        pairs = (binned[..., :-1] * self.levels + binned[..., 1:]).flatten(2)
        counts = torch.zeros(images.shape[0], 3, self.levels**2, device=images.device)
        counts = counts.scatter_add(2, pairs, torch.ones_like(pairs, dtype=torch.float32))
        matrices: Tensor = counts.reshape(-1, 3, self.levels, self.levels) * (self.levels**2 / pairs.shape[2])
        return matrices.log1p() if self.log else matrices


class CooccurrenceNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, second hidden layer ``float32[N, dense]``).

    Three blocks of a 3x3 and a 5x5 convolution, ReLU, and 2x2 max pooling; two dense layers. Borders are padded with
    zeros; the paper does not say.
    """

    def __init__(self, config: CooccurrenceConfig, outputs: int) -> None:
        super().__init__()
        self.matrices = Cooccurrence(config.levels, config.counts)
        layers: list[nn.Module] = []
        for inputs, maps in pairwise((3, config.width, 2 * config.width, 4 * config.width)):
            layers += [nn.Conv2d(inputs, maps, 3, padding=1), nn.ReLU(), nn.Conv2d(maps, maps, 5, padding=2), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = 4 * config.width * (config.levels // 8) ** 2
        self.dense = nn.Sequential(
            nn.Linear(flat, config.dense), nn.ReLU(), nn.Linear(config.dense, config.dense), nn.ReLU()
        )
        self.head = nn.Linear(config.dense, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and features."""
        matrices = self.matrices(images).contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.dense(self.features(matrices).flatten(1)).float()
        return self.head(embedding), embedding


SYSTEM: Final = System(
    source="Nataraj et al., Electronic Imaging 2019",
    config=CooccurrenceConfig,
    summary=lambda config: f"three {config.levels}x{config.levels} co-occurrence matrices, 6 convolutions",
    network=CooccurrenceNet,
)
