"""Deep image prior: the best that a convolutional generator makes of one image.

Ulyanov, Vedaldi, Lempitsky: "Deep Image Prior", CVPR 2018: a network with random weights and a fixed random input is
fitted to a single image. S3 (Wang et al., CVPR 2020, appendix A.4) trains a detector on such reconstructions as fakes:
mean absolute error, Adam at 1e-2, 1e-3 and 1e-4 for 2,000 steps each, with a snapshot after 1,000, 2,000 ... 6,000
steps. S3 fits ProGAN's generator; here it is Ulyanov's hourglass, whose up-sampling can be chosen.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainer.arrays import Pixels
from trainer.synthesis.autoencoders import to_planes

_INPUT_MAPS = 32
_SKIP_MAPS = 4


class PriorConfig(BaseModel):
    """Published settings: the width and levels are Ulyanov's, rates and steps S3's.

    On one CPU core a step on 64 px takes 0.13 s at width 128 and 0.02 s at width 32, where 6,000 steps on each of 64
    images take two and a half hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dip"] = "dip"
    width: int = Field(default=128, ge=1)
    levels: int = Field(default=5, ge=1)
    """Halvings of the resolution; sides of images must be multiples of ``2 ** levels``, and no less than twice that: a
    border of one pixel has nothing to be reflected."""
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    rates: tuple[float, ...] = Field(default=(1e-2, 1e-3, 1e-4), min_length=1)
    steps: int = Field(default=2000, ge=2, multiple_of=2)
    """Steps at each rate; a snapshot is taken in the middle and at the end of each."""

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Steps after which the reconstruction is taken."""
        return tuple(self.steps // 2 * number for number in range(1, 2 * len(self.rates) + 1))


class Hourglass(nn.Module):
    """``float32[N, 32, H, W]`` -> ``float32[N, 3, H, W]`` in 0..1, by way of ``levels`` halvings and doublings.

    At each level a branch of four maps skips what lies below. Convolutions reflect the border; batch norm, LeakyReLU.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.top = _Level(config, _INPUT_MAPS, config.levels)
        self.colours = nn.Conv2d(config.width, 3, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """Generate images."""
        images: Tensor = self.colours(self.top(noise)).sigmoid()
        return images


class _Level(nn.Module):
    def __init__(self, config: PriorConfig, inputs: int, below: int) -> None:
        super().__init__()
        width = config.width
        self.skip = _convolution(inputs, _SKIP_MAPS, 1)
        deeper: list[nn.Module] = [_convolution(inputs, width, 3, stride=2), _convolution(width, width, 3)]
        if below > 1:
            deeper.append(_Level(config, width, below - 1))
        # "bilinear" needs align_corners to be named, "nearest" refuses it.
        corners = False if config.upsampling == "bilinear" else None
        deeper.append(nn.Upsample(scale_factor=2, mode=config.upsampling, align_corners=corners))
        self.deeper = nn.Sequential(*deeper)
        joined = _SKIP_MAPS + width
        self.up = nn.Sequential(nn.BatchNorm2d(joined), _convolution(joined, width, 3), _convolution(width, width, 1))

    def forward(self, maps: Tensor) -> Tensor:
        joined: Tensor = self.up(torch.cat([self.skip(maps), self.deeper(maps)], dim=1))
        return joined


def reconstruct(
    image: Pixels, config: PriorConfig, *, seed: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[Pixels, ...]:
    """Fit a new network to an image.

    Args:
        image: ``uint8[H, W, 3]``.
        config: network and optimisation.
        seed: seed of weights and input.
        progress: called with the steps done.

    Returns:
        One reconstruction for each of ``config.snapshots``, ``uint8[H, W, 3]``.
    """
    made: list[Pixels] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Hourglass(config).to(memory_format=torch.channels_last)
        target = to_planes(image[None])
        noise = 0.1 * torch.rand(1, _INPUT_MAPS, *image.shape[:2])  # Ulyanov's: uniform, up to 0.1
        optimiser = torch.optim.Adam(net.parameters())
        for number in range(len(config.rates) * config.steps):
            for group in optimiser.param_groups:
                group["lr"] = config.rates[number // config.steps]
            output = net(noise)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward((output - target).abs().mean())
            optimiser.step()
            progress(number + 1)
            if number + 1 in config.snapshots:
                made.append(_as_pixels(net, noise))
    return tuple(made)


@torch.no_grad()
def _as_pixels(net: nn.Module, noise: Tensor) -> Pixels:
    """Pixels of the output in training mode, as it is fitted: batch norm has the statistics of this one image only."""
    pixels: Pixels = (255 * net(noise)[0]).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect" if kernel > 1 else "zeros"),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )
