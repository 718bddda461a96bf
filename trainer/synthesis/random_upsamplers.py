"""Generators drawn at random and trained for seconds on photographs, as examples of unknown generators.

Each is an autoencoder whose decoder differs from the others' in how it up-samples, in kernels, padding, normalisation,
activation and width. Their images span more of the traces of decoders than those of a handful of known generators do:
an unknown generator may lie in the directions in which they differ.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainer.arrays import Images

Up = Literal["transposed", "shuffle", "nearest", "bilinear", "bicubic"]

_UPS: Final[tuple[Up, ...]] = ("transposed", "transposed", "shuffle", "nearest", "nearest", "bilinear", "bicubic")
"""Up-samplings, drawn evenly: transposed convolutions have kernels to choose from, nearest neighbours are common."""
_ACTIVATIONS: Final[tuple[Callable[[], nn.Module], ...]] = (nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.SiLU, nn.ELU)
_CROP, _BATCH, _RATE = 32, 24, 6e-3
_FAR: Final = 14.0
"""Mean absolute error in grey levels beyond which a generator has failed to learn, and another is drawn."""
_ATTEMPTS: Final = 6
"""Most draws for one generator; the last is kept: photographs that none learns in so few steps are hard for all."""
_MADE: dict[tuple[str, int, int, int], list[Images]] = {}
"""Latest results of ``simulate_once``."""
_KEPT: Final = 4
"""Most results of ``simulate_once`` that are kept."""
MULTIPLE: Final = 8
"""Both sides of an image must be multiples of it, for three steps of up-sampling."""


@dataclass(frozen=True, slots=True)
class Design:
    """Architecture of one generator."""

    up: Up
    steps: int
    """Steps of up-sampling by 2, from 1 to 3."""
    kernel: int
    padding: Literal["zeros", "reflect"]
    activation: int
    norm: Literal["none", "batch", "group"]
    width: int
    code: int
    """Channels of the code for each 2 x 2 pixels of the image."""
    after: int
    """Convolutions at full size after the last step."""
    tanh: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Design":
        """Draw one of some thousands of architectures."""
        up = _UPS[rng.integers(len(_UPS))]
        return cls(
            up=up,
            steps=int(rng.choice([1, 2, 2, 3])),
            kernel=int(rng.integers(2, 7)) if up == "transposed" else int(rng.choice([3, 3, 5])),
            padding="zeros" if rng.random() < 2 / 3 else "reflect",
            activation=int(rng.integers(len(_ACTIVATIONS))),
            norm=("none", "none", "batch", "group")[rng.integers(4)],
            width=int(rng.choice([16, 24, 32])),
            code=int(rng.choice([2, 3, 4])),
            after=int(rng.integers(3)),
            tanh=bool(rng.random() < 0.5),
        )

    def build(self) -> nn.Sequential:
        """Make the network: ``float32[N, 3, H, W]`` in [-1, 1] -> the same, H and W multiples of ``MULTIPLE``."""
        factor = 2**self.steps
        channels = max(8, self.code * factor**2 // 4)
        layers: list[nn.Module] = [nn.PixelUnshuffle(factor), nn.Conv2d(3 * factor**2, channels, 1)]
        for step in range(self.steps):
            last = step == self.steps - 1 and self.after == 0
            width = 3 if last else self.width
            layers += [*self._upsampling(channels, width), *([] if last else self._between())]
            channels = width
        for step in range(self.after):
            last = step == self.after - 1
            layers += [self._convolution(channels, 3 if last else self.width), *([] if last else self._between())]
            channels = self.width
        return nn.Sequential(*layers, *([nn.Tanh()] if self.tanh else []))

    def _upsampling(self, channels: int, width: int) -> list[nn.Module]:
        if self.up == "transposed":
            padding = (self.kernel - 1) // 2
            out = 2 * padding - self.kernel + 2
            return [nn.ConvTranspose2d(channels, width, self.kernel, 2, padding, output_padding=out)]
        if self.up == "shuffle":
            return [self._convolution(channels, 4 * width), nn.PixelShuffle(2)]
        enlarge = nn.Upsample(scale_factor=2, mode=self.up, align_corners=None if self.up == "nearest" else False)
        return [enlarge, self._convolution(channels, width)]

    def _convolution(self, channels: int, width: int) -> nn.Module:
        odd = self.kernel | 1
        return nn.Conv2d(channels, width, odd, 1, odd // 2, padding_mode=self.padding)

    def _between(self) -> list[nn.Module]:
        activation = _ACTIVATIONS[self.activation]()
        match self.norm:
            case "none":
                return [activation]
            case "batch":
                return [nn.BatchNorm2d(self.width), activation]
            case "group":
                return [nn.GroupNorm(4, self.width), activation]


def simulate(
    photographs: Images, count: int, steps: int, seed: int, progress: Callable[[int, int], None] = lambda *_: None
) -> list[Images]:
    """Reproduce photographs by ``count`` random generators.

    Args:
        photographs: ``uint8[N, H, W, 3]``, on which the generators are trained and which they reproduce.
        count: number of generators.
        steps: training steps of each, on crops of 32 pixels.
        seed: seed of designs, weights and batches; generator k depends on it and k alone.
        progress: called with the number of generators made and their total.

    Returns:
        ``count`` times ``uint8[N, H, W, 3]``, in the order of the photographs.
    """
    real = torch.from_numpy(photographs).permute(0, 3, 1, 2).float() / 127.5 - 1
    made: list[Images] = []
    with torch.random.fork_rng(devices=[]):
        for number in range(count):
            for attempt in range(_ATTEMPTS):
                images, error = _attempt(real, steps, (seed, number, attempt))
                if error <= _FAR:
                    break
            made.append(images)
            progress(number + 1, count)
    return made


def simulate_once(
    photographs: Images, count: int, steps: int, seed: int, progress: Callable[[int, int], None] = lambda *_: None
) -> list[Images]:
    """Like ``simulate``, but once a process for the same photographs: protocols train dozens of networks on them."""
    key = hashlib.sha256(photographs.tobytes()).hexdigest(), count, steps, seed
    if key not in _MADE:
        if len(_MADE) == _KEPT:
            _MADE.clear()
        _MADE[key] = simulate(photographs, count, steps, seed, progress)
    return _MADE[key]


def _attempt(real: Tensor, steps: int, seed: tuple[int, int, int]) -> tuple[Images, float]:
    """Images of one generator, and their mean absolute error in grey levels."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(2**31)))
    model = Design.draw(rng).build().to(memory_format=torch.channels_last)
    _train(model, real, steps, rng)
    model.eval()
    with torch.inference_mode():
        made = torch.cat([model(part) for part in torch.split(real, 128)]).clamp(-1, 1)
    images = ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return np.asarray(images), float((made - real).abs().mean()) * 127.5


def _train(model: nn.Module, real: Tensor, steps: int, rng: np.random.Generator) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps, pct_start=0.15)
    starts = [range(0, max(1, side - _CROP + 1), MULTIPLE) for side in real.shape[2:]]
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(0, len(real), _BATCH))
        y, x = (int(rng.choice(start)) for start in starts)
        part = real[chosen, :, y : y + _CROP, x : x + _CROP].contiguous(memory_format=torch.channels_last)
        loss = (model(part) - part).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
