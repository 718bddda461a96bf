"""S1: SRM filters -> ResNet -> 512-d feature -> classes.

Xuan, Peng, Wang, Dong: "Scalable Fine-grained Generated Image Classification Based on Deep Metric Learning", WIFS 2019.

The filters suppress what the image shows and leave what made it: noise, interpolation, checkerboards. They are fixed
and part of the graph, so that no server of the model can forget them.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from pydantic import Field
from torch import Tensor, nn

from bundle.manifest import Label
from trainer.training.config import TrainConfig
from trainer.training.losses import CentreLoss
from trainer.training.schedules import Exponential, Schedule
from trainer.training.systems import Losses, Objective, System


class S1Config(TrainConfig):
    """Published settings; fields say what was chosen where the paper is silent, as it is on mirroring."""

    system: Literal["s1"] = "s1"

    backbone: Literal["resnet18", "resnet50"] = "resnet18"
    """The paper says "ResNet". 18 layers reach its figures here and train four times faster than 50."""
    srm: Literal["rgbn3", "srm30"] = "rgbn3"
    """The three kernels of RGB-N (the likeliest reading of the paper) or the thirty of the Spatial Rich Model."""
    srm_truncation: float | None = Field(default=None, gt=0)
    """Clip residuals to [-T, T], on the 0-255 scale. The paper does not mention it; forensic ports use 3."""
    embedding: int = Field(default=512, ge=2)

    lr_decay: float = Field(default=0.8, gt=0, lt=1)
    """Factor on the rate after every epoch. The paper only says that it is reduced; 0.8 ends ten epochs at 13 %."""
    centre_weight: float = Field(default=0.005, ge=0)
    """Weight of the centre loss beside the cross-entropy; the middle of Wen et al.'s 0.003-0.008. It multiplies the
    batch **mean**, as their own implementation does, where eq. 1 writes a sum: at batch 128 that is 128 times less."""
    centre_rate: float = Field(default=0.5, ge=0, le=1)
    """Share of the way to its images that a centre moves in a step (Wen et al.: 0.5)."""


Kernels = npt.NDArray[np.float64]
"""``float64[K, 5, 5]``; a kernel smaller than 5x5 lies in the middle."""

SQUARE5: Final = (
    np.array(
        [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]], np.float64
    )
    / 12
)
"""The KV kernel."""
SQUARE3: Final = np.pad(np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], np.float64), 1) / 4
"""The KB kernel."""
_UPPER_HALF5: Final = SQUARE5 * np.array([1, 1, 1, 0, 0])[:, None]
_UPPER_HALF3: Final = SQUARE3 * np.array([1, 1, 1, 0, 0])[:, None]
_DIRECTIONS: Final = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def srm_kernels(which: Literal["rgbn3", "srm30"]) -> Kernels:
    """The filters of the Spatial Rich Model (Fridrich and Kodovsky, 2012), each divided by its central weight.

    Returns:
        ``rgbn3``: SQUARE3x3, SQUARE5x5 and the horizontal second difference, as RGB-N (Zhou et al., 2018) chose them.
        ``srm30``: 8 first, 4 second, 8 third differences, 4 EDGE3x3, 4 EDGE5x5, SQUARE3x3, SQUARE5x5.
    """
    if which == "rgbn3":
        return np.stack([SQUARE3, SQUARE5, _difference((0, 1), {-1: 1, 0: -2, 1: 1}) / 2])
    first = [_difference(direction, {0: -1, 1: 1}) for direction in _DIRECTIONS]
    second = [_difference(direction, {-1: 1, 0: -2, 1: 1}) / 2 for direction in _DIRECTIONS[:4]]
    third = [_difference(direction, {-1: 1, 0: -3, 1: 3, 2: -1}) / 3 for direction in _DIRECTIONS]
    edge3 = [np.rot90(_UPPER_HALF3, turns) for turns in range(4)]
    edge5 = [np.rot90(_UPPER_HALF5, turns) for turns in range(4)]
    return np.stack([*first, *second, *third, *edge3, *edge5, SQUARE3, SQUARE5])


def _difference(direction: tuple[int, int], weights: dict[int, float]) -> Kernels:
    """A 5x5 kernel with ``weights`` at that many steps from the centre along ``direction`` (down, right)."""
    kernel = np.zeros((5, 5))
    for steps, weight in weights.items():
        kernel[2 + steps * direction[0], 2 + steps * direction[1]] = weight
    return kernel


class SrmFilters(nn.Module):
    """``uint8[N, H, W, 3]`` -> residual maps ``float32[N, K, H, W]``, K = 3 or 30, on the 0-255 scale.

    Each kernel is applied to R, G and B and the three are summed to one map: so do the ports that the paper's authors
    may have used, for three kernels; the rule holds for thirty as well, as 90 maps cost more than they bring. The
    border is reflected, where zero padding would put an edge around every image.
    """

    kernels: Tensor

    def __init__(self, which: Literal["rgbn3", "srm30"], truncation: float | None) -> None:
        super().__init__()
        kernels = torch.from_numpy(srm_kernels(which)).float()
        self.register_buffer("kernels", kernels[:, None])
        self.truncation = truncation

    def forward(self, images: Tensor) -> Tensor:
        """Filter, and truncate where ``truncation`` is set."""
        # Summing the channels first is the same by linearity and costs a third.
        summed = images.to(torch.float32).sum(dim=3).unsqueeze(1)
        residuals = nn.functional.conv2d(nn.functional.pad(summed, (2, 2, 2, 2), mode="reflect"), self.kernels)
        if self.truncation is not None:
            residuals = residuals.clamp(-self.truncation, self.truncation)
        return residuals


class SrmMetricNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, feature ``float32[N, D]``), as it is trained.

    The feature is not L2-normalised: the paper compares plain L2 distances. It is the output of a linear layer, so that
    both backbones give D dimensions, and not rectified, so that centres may lie anywhere. The ResNet starts from random
    weights: ImageNet's are of no use on residuals.
    """

    def __init__(self, config: S1Config, outputs: int) -> None:
        super().__init__()
        self.srm = SrmFilters(config.srm, config.srm_truncation)
        self.resnet = torchvision.models.get_model(config.backbone, weights=None, num_classes=config.embedding)
        maps, stem = self.srm.kernels.shape[0], self.resnet.conv1
        self.resnet.conv1 = nn.Conv2d(maps, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False)
        nn.init.kaiming_normal_(self.resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.head = nn.Linear(config.embedding, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and features."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round the residuals away
            residuals = self.srm(images)
        embedding: Tensor = self.resnet(residuals.contiguous(memory_format=torch.channels_last))
        embedding = embedding.float()
        return self.head(embedding), embedding


class S1Objective(Objective):
    """Cross-entropy and, weighted, the centre loss (eq. 1); centres move after each step."""

    def __init__(self, config: S1Config, labels: Sequence[Label]) -> None:
        super().__init__(config, labels)
        self.weight = config.centre_weight
        self.centre = CentreLoss(len(labels), config.embedding, config.centre_rate)

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Compute the losses of a batch; see the base class."""
        base = super().forward(net, images, labels)
        centre = self.centre(base.embedding, labels)
        return base._replace(total=base.total + self.weight * centre, parts={**base.parts, "centre": centre})

    def after_step(self, losses: Losses, labels: Tensor) -> None:
        """Move the centres towards their images."""
        self.centre.update(losses.embedding, labels)


def _objective(config: S1Config, labels: Sequence[Label]) -> Objective:
    """Losses of the variant: the binary one has the cross-entropy alone (section IV-A), as centres are of classes."""
    return Objective(config, labels) if config.binary else S1Objective(config, labels)


def _exponential(config: S1Config, optimiser: torch.optim.Optimizer, _steps: int) -> Schedule:
    return Exponential(optimiser, config.lr_decay)


SYSTEM: Final = System(
    source="Xuan, Peng, Wang, Dong, WIFS 2019",
    config=S1Config,
    summary=lambda config: f"{config.srm} SRM filters, {config.backbone}{', centre loss' * (not config.binary)}",
    network=SrmMetricNet,
    objective=_objective,
    schedule=_exponential,
)
