"""Small autoencoders that leave the traces of a generator's up-sampling on real content.

Zhang et al. (AutoGAN, WIFS 2019): the up-sampling of a generator, not its subject, is what detectors find; so an
autoencoder with the same up-sampling, trained to reproduce photographs, makes training data without any generator.
"""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainer.arrays import Images

Upsampling = Literal["deconv", "nearest", "bilinear", "shuffle"]
UPSAMPLINGS: Final[tuple[Upsampling, ...]] = ("deconv", "nearest", "bilinear", "shuffle")

PEAK_LR: Final = 1e-2
PATCH: Final = 4
"""Side in pixels of a patch that becomes one vector; image sides must be multiples of it."""


class Autoencoder(nn.Module):
    """``float32[N, 3, H, W]`` in 0..1 -> the same, by way of a quarter of the height and width.

    The encoder (4x4 pixels to one vector) loses nothing and is the same for all four up-samplings, so that images
    differ only in how the decoder doubles the resolution, twice.
    """

    def __init__(self, upsampling: Upsampling, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(3 * PATCH**2, 2 * width, 1),
            nn.LeakyReLU(0.2),
            _double(upsampling, 2 * width, width),
            nn.LeakyReLU(0.2),
            _double(upsampling, width, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reproduce the images; values may leave 0..1."""
        decoded: Tensor = self.layers(images)
        return decoded


def _double(upsampling: Upsampling, inputs: int, outputs: int) -> nn.Module:
    match upsampling:
        case "deconv":
            # An odd kernel overlaps itself unevenly at stride 2: the chequerboard that transposed convolutions are
            # known for. With kernel 4 it would be a pixel shuffle by another name.
            return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
        case "shuffle":
            return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, 1, 1), nn.PixelShuffle(2))
        case "nearest":
            return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, 1, 1))
        case "bilinear":
            up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            return nn.Sequential(up, nn.Conv2d(inputs, outputs, 3, 1, 1))


def train_autoencoder(
    upsampling: Upsampling,
    images: Images,
    *,
    steps: int,
    seed: int,
    width: int = 32,
    batch: int = 32,
    crop: int = 32,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> Autoencoder:
    """Train an autoencoder to reproduce photographs: mean absolute error, Adam, one cycle of the learning rate.

    Args:
        upsampling: how the decoder doubles the resolution.
        images: ``uint8[N, H, W, 3]``, patches of the training photographs only.
        steps: number of steps of the optimiser.
        seed: seed of weights and draws.
        width: channels of the last hidden layer; twice as many before it.
        batch: images a step, drawn with replacement.
        crop: side of the part of an image that is drawn; the network is convolutional, so smaller parts serve as well.
        progress: called with the step and its error in grey levels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(upsampling, width).to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(model.parameters(), lr=PEAK_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=steps, pct_start=0.1)
        for step in range(steps):
            drawn = torch.randint(len(images), (batch,)).numpy()
            y, x = (int(torch.randint(side - crop + 1, ())) for side in images.shape[1:3])
            target = to_planes(images[drawn, y : y + crop, x : x + crop])
            loss = (model(target) - target).abs().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            progress(step + 1, 255 * float(loss.detach()))
    return model.eval()


@torch.inference_mode()
def reproduce(model: nn.Module, images: Images, batch: int = 64) -> Images:
    """Reproduce ``uint8[N, H, W, 3]`` by an autoencoder, rounded to whole grey levels."""
    made = [model(to_planes(images[start : start + batch])) for start in range(0, len(images), batch)]
    pixels = (torch.cat(made).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def to_planes(images: Images) -> Tensor:
    """``uint8[N, H, W, 3]`` -> ``float32[N, 3, H, W]`` in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
