"""S3: ResNet-50 with one logit, trained on blurred and JPEG-coded images of one generator.

Wang, Wang, Zhang, Owens, Efros: "CNN-generated images are surprisingly easy to spot... for now", CVPR 2020.
"""

from pathlib import Path
from typing import Final, Literal, Self

import torch
import torchvision
from pydantic import Field, model_validator
from torch import Tensor, nn

from bundle.manifest import Crop, Preprocessing, Resize, View
from trainer.data.augment import blur_jpeg_crop
from trainer.models.pretrained import load_pretrained
from trainer.training.config import TrainConfig
from trainer.training.schedules import Plateau, Schedule
from trainer.training.systems import AugmentImage, System

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's channels in 0..1, which pretrained weights expect."""


class S3Config(TrainConfig):
    """Published settings: blur and JPEG each with probability 0.5; ``blur = jpeg = 0.1`` is the paper's other variant.

    Best weights are kept by validation accuracy without augmentation. In the authors' code validation images are
    augmented too, and each fall of the rate forgets how good the best weights were; neither quirk is reproduced.
    """

    system: Literal["s3"] = "s3"

    size: int = Field(default=224, ge=32, le=1024)
    """Side of the crop: random in training, central (and not resized before) at test."""
    fit: Literal["crop"] = "crop"
    load: int = Field(default=256, ge=32, le=2048)
    """Side of what is augmented and cropped from in training: the central square of this side."""
    resize: bool = True
    """Scale training images to ``load`` pixels at the shorter side first, bilinearly; False takes them as stored. Does
    nothing to the paper's training images, which have 256."""
    flip: bool = True
    blur: float = Field(default=0.5, ge=0, le=1)
    """Probability of a Gaussian blur of 0 to 3 pixels."""
    jpeg: float = Field(default=0.5, ge=0, le=1)
    """Probability of JPEG coding of quality 30 to 100."""

    binary: bool = True
    backbone: Literal["resnet50", "resnet18"] = "resnet50"
    """The paper's has 50 layers; 18 are for trying."""
    pretrained: Path | None = None
    """A torchvision state dict of the backbone (ImageNet's, as in the paper); None starts from random weights."""

    epochs: int = Field(default=10_000, ge=1)
    """Most epochs; the rate ends the run before."""
    batch: int = Field(default=64, ge=2)
    lr: float = Field(default=1e-4, gt=0)
    patience: int = Field(default=5, ge=1)
    """Epochs without a rise of validation accuracy by 0.1 % until the rate is divided by ten; the paper takes 50, 25,
    13 and 7 for fewer classes or less data."""
    lowest_lr: float = Field(default=1e-6, gt=0)
    """The run ends when the rate falls below."""
    keep: Literal["last", "best"] = "best"

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.load < self.size:
            raise ValueError(f"load must not be below size ({self.size}), got {self.load}")
        return self

    @property
    def training_preprocessing(self) -> Preprocessing:
        """The central square of ``load`` pixels."""
        resize = Resize(mode="shorter", size=self.load, kernel="bilinear") if self.resize else Resize(mode="none")
        return Preprocessing(views=(View(resize=resize, crop=Crop(mode="centre", size=self.load)),))

    @property
    def needs_val(self) -> bool:
        """Whether validation images are needed: the rate follows their accuracy."""
        return True


class BlurJpegResnet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, embedding ``float32[N, 2048]``, the pooled feature).

    The last layer starts from N(0, 0.02) and zero bias.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: S3Config, outputs: int) -> None:
        super().__init__()
        self.resnet = torchvision.models.get_model(config.backbone, weights=None)
        self.head = nn.Linear(self.resnet.fc.in_features, outputs)
        self.resnet.fc = nn.Identity()
        nn.init.normal_(self.head.weight, 0, 0.02)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", 255 * torch.tensor(_MEAN), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and pooled features."""
        planes = ((images.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)  # already channels last in memory
        embedding: Tensor = self.resnet(planes).float()
        return self.head(embedding), embedding


def _start(config: S3Config, net: nn.Module) -> None:
    if config.pretrained is not None:
        assert isinstance(net, BlurJpegResnet)
        wanted = f"a torchvision state dict of {config.backbone}"
        load_pretrained(net.resnet, config.pretrained, wanted, without=("fc.",))


def _augment(config: S3Config) -> AugmentImage:
    return blur_jpeg_crop(config.size, blur=config.blur, jpeg=config.jpeg)


def _plateau(config: S3Config, optimiser: torch.optim.Optimizer, _steps: int) -> Schedule:
    return Plateau(optimiser, config.patience, delta=0.001, floor=config.lowest_lr)


SYSTEM: Final = System(
    source="Wang, Wang, Zhang, Owens, Efros, CVPR 2020",
    config=S3Config,
    summary=lambda config: f"{config.backbone}, blur {config.blur:g}, JPEG {config.jpeg:g}",
    network=BlurJpegResnet,
    start=_start,
    schedule=_plateau,
    augment_image=_augment,
)
