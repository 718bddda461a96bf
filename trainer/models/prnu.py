"""PRNU: a generator's fingerprint in the noise of its images, estimated like a camera's.

Lukas, Fridrich, Goljan: "Digital camera identification from sensor pattern noise", IEEE TIFS 2006; the fingerprint's
estimate and clean-up from Chen, Fridrich, Goljan, Lukas, IEEE TIFS 2008; for generators Marra, Gragnaniello, Verdoliva,
Poggi: "Do GANs leave artificial fingerprints?", MIPR 2019. S1 compares with it and does not say which variant.

Nothing is trained: a fingerprint a label is the weighted mean of its images' noise, in one pass.
"""

from collections.abc import Callable
from typing import Final, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (what everyone calls it)

from trainer.choices import Fit
from trainer.data.folder import ImageFolder
from trainer.models.fourier import Fourier
from trainer.training.config import TrainConfig
from trainer.training.systems import System

DB4: Final = (
    0.23037781330885523,
    0.7148465705525415,
    0.6308807679295904,
    -0.02798376941698385,
    -0.18703481171888114,
    0.030841381835986965,
    0.032883011666982945,
    -0.010597401784997278,
)
"""Daubechies' scaling filter with four vanishing moments."""
WINDOWS: Final = (3, 5, 7, 9)
_LUMINANCE: Final = (0.29893602, 0.58704307, 0.11402090)
_BATCH: Final = 64
_PEAK: Final = 5
"""Shifts of PCE up to so many pixels are the peak (11x11) and no background."""


class PrnuConfig(TrainConfig):
    """Settings of the authors' code, but for the rows and columns that are zero-meaned.

    The code takes those of each of the four pixels of a colour filter array by themselves; generators have none, and
    their own grids would go, so whole rows and columns are taken.
    """

    system: Literal["prnu"] = "prnu"

    fit: Fit = "crop"
    """Fingerprints are tied to pixels: resizing moves and blurs them."""
    sigma: float = Field(default=5.0, gt=0)
    """Deviation of the noise that the wavelet filter expects, in grey levels."""
    levels: int = Field(default=4, ge=1, le=6)
    """Levels of the wavelet transform; ``size`` must be a multiple of ``2 ** levels``."""
    zero_mean: bool = True
    """Subtract the mean of each row, then of each column."""
    wiener: bool = True
    """Damp peaks of the spectrum, which in cameras come from JPEG and interpolation. Generators' periodic traces are
    peaks too: Marra et al. leave this out."""
    score: Literal["ncc", "pce"] = "ncc"
    """Correlation of noise and fingerprint, or its peak's energy over that of all other shifts."""

    l2_normalised: bool = True
    epochs: int = Field(default=0, ge=0, le=0)
    """Nothing is trained."""

    @model_validator(mode="after")
    def _halves_evenly(self) -> Self:
        if self.size % (1 << self.levels):
            raise ValueError(f"size must be a multiple of {1 << self.levels} for {self.levels} levels, got {self.size}")
        return self


class WaveletNoise(nn.Module):
    """Noise of planes ``float32[M, size, size]`` on the 0-255 scale: each plane minus the denoised plane.

    Orthonormal db4 transform, periodic at the border; each detail coefficient x is scaled by ``s^2 / (v + s^2)`` with
    ``v = min over windows of max(0, mean(x^2) - s^2)``, zeros beyond the border; the approximation is set to zero.
    """

    def __init__(self, size: int, levels: int, sigma: float) -> None:
        super().__init__()
        self.levels, self.variance = levels, sigma**2
        for level in range(levels):
            self.register_buffer(f"analysis{level}", _analysis(size >> level), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Transform, damp and transform back."""
        details: list[tuple[Tensor, Tensor, Tensor]] = []
        for level in range(self.levels):
            matrix = self.get_buffer(f"analysis{level}")
            top, bottom = (matrix @ planes @ matrix.T).chunk(2, dim=1)
            planes, right = top.chunk(2, dim=2)
            bands = torch.stack([right, *bottom.chunk(2, dim=2)], dim=1)
            noise = bands * share_of_noise(bands, self.variance)
            details.append((noise[:, 0], noise[:, 1], noise[:, 2]))
        planes = torch.zeros_like(planes)
        for level in reversed(range(self.levels)):
            matrix = self.get_buffer(f"analysis{level}")
            right, below, diagonal = details[level]
            rows = torch.cat([torch.cat([planes, right], dim=2), torch.cat([below, diagonal], dim=2)], dim=1)
            planes = matrix.T @ rows @ matrix
        return planes


def _analysis(size: int) -> Tensor:
    """One level along one axis, ``float32[size, size]``, orthonormal: size/2 low-pass rows, then as many high-pass.

    The filters' phase is PyWavelets' (mode ``periodization``).
    """
    low = torch.tensor(DB4, dtype=torch.float64)
    high = low.flip(0) * torch.tensor([1.0, -1.0] * 4)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size // 2):
        for tap in range(len(DB4)):
            column = (2 * row + tap - 3) % size
            matrix[row, column] += low[tap]
            matrix[size // 2 + row, column] += high[tap]
    return matrix.float()


def share_of_noise(values: Tensor, variance: float) -> Tensor:
    """``variance / (v + variance)`` of ``float32[M, C, H, W]``: 1 where values are no larger than noise, else less."""
    power = values.square()
    means = [F.avg_pool2d(power, window, 1, window // 2) for window in WINDOWS]
    local = torch.stack(means).amin(0)  # the least mean gives the least excess
    return variance / ((local - variance).clamp(min=0) + variance)


class Prnu(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, noise ``float32[N, H * W]`` of length 1).

    A score is the correlation with a label's fingerprint times the root of the number of pixels: in deviations of what
    unrelated patterns give, so that the served log-odds follow the best generator and the best real. With one output
    there are two fingerprints, of all reals and of all generators, and the score is their difference.

    Noise of length 1 has L2 distance ``sqrt(2 - 2 NCC)`` to a template of length 1: the nearest correlates most.
    """

    def __init__(self, config: PrnuConfig, outputs: int) -> None:
        super().__init__()
        self.size, self.score, self.binary = config.size, config.score, outputs == 1
        self.zero_mean, self.wiener = config.zero_mean, config.wiener
        self.noise = WaveletNoise(config.size, config.levels, config.sigma)
        self.fourier = Fourier(config.size)
        self.register_buffer("luminance", torch.tensor(_LUMINANCE), persistent=False)
        # A parameter, though no gradient reaches it: it is the network's knowledge, and says on which device that is.
        self.fingerprints = nn.Parameter(torch.zeros(max(outputs, 2), config.size**2), requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and noise."""
        with torch.autocast(images.device.type, enabled=False):
            embedding = self.normalised(self.noise_of(images.float()))
            scores = self._correlations(embedding) if self.score == "ncc" else self._energies(embedding)
        return (scores[:, 1:] - scores[:, :1] if self.binary else scores), embedding

    def noise_of(self, images: Tensor) -> Tensor:
        """``float32[N, H, W, 3]`` on the 0-255 scale -> noise of each channel, ``float32[N, 3, H, W]``."""
        planes = images.permute(0, 3, 1, 2)
        noise: Tensor = self.noise(planes.reshape(-1, self.size, self.size))
        return noise.reshape(-1, 3, self.size, self.size)

    def normalised(self, patterns: Tensor) -> Tensor:
        """Noise or fingerprints ``float32[N, 3, H, W]``, cleaned -> ``float32[N, H * W]`` of mean 0 and length 1."""
        planes = (patterns * self.get_buffer("luminance")[:, None, None]).sum(1)
        if self.zero_mean:
            planes = planes - planes.mean(2, keepdim=True)
            planes = planes - planes.mean(1, keepdim=True)
        if self.wiener:
            planes = self._without_peaks(planes)
        rows = planes.flatten(1)
        return F.normalize(rows - rows.mean(1, keepdim=True))

    def _without_peaks(self, planes: Tensor) -> Tensor:
        """A Wiener filter on the magnitudes of the Fourier transform, with each plane's own variance as the noise's."""
        real, imaginary = self.fourier(planes)
        deviation = planes.flatten(1).std(dim=1).clamp(min=1e-6)[:, None, None]
        # In units of the deviation the noise has variance 1, and one filter serves planes of all variances.
        magnitude = (real.square() + imaginary.square()).sqrt() / (self.size * deviation)
        share = share_of_noise(magnitude[:, None], 1.0)[:, 0]
        return self.fourier.inverse(real * share, imaginary * share)

    def _correlations(self, embedding: Tensor) -> Tensor:
        return self.size * embedding @ self.fingerprints.T

    def _energies(self, embedding: Tensor) -> Tensor:
        """Peak-to-correlation energy at shift zero with the sign of the peak (Goljan's), of all cyclic shifts."""
        real, imaginary = self.fourier(embedding.reshape(-1, 1, self.size, self.size))
        of_real, of_imaginary = self.fourier(self.fingerprints.reshape(1, -1, self.size, self.size))
        shifts = self.fourier.inverse(
            real * of_real + imaginary * of_imaginary, imaginary * of_real - real * of_imaginary
        )
        peak, total = shifts[..., 0, 0], shifts.square().sum((2, 3))
        near = torch.cat([shifts[..., : _PEAK + 1, :], shifts[..., -_PEAK:, :]], dim=2).square()
        near_energy = near[..., : _PEAK + 1].sum((2, 3)) + near[..., -_PEAK:].sum((2, 3))
        background = (total - near_energy).clamp(min=1e-20) / (self.size**2 - (2 * _PEAK + 1) ** 2)
        return peak * peak.abs() / background


@torch.no_grad()
def _fit(
    config: PrnuConfig,
    net: nn.Module,
    images: ImageFolder,
    progress: Callable[[int, int], None],
) -> None:
    """``K = sum(W I) / (sum(I^2) + 1)`` over the images of each label (Chen et al., eq. 6; the 1 is the code's)."""
    assert isinstance(net, Prnu)
    device, size = net.fingerprints.device, config.size
    own = (~images.among(config.real))[images.labels].astype(np.int64) if net.binary else images.labels
    products = torch.zeros(len(net.fingerprints), 3, size, size, dtype=torch.float64, device=device)
    powers = torch.zeros_like(products)
    for start in range(0, len(images), _BATCH):
        chosen = slice(start, min(start + _BATCH, len(images)))
        pixels = torch.from_numpy(images.pixels(chosen)).to(device).float()
        labels = torch.from_numpy(own[chosen]).to(device)
        planes = pixels.permute(0, 3, 1, 2)
        products.index_add_(0, labels, (net.noise_of(pixels) * planes).double())
        powers.index_add_(0, labels, planes.square().double())
        progress(chosen.stop, len(images))
    net.fingerprints.copy_(net.normalised((products / (powers + 1)).float()))


SYSTEM: Final = System(
    source="Lukas, Fridrich, Goljan, IEEE TIFS 2006; Marra et al., MIPR 2019",
    config=PrnuConfig,
    templates=lambda _config, weights, _labels: weights["fingerprints"],
    summary=lambda config: f"db4 wavelet noise, one fingerprint a label, {config.score.upper()}",
    network=Prnu,
    fit=_fit,
)
