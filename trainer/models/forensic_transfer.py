"""ForensicTransfer: an autoencoder of residuals; one half of its latent is active for reals, the other for fakes.

Cozzolino, Thies, Roessler, Riess, Niessner, Verdoliva: "ForensicTransfer: Weakly-supervised Domain Adaptation for
Forgery Detection", 2018. Reconstruction keeps the latent general, so that a few images of another generator suffice to
adapt it: train on those with ``source`` set to the first training's checkpoint.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (what everyone calls it)

from bundle.manifest import Label
from trainer.choices import Fit
from trainer.errors import BadConfig
from trainer.training.checkpoint import load_checkpoint
from trainer.training.config import TrainConfig
from trainer.training.losses import ActivationLoss, part_activations
from trainer.training.schedules import Constant, Plateau, Schedule
from trainer.training.systems import Losses, Objective, System

_DERIVATIVE: Final = (1.0, -3.0, 3.0, -1.0)
_SCALE: Final = 32.0
"""Grey levels of residual that the decoder's tanh reaches; few are larger, and those are clipped. Genprint's
choice."""
_SHARPNESS: Final = 10.0
"""Activations lie in 0..1: by this factor their log-sum-exp follows the strongest, as the paper's decision does."""


class ForensicTransferConfig(TrainConfig):
    """Published settings; the residual's scale, number of epochs and signal for stopping are Genprint's choice."""

    system: Literal["forensic_transfer"] = "forensic_transfer"

    size: int = Field(default=256, ge=32, le=1024, multiple_of=16)
    fit: Fit = "crop"
    width: int = Field(default=8, ge=1)
    """Maps of the first convolution; the latent has 16 times as many, in equal parts."""
    reconstruction_weight: float = Field(default=0.1, ge=0)
    """Weight of the mean absolute error of the residual beside the activation loss."""
    source: Path | None = None
    """A checkpoint of this system to start from, on the same labels: adaptation to the images that are given now."""

    binary: bool = True
    """The paper's latent has two parts. Otherwise it has as many as there are labels."""
    epochs: int = Field(default=300, ge=0)
    batch: int = Field(default=64, ge=2)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a rise of validation accuracy. The paper waits 30 epochs for a lower activation
    loss on its validation images; accuracy is what all of Genprint's systems watch."""

    @property
    def needs_val(self) -> bool:
        """Whether validation accuracy decides when to stop, or which weights to keep."""
        return self.patience is not None or self.keep == "best"


class Residual(nn.Module):
    """``uint8[N, H, W, 3]`` -> third derivatives along rows and columns, ``float32[N, 6, H, W]`` in -1..1.

    Per channel; 1 is 32 grey levels. The border is reflected.
    """

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor(_DERIVATIVE) / _SCALE
        self.register_buffer("across", kernel[None, None, None, :], persistent=False)
        self.register_buffer("down", kernel[None, None, :, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Filter and clip."""
        _, height, width, _ = images.shape
        planes = images.permute(0, 3, 1, 2).float().reshape(-1, 1, height, width)
        across = F.conv2d(F.pad(planes, (1, 2, 0, 0), mode="reflect"), self.get_buffer("across"))
        down = F.conv2d(F.pad(planes, (0, 0, 1, 2), mode="reflect"), self.get_buffer("down"))
        return torch.cat([across.reshape(-1, 3, height, width), down.reshape(-1, 3, height, width)], 1).clamp(-1, 1)


class ForensicTransferNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, mean activation of each latent map ``float32[N, D]``).

    Encoder: 3x3 convolutions with ReLU, the first at full resolution, four of stride 2, maps doubling from 8 to 128.
    Decoder: its mirror image, nearest-neighbour up-sampling before 3x3 convolutions, tanh at the end. Batch norm but in
    the first and last layer. The decoder is of no use in serving and does not reach the exported graph.

    With one output the score is the fakes' activation minus the reals', otherwise each label's own; times ten.
    """

    def __init__(self, config: ForensicTransferConfig, outputs: int) -> None:
        super().__init__()
        self.parts = max(outputs, 2)
        self.binary = outputs == 1
        latent = 16 * config.width // self.parts * self.parts
        if latent == 0:
            raise BadConfig(f"width: {config.width} gives fewer latent maps than the {outputs} labels need")
        maps = [config.width << number for number in range(4)] + [latent]
        self.residual = Residual()
        encoder: list[nn.Module] = [nn.Conv2d(6, maps[0], 3, padding=1), nn.ReLU()]
        for inputs, more in pairwise(maps):
            encoder += [nn.Conv2d(inputs, more, 3, 2, 1, bias=False), nn.BatchNorm2d(more), nn.ReLU()]
        decoder: list[nn.Module] = []
        for inputs, fewer in pairwise(reversed(maps)):
            decoder += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, fewer, 3, padding=1, bias=False)]
            decoder += [nn.BatchNorm2d(fewer), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(maps[0], 6, 3, padding=1), nn.Tanh())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and activations."""
        return self.score(self.encode(images)[1])

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Residual ``float32[N, 6, H, W]`` and latent ``float32[N, D, H / 16, W / 16]``."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round the residuals away
            residual = self.residual(images)
        latent = self.encoder(residual.contiguous(memory_format=torch.channels_last))
        return residual, latent.float()

    def score(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and activations of a latent."""
        scores = _SHARPNESS * part_activations(latent, self.parts)
        return (scores[:, 1:] - scores[:, :1] if self.binary else scores), latent.abs().mean((2, 3))

    def decode(self, latent: Tensor, parts: Tensor) -> Tensor:
        """Residuals from the one part ``int64[N]`` of each latent; the others are set to zero."""
        kept = F.one_hot(parts, self.parts).repeat_interleave(latent.shape[1] // self.parts, dim=1)
        residual: Tensor = self.decoder(latent * kept[:, :, None, None])
        return residual.float()


class ForensicTransferObjective(Objective):
    """Activation loss plus, weighted, the mean absolute error of the residual that the right part gives back."""

    def __init__(self, config: ForensicTransferConfig, labels: Sequence[Label]) -> None:
        super().__init__(config, labels)
        self.weight = config.reconstruction_weight
        self.activation = ActivationLoss()

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Compute the losses of a batch; see the base class."""
        assert isinstance(net, ForensicTransferNet)
        residual, latent = net.encode(images)
        scores, embedding = net.score(latent)
        parts = self.generated[labels].long() if self.binary else labels
        activation = self.activation(part_activations(latent, net.parts), parts)
        reconstruction = (net.decode(latent, parts) - residual).abs().mean()
        total = activation + self.weight * reconstruction
        return Losses(total, {"activation": activation, "reconstruction": reconstruction}, scores, embedding)


def _start(config: ForensicTransferConfig, net: nn.Module) -> None:
    """Start from the weights of another checkpoint, ``source``.

    Raises:
        BadConfig: the checkpoint is of another system, or of another width or number of labels.
        CheckpointError: the checkpoint cannot be read.
    """
    if config.source is None:
        return
    source = load_checkpoint(config.source)
    if source.config.system != config.system:
        raise BadConfig(f"source: {config.source} is of {source.config.system}, expected {config.system}")
    try:
        net.load_state_dict(source.weights)
    except RuntimeError as error:
        raise BadConfig(f"source: {config.source} has another width or number of labels") from error


def _schedule(config: ForensicTransferConfig, optimiser: torch.optim.Optimizer, _steps: int) -> Schedule:
    if config.patience is None:
        return Constant()
    return Plateau(optimiser, config.patience, delta=1e-6, floor=config.lr)  # the first fall of the rate is the end


SYSTEM: Final = System(
    source="Cozzolino et al., ForensicTransfer, 2018",
    config=ForensicTransferConfig,
    summary=lambda config: f"autoencoder of residuals, {16 * config.width} latent maps in parts",
    network=ForensicTransferNet,
    start=_start,
    objective=ForensicTransferObjective,
    schedule=_schedule,
)
