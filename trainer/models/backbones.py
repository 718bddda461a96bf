"""General networks as detectors, with which S1's Table II compares, after Tariq et al.

Tariq, Lee, Kim, Shin, Woo: "Detecting Both Machine and Human Created Fake Face Images In the Wild", MPS 2018. Neither
paper says how the heads of networks made for 224 to 331 px were fitted to 64 to 1024 px, nor whether weights came from
ImageNet: here the last map is pooled as a whole, and weights are random unless others are given.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, Self

import timm
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models.vgg import cfgs as vgg_maps
from torchvision.models.vgg import make_layers

from trainer.models.pretrained import load_pretrained
from trainer.training.config import TrainConfig
from trainer.training.systems import System

Architecture = Literal["vgg19", "xception", "nasnet", "shallownet"]


class BackboneConfig(TrainConfig):
    """Settings of one of four networks; rate and epochs are Genprint's choice, as the papers do not give them.

    Millions of parameters at 64 px: VGG-19 20, Xception 21, NASNet-A-Large 85, ShallowNetV3 5. On two CPU cores NASNet
    at full width and VGG-19 take too long for a smoke run: give them a ``width`` below 1.
    """

    system: Literal["backbone"] = "backbone"

    architecture: Architecture
    width: float = Field(default=1.0, gt=0, le=4)
    """Maps of every layer, relative to the published network; Xception has its own only."""
    pretrained: Path | None = None
    """ImageNet's weights: torchvision's state dict of VGG-19, timm's of Xception and NASNet; with ``width`` 1."""

    batch: int = Field(default=64, ge=2)
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of Adam, added to the gradient; ShallowNetV3's public code has 2e-4 (Keras' ``l2(1e-4)``)."""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.architecture == "xception" and self.width != 1:
            raise ValueError(f"width must be 1 for xception, got {self.width:g}")
        if self.architecture == "shallownet" and self.pretrained is not None:
            raise ValueError("there are no pretrained weights of shallownet")
        return self


class BackboneNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, the feature before the last layer ``float32[N, D]``).

    Pixels are scaled to -1..1, which is what timm's weights of Xception and NASNet expect, or for VGG-19 by ImageNet's
    means and deviations.
    """

    def __init__(self, config: BackboneConfig, outputs: int) -> None:
        super().__init__()
        self.features, dimension = _FEATURES[config.architecture](config)
        self.head = nn.Linear(dimension, outputs)
        vgg = config.architecture == "vgg19"
        mean, deviation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if vgg else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and features."""
        planes = (images.float() - self.get_buffer("mean")) / self.get_buffer("deviation")
        embedding: Tensor = self.features(planes.permute(0, 3, 1, 2)).float()
        return self.head(embedding), embedding


class _Vgg19(nn.Module):
    """The 16 convolutions; three dense layers of 120 M weights, which fit 224 px only, give way to a mean."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        maps = [m if isinstance(m, str) else _scaled(m, config.width) for m in vgg_maps["E"]]
        self.features = make_layers(maps)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, planes: Tensor) -> Tensor:
        maps: Tensor = self.features(planes)
        return maps.mean((2, 3))


def _vgg19(config: BackboneConfig) -> tuple[nn.Module, int]:
    return _Vgg19(config), _scaled(512, config.width)


def _xception(_config: BackboneConfig) -> tuple[nn.Module, int]:
    net = timm.create_model("legacy_xception", pretrained=False, num_classes=0)
    return net, 2048


def _nasnet(config: BackboneConfig) -> tuple[nn.Module, int]:
    cells = max(1, round(42 * config.width)) * 4  # 168 maps; the stem has a quarter of them
    net = timm.create_model(
        "nasnetalarge", pretrained=False, num_classes=0, stem_size=_scaled(96, config.width), num_features=24 * cells
    )
    return net, 24 * cells


def _shallownet(config: BackboneConfig) -> tuple[nn.Module, int]:
    """ShallowNetV3 as in public code of its authors' group: dropout 0.25 and no padding; it depends on the size.

    At 1024 px its first dense layer has 2.1 thousand million weights: more than an ONNX file of 2 GiB can hold.
    """
    few, some, many = (_scaled(maps, config.width) for maps in (32, 64, 128))
    dense = _scaled(1024, config.width)
    side = ((config.size - 4) // 2 - 2) // 2 - 2
    layers: list[nn.Module] = []
    for block in (((3, few, 5), (few, few, 1), (few, few, 1)), ((few, some, 3), (some, some, 1), (some, some, 1))):
        for inputs, maps, kernel in block:
            layers += [nn.Conv2d(inputs, maps, kernel), nn.ReLU(), nn.Dropout(0.25)]
        layers.insert(-1, nn.MaxPool2d(2))
    for inputs, maps, kernel in ((some, many, 3), (many, few, 1)):
        layers += [nn.Conv2d(inputs, maps, kernel), nn.ReLU(), nn.Dropout(0.25)]
    layers += [nn.Flatten(), nn.Linear(few * side**2, dense), nn.ReLU(), nn.BatchNorm1d(dense), nn.Dropout(0.25)]
    return nn.Sequential(*layers), dense


def _scaled(maps: int, width: float) -> int:
    return max(1, round(maps * width))


_FEATURES: Final[Mapping[Architecture, Callable[[BackboneConfig], tuple[nn.Module, int]]]] = {
    "vgg19": _vgg19,
    "xception": _xception,
    "nasnet": _nasnet,
    "shallownet": _shallownet,
}


def _start(config: BackboneConfig, net: nn.Module) -> None:
    if config.pretrained is not None:
        assert isinstance(net, BackboneNet)
        last_layers = ("classifier.", "fc.", "last_linear.")
        load_pretrained(net.features, config.pretrained, f"a state dict of {config.architecture}", last_layers)


def _adam(config: BackboneConfig, module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=config.lr, weight_decay=config.weight_decay)


SYSTEM: Final = System(
    source="Tariq et al., MPS 2018",
    config=BackboneConfig,
    summary=lambda config: config.architecture + (f", {config.width:g} of its width" if config.width != 1 else ""),
    network=BackboneNet,
    start=_start,
    optimiser=_adam,
)
