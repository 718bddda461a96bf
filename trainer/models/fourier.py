"""The discrete Fourier transform as matrix products: exact at one size, and in every ONNX runtime."""

import math

import torch
from torch import Tensor, nn


class Fourier(nn.Module):
    """Transform of square planes ``float32[..., size, size]``; zero frequency first."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        steps = torch.arange(size)
        # Whole turns are taken off in integers: the angle of a large product would lose its last digits.
        angles = (steps[:, None] * steps % size).double() * (2 * math.pi / size)
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of ``sum x exp(-2 pi i (u y + v x) / size)``, not normalised."""
        across_real, across_imaginary = planes @ self.cosines, planes @ self.sines  # minus sign below
        real = self.cosines @ across_real - self.sines @ across_imaginary
        imaginary = -(self.cosines @ across_imaginary + self.sines @ across_real)
        return real, imaginary

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """The real part of the inverse transform, divided by size^2."""
        across_real = real @ self.cosines - imaginary @ self.sines
        across_imaginary = real @ self.sines + imaginary @ self.cosines
        return (self.cosines @ across_real - self.sines @ across_imaginary) / self.cosines.numel()
