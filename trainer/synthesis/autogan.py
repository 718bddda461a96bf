"""AutoGAN: a generator's artefacts without the generator, from real images alone.

Zhang, Karaman, Chang: "Detecting and Simulating Artifacts in GAN Fake Images", WIFS 2019. CycleGAN's generator is
trained to reproduce real images, with a critic that tells its outputs from them; its outputs carry the traces of its
up-sampling, and a detector trains on them as fakes.

Losses, weights and the rest of the training are those of the authors' code (CycleGAN's defaults): least-squares GAN
loss, plus 0.5 times the mean absolute error, Adam at 2e-4 with beta1 0.5, instance norm, batch 1, a pool of 50 earlier
fakes for the critic. Their training takes 200 epochs, the second half with a falling rate; here steps are counted
instead, and the rate falls in the second half of them.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainer.arrays import Images
from trainer.synthesis.autoencoders import to_planes

GanUpsampling = Literal["transposed", "nearest"]
"""Up-samplings that the paper compares: a transposed convolution, or nearest neighbours and a convolution."""
GAN_UPSAMPLINGS: Final[tuple[GanUpsampling, ...]] = ("transposed", "nearest")


class GanConfig(BaseModel):
    """Settings of one simulator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["autogan"] = "autogan"
    width: int = Field(default=64, ge=1)
    """Maps at full resolution, of generator and critic."""
    blocks: int = Field(default=9, ge=1)
    """Residual blocks at a quarter of the resolution."""
    critic_layers: int = Field(default=3, ge=1)
    """Convolutions of stride 2; three score patches of 70x70, and need images no smaller than 32 px."""
    steps: int = Field(default=20_000, ge=2)
    batch: int = Field(default=1, ge=1)
    lr: float = Field(default=2e-4, gt=0)
    error_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean absolute error, in -1..1, beside the critic's loss."""
    pool: int = Field(default=50, ge=0)
    """Earlier fakes that the critic is shown, every other time, in place of fresh ones."""


class Simulator(nn.Module):
    """``float32[N, 3, H, W]`` in 0..1 -> the same; height and width are multiples of 4.

    CycleGAN's generator: 7x7 convolution, two of stride 2, residual blocks, two up-samplings, 7x7 convolution and tanh;
    instance norm and ReLU between; borders are reflected.
    """

    def __init__(self, upsampling: GanUpsampling, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), *_normalised(width)]
        for maps in (width, 2 * width):
            layers += [nn.Conv2d(maps, 2 * maps, 3, 2, 1), *_normalised(2 * maps)]
        layers += [_Block(4 * width) for _ in range(blocks)]
        for maps in (4 * width, 2 * width):
            layers += [*_double(upsampling, maps, maps // 2), *_normalised(maps // 2)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_from_small_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Reproduce the images."""
        made: Tensor = self.layers(2 * images - 1)
        return (made + 1) / 2


class _Block(nn.Module):
    def __init__(self, maps: int) -> None:
        super().__init__()
        first = [nn.ReflectionPad2d(1), nn.Conv2d(maps, maps, 3), *_normalised(maps)]
        second = [nn.ReflectionPad2d(1), nn.Conv2d(maps, maps, 3), nn.InstanceNorm2d(maps)]
        self.layers = nn.Sequential(*first, *second)

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = maps + self.layers(maps)
        return changed


class _Critic(nn.Module):
    """``float32[N, 3, H, W]`` in 0..1 -> a score for each patch, 1 for real: CycleGAN's PatchGAN."""

    def __init__(self, width: int, strided: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        maps = width
        for number in range(1, strided + 1):
            more = width * min(2**number, 8)
            stride = 2 if number < strided else 1
            layers += [nn.Conv2d(maps, more, 4, stride, 1), nn.InstanceNorm2d(more), nn.LeakyReLU(0.2)]
            maps = more
        self.layers = nn.Sequential(*layers, nn.Conv2d(maps, 1, 4, 1, 1))
        self.apply(_from_small_weights)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(2 * images - 1)
        return scores


def train_simulator(
    upsampling: GanUpsampling,
    images: Images,
    config: GanConfig,
    *,
    seed: int,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> Simulator:
    """Train a generator to reproduce real images so that a critic takes them for real.

    Args:
        upsampling: how it doubles the resolution.
        images: ``uint8[N, H, W, 3]``, real; sides are multiples of 4.
        config: network and training.
        seed: seed of weights, draws and the pool.
        progress: called with the step and its mean absolute error in grey levels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        simulator = Simulator(upsampling, config.width, config.blocks).to(memory_format=torch.channels_last)
        critic = _Critic(config.width, config.critic_layers).to(memory_format=torch.channels_last)
        optimisers = [
            torch.optim.Adam(net.parameters(), lr=config.lr, betas=(0.5, 0.999)) for net in (simulator, critic)
        ]
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, 2 - 2 * step / config.steps)) for o in optimisers
        ]
        pool = _Pool(config.pool)
        for step in range(config.steps):
            real = to_planes(images[torch.randint(len(images), (config.batch,)).numpy()])
            made = simulator(real)
            critic.requires_grad_(requires_grad=False)
            error = 2 * (made - real).abs().mean()  # in -1..1
            _descend(optimisers[0], (critic(made) - 1).square().mean() + config.error_weight * error)
            critic.requires_grad_(requires_grad=True)
            shown = pool.exchange(made.detach())
            _descend(optimisers[1], ((critic(real) - 1).square().mean() + critic(shown).square().mean()) / 2)
            for schedule in schedules:
                schedule.step()
            progress(step + 1, 127.5 * float(error.detach()))
    return simulator.eval()


class _Pool:
    """Pool of earlier fakes: each new one is swapped for one of them with probability 1/2, once it is full."""

    def __init__(self, size: int) -> None:
        self._size, self._kept = size, list[Tensor]()

    def exchange(self, images: Tensor) -> Tensor:
        """Take new images into the pool and return as many, new or earlier."""
        shown = []
        for image in images:
            if len(self._kept) < self._size:
                self._kept.append(image)
                shown.append(image)
            elif self._kept and torch.rand(()) < 0.5:
                index = int(torch.randint(len(self._kept), ()))
                shown.append(self._kept[index])
                self._kept[index] = image
            else:
                shown.append(image)
        return torch.stack(shown)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()


def _double(upsampling: GanUpsampling, inputs: int, outputs: int) -> list[nn.Module]:
    match upsampling:
        case "transposed":
            return [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)]
        case "nearest":
            return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, 1, 1)]


def _normalised(maps: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(maps), nn.ReLU()]


def _from_small_weights(module: nn.Module) -> None:
    """Initialise weights from N(0, 0.02), as CycleGAN's code does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, 0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
