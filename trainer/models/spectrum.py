"""A classifier of spectra: up-sampling copies an image's spectrum, which shows where pixels show nothing.

Zhang, Karaman, Chang: "Detecting and Simulating Artifacts in GAN Fake Images", WIFS 2019. Trained on images of one
generator (their Cyc-Spec) or on those of a simulator that needs none (Auto-Spec; ``trainer simulate``).
"""

from pathlib import Path
from typing import Final, Literal, Self

import torch
import torchvision
from pydantic import Field, model_validator
from torch import Tensor, nn

from bundle.manifest import Crop, Preprocessing, View
from trainer.choices import Fit
from trainer.data.augment import blur_jpeg_crop
from trainer.models.fourier import Fourier
from trainer.models.pretrained import load_pretrained
from trainer.training.config import TrainConfig
from trainer.training.systems import AugmentImage, System

_FLOOR: Final = 1e-3
"""Added to magnitudes of images in 0..1, as in the authors' code."""


class SpectrumConfig(TrainConfig):
    """Published settings; what the paper leaves open (optimiser, rate, batch, epochs) is that of the authors' code."""

    system: Literal["spectrum"] = "spectrum"

    size: int = Field(default=224, ge=32, le=1024)
    fit: Fit = "crop"
    load: int | None = Field(default=None, ge=32, le=2048)
    """Training images are random crops of the central square of this side (authors: 256); None takes the centre."""
    input: Literal["spectrum", "pixels"] = "spectrum"
    """``pixels`` is the paper's other classifier (Img), the same network on pixels in -1..1."""
    backbone: Literal["resnet34", "resnet18"] = "resnet34"
    """The paper's has 34 layers; 18 are for trying."""
    pretrained: Path | None = None
    """A torchvision state dict of the backbone (ImageNet's, as in the paper); None starts from random weights."""

    epochs: int = Field(default=20, ge=0)
    batch: int = Field(default=16, ge=2)
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum and dampening: with both at 0.9, as in the authors' code, a gradient moves weights by a tenth of
    ``lr`` at once and by ``lr`` in all."""
    weight_decay: float = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.load is not None and (self.load < self.size or self.fit == "resize"):
            raise ValueError(f"load must not be below size ({self.size}), and goes with fit = crop, got {self.load}")
        return self

    @property
    def training_preprocessing(self) -> Preprocessing:
        """The central square of ``load`` pixels."""
        if self.load is None:
            return self.preprocessing
        return Preprocessing(views=(View(crop=Crop(mode="centre", size=self.load)),))


class LogSpectrum(nn.Module):
    """``uint8[N, H, W, 3]`` -> ``float32[N, 3, H, W]`` in -1..1, zero frequency at the corner.

    Each channel's ``log(|FFT2| + 0.001)`` of pixels in 0..1, with its own 5th percentile at -1 and its 95th at 1, and
    clipped there; percentiles between two values are interpolated linearly, as NumPy's are.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.fourier = Fourier(size)
        self.pixels = size**2

    def forward(self, images: Tensor) -> Tensor:
        """Compute the spectra."""
        with torch.autocast(images.device.type, enabled=False):
            real, imaginary = self.fourier(images.permute(0, 3, 1, 2).float() / 255)
            logs = ((real.square() + imaginary.square()).sqrt() + _FLOOR).log()
            ordered = logs.flatten(2).sort(dim=2).values
            low, high = self._percentile(ordered, 5), self._percentile(ordered, 95)
            spectra: Tensor = ((logs - low) / (high - low).clamp(min=1e-6) * 2 - 1).clamp(-1, 1)
            return spectra

    def _percentile(self, ordered: Tensor, percent: int) -> Tensor:
        below, part = divmod((self.pixels - 1) * percent, 100)
        first, second = ordered[..., below], ordered[..., min(below + 1, self.pixels - 1)]
        return (first + (second - first) * (part / 100))[..., None, None]


class SpectrumNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, pooled feature ``float32[N, 512]``)."""

    def __init__(self, config: SpectrumConfig, outputs: int) -> None:
        super().__init__()
        self.spectrum = LogSpectrum(config.size) if config.input == "spectrum" else None
        self.resnet = torchvision.models.get_model(config.backbone, weights=None)
        self.head = nn.Linear(self.resnet.fc.in_features, outputs)
        self.resnet.fc = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and features."""
        planes = images.permute(0, 3, 1, 2).float() / 127.5 - 1 if self.spectrum is None else self.spectrum(images)
        embedding: Tensor = self.resnet(planes.contiguous(memory_format=torch.channels_last)).float()
        return self.head(embedding), embedding


def _start(config: SpectrumConfig, net: nn.Module) -> None:
    if config.pretrained is not None:
        assert isinstance(net, SpectrumNet)
        wanted = f"a torchvision state dict of {config.backbone}"
        load_pretrained(net.resnet, config.pretrained, wanted, without=("fc.",))


def _sgd(config: SpectrumConfig, module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        module.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        dampening=config.momentum,
        weight_decay=config.weight_decay,
    )


def _augment(config: SpectrumConfig) -> AugmentImage | None:
    return None if config.load is None else blur_jpeg_crop(config.size, blur=0, jpeg=0)


SYSTEM: Final = System(
    source="Zhang, Karaman, Chang, WIFS 2019",
    config=SpectrumConfig,
    summary=lambda config: f"{config.backbone} on {'log spectra' if config.input == 'spectrum' else 'pixels'}",
    network=SpectrumNet,
    start=_start,
    optimiser=_sgd,
    augment_image=_augment,
)
