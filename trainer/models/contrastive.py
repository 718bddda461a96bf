"""Ours, for images that were handled on their way: a small network, contrasted, trained on re-coded copies.

Colours and SRM residuals of each colour go through a residual network that keeps the full resolution in its first
stage, where the traces are. Means **and deviations** of all stages are the features: a grid shows in how much a map
varies, not in its mean. Cross-entropy and supervised contrast train them; a linear discriminant, in closed form and on
clean and re-coded copies, makes of them the space in which templates are compared.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (what everyone calls it)

from bundle.manifest import Label
from trainer.augment import handled
from trainer.config import TrainConfig
from trainer.data import ImageFolder
from trainer.discriminant import Statistics
from trainer.evaluate import in_batches
from trainer.losses import SupervisedContrastiveLoss
from trainer.models.srm_metric import SQUARE3, SQUARE5
from trainer.schedules import ByStep, Schedule
from trainer.systems import AugmentImage, Losses, Objective, System

_BEND: Final = 16.0
"""Grey levels at which a residual is halved on the way to its limit, in units of four of them: 4 x / (x + 16)."""
_GRID: Final = 8
"""Crops begin at multiples of it, so that generators' and JPEG's grids stay where they are."""


class ContrastiveConfig(TrainConfig):
    """A run."""

    system: Literal["contrastive"] = "contrastive"

    size: int = Field(default=64, ge=32, le=1024, multiple_of=_GRID)
    fit: Literal["resize", "crop"] = "crop"
    flip: bool = True
    epochs: int = Field(default=10, ge=0)
    batch: int = Field(default=64, ge=2)
    lr: float = Field(default=3e-3, gt=0)
    """Its peak, after a tenth of the steps; it falls as a cosine."""
    widths: tuple[int, int, int, int, int] = (16, 24, 48, 64, 128)
    """Channels: two layers at full size, then one stage for each halving."""
    contrast: float = Field(default=0.5, ge=0)
    """Weight of the supervised contrast beside the cross-entropy."""
    clean: float = Field(default=0.35, ge=0, le=1)
    """Share of training images that stay as they are stored."""
    small: float = Field(default=0.65, ge=0, le=1)
    """Share of batches that are cropped to half their sides: four times as cheap."""
    shrinkage: float = Field(default=0.02, ge=0, le=1)
    """Of the discriminant's covariance."""
    directions: int = Field(default=24, ge=1)
    """Of the embedding: those between classes, and zeros."""


class Residuals(nn.Module):
    """``uint8[N, H, W, 3]`` -> ``float32[N, 15, H, W]``: R, G, B about 0, and four SRM residuals of each.

    SQUARE5x5, SQUARE3x3 and the horizontal and vertical second difference, bent at 16 grey levels.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = np.zeros((5, 5))
        across[2, 1:4] = 0.5, -1, 0.5
        four = np.stack([SQUARE5, SQUARE3, across, across.T])
        self.register_buffer("kernels", torch.from_numpy(np.tile(four, (3, 1, 1))[:, None]).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Colours, then the residuals of R, of G, of B."""
        pixels = images.permute(0, 3, 1, 2).float()
        found = F.conv2d(F.pad(pixels, (2, 2, 2, 2), mode="reflect"), self.kernels, groups=3)
        return torch.cat([(pixels - 128) / 64, 4 * found / (found.abs() + _BEND)], dim=1)


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class _Block(nn.Module):
    """Half the size, then a residual step."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.halve = _convolution(channels, width, 2)
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.halve(maps)
        return F.relu(maps + self.second(self.first(maps)))


class ContrastiveNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, C]``, embedding ``float32[N, directions]``).

    The embedding is what ``fit`` makes of the features; before that, the first of them.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, config: ContrastiveConfig, outputs: int) -> None:
        super().__init__()
        first, *widths = config.widths
        self.residuals = Residuals()
        stem = nn.Sequential(_convolution(15, first), _convolution(first, widths[0]))
        blocks = [_Block(before, width) for before, width in pairwise(widths)]
        self.stages = nn.ModuleList([stem, *blocks])
        features = 2 * sum(widths)
        self.norm = nn.BatchNorm1d(features)
        self.contrasted = nn.Linear(features, 128)
        self.head = nn.Linear(128, outputs)
        self.register_buffer("weight", torch.eye(config.directions, features))
        self.register_buffer("bias", torch.zeros(config.directions))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores, and embeddings in the discriminant's space."""
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(self.contrasted(features)), F.linear(features, self.weight, self.bias)

    def features(self, images: Tensor) -> Tensor:
        """Means and deviations of all stages, normalised by batch: ``float32[N, 2 * channels]``."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 kernels would not sum to zero
            maps = self.residuals(images)
        maps = maps.contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages:
            maps = stage(maps)
            values = maps.float()
            mean = values.mean(dim=(2, 3))
            variance = (values.square().mean(dim=(2, 3)) - mean.square()).clamp(min=0)
            found += [mean, (variance + 1e-4).sqrt()]
        with torch.autocast(images.device.type, enabled=False):
            return cast("Tensor", self.norm(torch.cat(found, dim=1)))


class ContrastiveObjective(Objective):
    """Cross-entropy, and ``contrast`` times the supervised contrast of the 128 numbers before the scores."""

    def __init__(self, config: ContrastiveConfig, labels: Sequence[Label]) -> None:
        super().__init__(config, labels)
        self.weight, self.small = config.contrast, config.small
        self.contrast = SupervisedContrastiveLoss()

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """On the images, or on crops of half their sides."""
        assert isinstance(net, ContrastiveNet)
        if float(torch.rand(())) < self.small:
            images = _crop(images)
        contrasted = net.contrasted(net.features(images)).float()
        scores = net.head(contrasted).float()
        parts = {
            "cross_entropy": self.classification(scores, labels),
            "contrast": self.contrast(contrasted, self.generated[labels].long() if self.binary else labels),
        }
        return Losses(parts["cross_entropy"] + self.weight * parts["contrast"], parts, scores, contrasted)


def fit(
    config: ContrastiveConfig,
    net: nn.Module,
    folder: ImageFolder,
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None],
) -> None:
    """The discriminant of the features of all training images and of a re-coded copy of each."""
    assert isinstance(net, ContrastiveNet)
    rng = np.random.default_rng(config.seed)
    augment = handled(0.0)
    parts: list[Statistics] = []
    for number, name in enumerate(folder.classes):
        pixels = folder.pixels(np.flatnonzero(labels == number))
        copies = np.stack([augment(image, rng) for image in pixels])
        (features,) = in_batches(lambda x: (net.features(x),), np.concatenate([pixels, copies]), net.bias.device)
        parts.append(Statistics.of(name, features))
        progress(number + 1, len(folder.classes))
    layer = Statistics.sum(parts).projection(config.shrinkage, keep="between").onto(config.directions).layer()
    with torch.no_grad():
        net.weight.copy_(layer.weight)
        net.bias.copy_(layer.bias)


def _crop(images: Tensor) -> Tensor:
    """Half of both sides, at a place of the grid."""
    half = images.shape[1] // 2 // _GRID * _GRID
    places = (images.shape[1] - half) // _GRID + 1
    y, x = (_GRID * int(place) for place in torch.randint(places, (2,)))
    return images[:, y : y + half, x : x + half]


def _optimiser(config: ContrastiveConfig, module: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr)


def _schedule(config: ContrastiveConfig, optimiser: torch.optim.Optimizer, steps: int) -> Schedule:
    def factor(done: float) -> float:
        rising = 0.1
        if done < rising:
            return 0.04 + 0.96 * done / rising
        return 0.5 + 0.5 * math.cos(math.pi * (done - rising) / (1 - rising)) * 0.998

    return ByStep(optimiser, max(1, steps * config.epochs), factor)


def _augment_image(config: ContrastiveConfig) -> AugmentImage:
    return handled(config.clean)


SYSTEM: Final = System(
    source="ours",
    config=ContrastiveConfig,
    summary=lambda config: f"residual network of {len(config.widths) - 1} stages, contrasted, LDA",
    network=ContrastiveNet,
    objective=ContrastiveObjective,
    optimiser=_optimiser,
    schedule=_schedule,
    augment_image=_augment_image,
    fit=fit,
)
