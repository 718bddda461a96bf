"""S2: DCGAN's discriminator as a detector, trained on blurred or noisy batches.

Xuan, Peng, Wang, Dong: "On the Generalization of GAN Image Forensics", 2019. In training only, each batch is blurred
(M_GB) or given noise (M_GN) to an extent drawn for that batch, so that the network cannot rely on low-level traces
that the next generator will not leave; at test images come as they are.
"""

from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.data.augment import random_batch_blur, random_batch_noise
from trainer.training.config import TrainConfig
from trainer.training.systems import AugmentBatch, System


class S2Config(TrainConfig):
    """128 px, binary cross-entropy and Adam are the paper's; where it is silent, widths, batch and rate are DCGAN's.

    The number of epochs is Genprint's choice. The logit means *generated*, though *positive* in the paper's tables is a
    real image.
    """

    system: Literal["s2"] = "s2"

    train_preprocessing: Literal["none", "blur", "noise"] = "none"
    """Preprocessing of each training batch: ``none`` is the paper's M, ``blur`` M_GB and ``noise`` M_GN."""
    width: int = Field(default=64, ge=1)
    """Maps of the first convolution; each of the other three has twice as many as the one before."""
    binary: bool = True
    lr: float = Field(default=2e-4, gt=0)
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Beta1 of Adam; beta2 is 0.999."""


class DcganDiscriminator(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, embedding ``float32[N, 8 width]``).

    Four convolutions, 4x4, stride 2, padding 1, LeakyReLU(0.2), batch norm in all but the first; pixels in -1..1;
    weights from N(0, 0.02). The paper does not say how four maps of 8x8 become one number. DCGAN ends in a convolution
    as large as the map, which is a linear layer over all of it: so does this network, at any size. The embedding, of
    which the paper has none, is the mean over the last map.
    """

    def __init__(self, config: S2Config, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for number in range(4):
            maps = config.width << number
            layers.append(nn.Conv2d(inputs, maps, 4, 2, 1, bias=number == 0))
            if number > 0:
                layers.append(nn.BatchNorm2d(maps))
            layers.append(nn.LeakyReLU(0.2))
            inputs = maps
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs * (config.size // 16) ** 2, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and embeddings."""
        planes = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        maps = self.features(planes)
        return self.head(maps.flatten(1)), maps.mean((2, 3)).float()


def _augment(config: S2Config) -> AugmentBatch | None:
    match config.train_preprocessing:
        case "none":
            return None
        case "blur":
            return random_batch_blur()
        case "noise":
            return random_batch_noise()


def _adam(config: S2Config, module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=config.lr, betas=(config.beta1, 0.999))


SYSTEM: Final = System(
    source="Xuan, Peng, Wang, Dong, 2019 (generalisation)",
    config=S2Config,
    summary=lambda config: f"DCGAN's discriminator ({config.train_preprocessing} on training batches)",
    network=DcganDiscriminator,
    optimiser=_adam,
    augment_batch=_augment,
)
