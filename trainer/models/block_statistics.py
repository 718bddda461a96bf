"""Statistics of an image: how strong its spatial frequencies are, and how its pixels and colours go together.

A decoder leaves its traces in how strong each spatial frequency is, in what its grid does to neighbouring pixels, in
how colours go together and in where on the grid a pixel lies. The statistics are averages over the image, and so
nearly normal.
"""

from typing import Final, cast

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from trainer.models.srm_metric import SQUARE5

BLOCK: Final = 8
LAGS: Final = (
    *((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2)),
    *((0, 3), (3, 0), (0, 4), (4, 0), (4, 4), (0, 8), (8, 0)),
)
"""Offsets (down, right) at which the residual is compared with itself."""
STATISTICS: Final = 643
"""Statistics of an image."""
EXTENDED: Final = 1099
"""Statistics of an image where ``extended``; the first 643 are the same."""
_KERNEL: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""The KB kernel of the Spatial Rich Model, times 4: the residual."""
_HIGH_PASSES: Final = (
    *(np.array([values], np.float32) for values in ([-1, 1], [1, -2, 1], [1, -3, 3, -1])),
    *(np.array([values], np.float32).T for values in ([-1, 1], [1, -2, 1], [1, -3, 3, -1])),
    np.array([[1, -1], [-1, 1]], np.float32),
    (12 * SQUARE5).astype(np.float32),
)
"""Differences across and down, the diagonal one, and the KV kernel times 12."""


class BlockSpectra(nn.Module):
    """``uint8[N, H, W, 3]`` -> statistics ``float32[N, 643]``, or 1,099; H and W multiples of 8, at least 24.

    Of luma, R - G, B - G and G, on the 0-255 scale: the log mean magnitude of each coefficient of the orthonormal 8x8
    DCT, of blocks on the image's grid (256) and of blocks shifted by 4 and 4 (256); on luma the log of root mean square
    over mean (64). Of the KB residual of the first three: autocorrelation at 14 lags (42) and correlation of each two
    (3). Of luma's residual: log mean magnitude at each position in a 4x4 grid, less their mean (16). Of R, G and B:
    square root of the share of pixels at most 1, and at least 254 (6).

    ``extended``: the log of root mean square over mean of the three other planes as well (192), the correlation of
    each coefficient in two of the first three (192), and of eight more high passes of those the log mean magnitude, log
    of root mean square over mean, and skewness (72).
    """

    basis: Tensor
    kernel: Tensor

    def __init__(self, *, extended: bool = False) -> None:
        super().__init__()
        rows = dct(np.eye(BLOCK), axis=0, norm="ortho")
        basis = np.einsum("uy,vx->uvyx", rows, rows).reshape(BLOCK**2, 1, BLOCK, BLOCK)
        self.register_buffer("basis", torch.from_numpy(basis).float(), persistent=False)
        self.register_buffer("kernel", torch.from_numpy(_KERNEL)[None, None], persistent=False)
        self.extended = extended
        for index, values in enumerate(_HIGH_PASSES if extended else ()):
            self.register_buffer(f"high_pass{index}", torch.from_numpy(values)[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """All statistics, in the order of the class's description."""
        pixels = images.permute(0, 3, 1, 2).float()
        red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = torch.stack([luma, red - green, blue - green, green], dim=1)
        coefficients = self._spectrum(planes)
        on_grid = coefficients.abs()
        half = BLOCK // 2
        shifted = self._spectrum(planes[:, :, half:-half, half:-half]).abs()
        residual = _convolve(planes[:, :3], self.kernel)
        power = residual.square().mean(dim=(2, 3)) + 1
        parts = [
            (on_grid.mean(dim=3) + 0.1).log(),
            _peakedness(on_grid[:, 0]),
            (shifted.mean(dim=3) + 0.1).log(),
            _autocorrelation(residual, power),
            _by_grid_position(residual[:, 0]),
            _between_planes(residual.flatten(2)[:, :, None], power[:, :, None]),
            (pixels <= 1).float().mean(dim=(2, 3)).sqrt(),
            (pixels >= 254).float().mean(dim=(2, 3)).sqrt(),
        ]
        if self.extended:
            first = coefficients[:, :3]
            parts += [_peakedness(on_grid[:, 1:]), _between_planes(first, first.square().mean(dim=3) + 1)]
            parts += [self._high_pass(planes[:, :3], index) for index in range(len(_HIGH_PASSES))]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _spectrum(self, planes: Tensor) -> Tensor:
        """``float32[N, C, H, W]`` -> coefficients ``float32[N, C, 64, blocks]``."""
        n, channels, height, width = planes.shape
        found = nn.functional.conv2d(planes.reshape(-1, 1, height, width), self.basis, stride=BLOCK)
        return found.reshape(n, channels, BLOCK**2, -1)

    def _high_pass(self, planes: Tensor, index: int) -> Tensor:
        """``float32[N, C, H, W]`` -> ``float32[N, 3, C]``: strength, peakedness and skewness of a high pass."""
        found = _convolve(planes, cast("Tensor", getattr(self, f"high_pass{index}"))).flatten(2)
        strength = (found.abs().mean(dim=2) + 0.1).log()
        skewness = found.pow(3).mean(dim=2) / (found.square().mean(dim=2) + 1).pow(1.5)
        return torch.stack([strength, _peakedness(found.abs()), skewness], dim=1)


def _convolve(planes: Tensor, kernel: Tensor) -> Tensor:
    n, channels, height, width = planes.shape
    found = nn.functional.conv2d(planes.reshape(-1, 1, height, width), kernel)
    return found.reshape(n, channels, *found.shape[2:])


def _peakedness(magnitudes: Tensor) -> Tensor:
    """Log of root mean square over mean, along the last dimension."""
    return ((magnitudes.square().mean(dim=-1).sqrt() + 0.1) / (magnitudes.mean(dim=-1) + 0.1)).log()


def _autocorrelation(residual: Tensor, power: Tensor) -> Tensor:
    """``float32[N, C, H, W]`` -> ``float32[N, C, 14]``."""
    height, width = residual.shape[2:]
    found = []
    for down, right in LAGS:
        after = residual[:, :, down:, max(right, 0) : width + min(right, 0)]
        before = residual[:, :, : height - down, max(-right, 0) : width - max(right, 0)]
        found.append((after * before).mean(dim=(2, 3)) / power)
    return torch.stack(found, dim=2)


def _by_grid_position(residual: Tensor) -> Tensor:
    """``float32[N, H - 2, W - 2]`` -> ``float32[N, 16]``: beginning at the pixel (2, 2), as far as whole grids go."""
    height, width = ((side - 1) // 4 for side in residual.shape[1:])
    inner = residual[:, 1 : 1 + 4 * height, 1 : 1 + 4 * width]
    strength = inner.abs().reshape(-1, height, 4, width, 4).mean(dim=(1, 3)).flatten(1)
    logarithm = (strength + 0.3).log()
    return logarithm - logarithm.mean(dim=1, keepdim=True)


def _between_planes(values: Tensor, power: Tensor) -> Tensor:
    """Correlations of three planes ``float32[N, 3, K, M]`` over M, with their powers ``[N, 3, K]``: ``[N, 3, K]``."""
    pairs = ((0, 1), (0, 2), (1, 2))
    found = [(values[:, i] * values[:, j]).mean(dim=2) / (power[:, i] * power[:, j]).sqrt() for i, j in pairs]
    return torch.stack(found, dim=1)
