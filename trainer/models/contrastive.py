"""A small residual network for degraded images, trained by contrast, with simulated generators as further classes.

Colours and SRM residuals of each colour go through a residual network that keeps the full resolution in its first
stage, where the traces are. Means **and deviations** of all stages are the features: a grid shows in how much a map
varies, not in its mean. The statistics of ``block_statistics`` stand beside them. A normalised softmax and supervised
contrast train the embedding on copies that are degraded as on the web: so that an image's traces decide where it lies
on the sphere, whatever happened to it, and templates are compared by angle.

Where an image lies on the sphere varies within classes, too, so that a class that is named by one random image of it is
named by what is particular in that image as well. Hence the probabilities of the classes stand behind it in the
embedding: they hardly vary within a class. For an image that looks pristine they are those of the discriminant of
``block_spectra``, which is the better classifier there.

Generators drawn at random (``random_upsamplers``) are further classes in training. A few known ones can be told apart
by their coarsest traces; dozens cannot, and what tells dozens apart survives more, and tells unknown ones apart, too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (what everyone calls it)

from bundle.manifest import Label
from trainer.choices import Fit
from trainer.data.augment import degradation
from trainer.data.enlarged import Enlarged
from trainer.data.folder import ImageFolder
from trainer.models import block_spectra
from trainer.models.block_spectra import BlockSpectraConfig, BlockSpectraConstants, BlockSpectraNet
from trainer.models.block_statistics import STATISTICS, BlockSpectra
from trainer.models.srm_metric import SQUARE3, SQUARE5
from trainer.synthesis.random_upsamplers import simulate_once
from trainer.training.config import TrainConfig
from trainer.training.detector import against_simulated, log_odds
from trainer.training.losses import SupervisedContrastiveLoss
from trainer.training.schedules import ByStep, Schedule
from trainer.training.systems import AugmentImage, Losses, Objective, System

_GRID: Final = 8
"""Crops begin at multiples of it, so that generators' and JPEG's grids stay where they are."""
_LEAST: Final = 24
"""Least side in pixels of an image that ``BlockSpectra`` can take."""


class ContrastiveConfig(TrainConfig):
    """Settings of a run."""

    system: Literal["contrastive"] = "contrastive"

    size: int = Field(default=64, ge=32, le=1024, multiple_of=_GRID)
    fit: Fit = "crop"
    l2_normalised: bool = True
    epochs: int = Field(default=16, ge=0)
    batch: int = Field(default=80, ge=2)
    lr: float = Field(default=3e-3, gt=0)
    """Peak of the learning rate, after a tenth of the steps; it then falls as a cosine."""
    widths: tuple[int, int, int, int, int] = (16, 24, 48, 64, 128)
    """Channels of two layers at full size, then of one stage for each halving."""
    embedding: int = Field(default=128, ge=2)
    """Dimension of the contrasted part of the embedding; a probability a class comes after it."""
    scale: float = Field(default=16.0, gt=0)
    """Scale of the cosines before their softmax: the inverse of its temperature."""
    smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Label smoothing: the share of a label that is spread over all classes."""
    contrast: float = Field(default=0.5, ge=0)
    """Weight of the supervised contrast beside the cross-entropy."""
    clean: float = Field(default=0.35, ge=0, le=1)
    """Share of training images that stay pristine."""
    small: float = Field(default=0.65, ge=0, le=1)
    """Share of epochs, the first ones, on crops of half the sides: a quarter of the work."""
    photographs: int = Field(default=3, ge=1)
    """Times that an epoch has each photograph, which has to be told from all generators."""
    opinion: float = Field(default=2.0, ge=0)
    """Most that the log-odds of ``block_spectra``, fitted to the same images, may move those of *generated* where an
    image looks pristine: there they are the better ones. Where it looks degraded they are the worse ones, and may move
    them by the share ``opinion_degraded`` of it. 0 does without the discriminant, in the embedding as well."""
    simulated: int = Field(default=24, ge=0)
    """Random generators that are classes beside the known ones."""
    simulated_steps: int = Field(default=150, ge=1)
    """Training steps of each random generator."""
    simulated_images: int = Field(default=150, ge=16)
    """Photographs that each random generator is given, at most."""
    residual_bend: float = Field(default=16.0, gt=0)
    """Grey levels at which a residual is halved on the way to its limit, in units of four of them: 4 x / (x + 16)."""
    feature_clip: float = Field(default=8.0, gt=0)
    """Features are clipped here, in deviations: what lies farther is far, no matter how far."""
    opinion_temperature: float = Field(default=3.0, gt=0)
    """Divisor of the discriminant's scores, which rest on thousands of assumptions of normality."""
    opinion_degraded: float = Field(default=0.25, ge=0, le=1)
    """Share of ``opinion`` that is left for images that look degraded."""
    pristine_between: tuple[float, float] = (0.6, 0.9)
    """Probability of being pristine up to which an image counts as degraded, and from which as pristine. It,
    ``opinion``, ``opinion_temperature``, ``opinion_degraded``, and that probabilities weigh as much in the embedding as
    the contrasted part, were chosen on mini8's validation and calibration images."""
    constants: BlockSpectraConstants = BlockSpectraConstants()
    """Constants of the discriminant of ``block_spectra``, which is fitted to the same images."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        least, enough = self.pristine_between
        if not 0 <= least < enough <= 1:
            raise ValueError(f"pristine_between must be two rising numbers in 0..1, got {least:g} and {enough:g}")
        return self


class Residuals(nn.Module):
    """``uint8[N, H, W, 3]`` -> ``float32[N, 15, H, W]``: R, G, B about 0, and four SRM residuals of each.

    SQUARE5x5, SQUARE3x3 and the horizontal and vertical second difference, bent at ``bend`` grey levels.
    """

    kernels: Tensor

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.bend = bend
        across = np.zeros((5, 5))
        across[2, 1:4] = 0.5, -1, 0.5
        four = np.stack([SQUARE5, SQUARE3, across, across.T])
        self.register_buffer("kernels", torch.from_numpy(np.tile(four, (3, 1, 1))[:, None]).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute colours, then the residuals of R, of G, of B."""
        pixels = images.permute(0, 3, 1, 2).float()
        found = F.conv2d(F.pad(pixels, (2, 2, 2, 2), mode="reflect"), self.kernels, groups=3)
        return torch.cat([(pixels - 128) / 64, 4 * found / (found.abs() + self.bend)], dim=1)


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class _Block(nn.Module):
    """A convolution that halves the size, then a residual step."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.halve = _convolution(channels, width, 2)
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.halve(maps)
        return F.relu(maps + self.second(self.first(maps)))


class ContrastiveNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, C]``, embedding ``float32[N, embedding + C + simulated]``).

    Scores are scaled cosines of the contrasted part of the embedding and a prototype a class. Prototypes of simulated
    classes come after those of the C outputs; they count against photographs (``against_simulated``), so that the
    log-odds of *generated* know more generators than have a label. Those of ``block_spectra`` move them by ``opinion``
    at most.

    The embedding is the contrasted part, at length 1, and behind it the probabilities of all classes: the softmax of
    the scores, or of those of ``block_spectra`` over ``opinion_temperature``, or between them, as the image looks
    degraded or pristine. The binary variant has the contrasted part alone, of any length.

    Attributes:
        photographs: ``bool[C]``, which outputs are of photographs.
    """

    photographs: Tensor

    def __init__(self, config: ContrastiveConfig, outputs: int) -> None:
        super().__init__()
        first, *widths = config.widths
        self.scale, self.opinion, self.binary = config.scale, config.opinion, config.binary
        self.clip, self.pristine_between = config.feature_clip, config.pristine_between
        self.temperature, self.opinion_degraded = config.opinion_temperature, config.opinion_degraded
        self.residuals = Residuals(config.residual_bend)
        self.statistics = BlockSpectra()
        stem = nn.Sequential(_convolution(15, first), _convolution(first, widths[0]))
        blocks = [_Block(before, width) for before, width in pairwise(widths)]
        self.stages = nn.ModuleList([stem, *blocks])
        features = 2 * sum(widths) + STATISTICS
        self.norm = nn.BatchNorm1d(features)
        self.embedding = nn.Linear(features, config.embedding)
        classes = outputs if config.binary else outputs + config.simulated
        self.prototypes = nn.Parameter(torch.randn(classes, config.embedding))
        self.register_buffer("photographs", torch.zeros(outputs, dtype=torch.bool))
        self.discriminant: BlockSpectraNet | None = None
        if config.opinion > 0 and not config.binary:
            with torch.random.fork_rng(devices=[]):  # it is fitted, and draws nothing from what the others draw from
                self.discriminant = BlockSpectraNet(_closed_form(config), outputs).requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and embeddings."""
        with torch.autocast(images.device.type, enabled=False):
            statistics = (self.statistics if self.discriminant is None else self.discriminant.statistics)(images)
        contrasted = self.contrasted(images, statistics)
        every = self.scores(contrasted)
        scores = against_simulated(every, self.photographs)
        if self.binary:
            return scores, contrasted
        probabilities = every.softmax(dim=1)
        if self.discriminant is not None:
            second, pristine = self._second(self.discriminant, statistics)
            odds = log_odds(against_simulated(second, self.photographs), self.photographs)[:, None]
            limit = self.opinion * (self.opinion_degraded + (1 - self.opinion_degraded) * pristine)
            scores = scores - (odds / self.temperature).clamp(-limit, limit) * self.photographs
            probabilities = probabilities.lerp((second / self.temperature).softmax(dim=1), pristine)
        return scores, torch.cat([F.normalize(contrasted), probabilities], dim=1)

    def contrasted(self, images: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Contrasted part ``float32[N, embedding]``, of any length.

        ``statistics`` begin with those of ``BlockSpectra``.
        """
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 kernels would not sum to zero
            maps = self.residuals(images)
            statistics = self.statistics(images) if statistics is None else statistics[:, :STATISTICS]
        maps = maps.contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages:
            maps = stage(maps)
            values = maps.float()
            mean = values.mean(dim=(2, 3))
            variance = (values.square().mean(dim=(2, 3)) - mean.square()).clamp(min=0)
            found += [mean, (variance + 1e-4).sqrt()]
        with torch.autocast(images.device.type, enabled=False):
            features = self.norm(torch.cat([*found, statistics], dim=1)).clamp(-self.clip, self.clip)
            return cast("Tensor", self.embedding(features))

    def _second(self, discriminant: BlockSpectraNet, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``float32[N, C + simulated]`` of the discriminant, and ``[N, 1]``: how pristine images look, 0..1."""
        rows = discriminant.standardised(statistics)
        least, enough = self.pristine_between
        pristine = ((discriminant.pristine(rows) - least) / (enough - least)).clamp(0, 1)
        return discriminant.scores(discriminant.embed(rows)), pristine

    def scores(self, contrasted: Tensor) -> Tensor:
        """Scores of all classes, simulated ones last: ``float32[N, C + simulated]``."""
        with torch.autocast(contrasted.device.type, enabled=False):
            return self.scale * F.normalize(contrasted, dim=1) @ F.normalize(self.prototypes, dim=1).T


class ContrastiveObjective(Objective):
    """Cross-entropy, and ``contrast`` times the supervised contrast of the embeddings."""

    def __init__(self, config: ContrastiveConfig, labels: Sequence[Label]) -> None:
        super().__init__(config, labels)
        self.weight, self.small, self.smoothing = config.contrast, config.small, config.smoothing
        self.contrast = SupervisedContrastiveLoss()
        self.generated = torch.cat([self.generated, torch.ones(config.simulated, dtype=torch.bool)])

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Compute the losses on crops of half the sides, and towards the end of the run on whole images."""
        assert isinstance(net, ContrastiveNet)
        if self.done < self.small:
            images = _crop(images)
        embedding = net.contrasted(images)
        scores = net.scores(embedding)
        parts = {
            "cross_entropy": self.classification(scores, labels),
            "contrast": self.contrast(embedding, self.generated[labels].long() if self.binary else labels),
        }
        return Losses(parts["cross_entropy"] + self.weight * parts["contrast"], parts, scores, embedding)

    def classification(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with smoothed labels, simulated classes among them."""
        if self.binary:
            return super().classification(scores, labels)
        return F.cross_entropy(scores, labels, label_smoothing=self.smoothing)


def enlarge(config: ContrastiveConfig, folder: ImageFolder, progress: Callable[[int, int], None]) -> Enlarged:
    """Repeat photographs, and add what random generators make of them as further classes.

    Raises:
        BadConfig: see ``block_spectra.require_enough``.
    """
    if config.opinion > 0 and not config.binary:
        block_spectra.require_enough(folder)  # now, not after the epochs
    photographs = folder.among(config.real)[folder.labels]
    chosen = np.flatnonzero(photographs)[: config.simulated_images]
    made = simulate_once(folder.pixels(chosen), config.simulated, config.simulated_steps, config.seed, progress)
    return Enlarged.of(folder, made, np.where(photographs, config.photographs, 1))


def fit(
    config: ContrastiveConfig,
    net: nn.Module,
    folder: ImageFolder,
    progress: Callable[[int, int], None],
) -> None:
    """Record which outputs are of photographs, and fit the discriminant."""
    assert isinstance(net, ContrastiveNet)
    if not config.binary:
        net.photographs.copy_(torch.from_numpy(folder.among(config.real)))
    if net.discriminant is not None:
        block_spectra.fit(_closed_form(config), net.discriminant, folder, progress)


def templates(_config: ContrastiveConfig, weights: Mapping[str, Tensor], labels: int) -> Tensor:
    """Prototypes, each with probability 1 of its class: ``float32[C, embedding + C + simulated]``, of length 1."""
    prototypes = F.normalize(weights["prototypes"], dim=1)
    return F.normalize(torch.cat([prototypes, torch.eye(len(prototypes))], dim=1)[:labels], dim=1)


def _closed_form(config: ContrastiveConfig) -> BlockSpectraConfig:
    return BlockSpectraConfig(
        size=config.size,
        fit=config.fit,
        real=config.real,
        seed=config.seed,
        simulated=config.simulated,
        simulated_steps=config.simulated_steps,
        simulated_images=config.simulated_images,
        constants=config.constants,
    )


def _crop(images: Tensor) -> Tensor:
    """Crop to half of both sides, beginning at a random point of the grid."""
    half = max(_LEAST, images.shape[1] // 2 // _GRID * _GRID)
    steps = (images.shape[1] - half) // _GRID + 1
    y, x = (_GRID * int(step) for step in torch.randint(steps, (2,)))
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
    return degradation(config.clean)


SYSTEM: Final = System(
    source="Genprint",
    config=ContrastiveConfig,
    summary=lambda config: (
        f"residual network of {len(config.widths) - 1} stages, contrasted, {config.simulated} simulated generators"
    ),
    network=ContrastiveNet,
    enlarge=enlarge,
    objective=ContrastiveObjective,
    optimiser=_optimiser,
    schedule=_schedule,
    augment_image=_augment_image,
    trained_on_degraded=True,
    fit=fit,
    templates=templates,
)
