"""Ours: block spectra and a discriminant in closed form, with simulated generators as further classes.

A decoder leaves its traces in how strong each spatial frequency is, in what its grid does to neighbouring pixels, and
in where on the grid a pixel lies. Some hundred such statistics, averaged over an image, tell generators apart that no
eye can; since they are averages, they are nearly normal, and the discriminant of normal classes (LDA with a shrunken
covariance) is all that has to be fitted. No gradient is taken and no image is forgotten: see ``discriminant``.

What an image of an *unknown* generator looks like cannot be learnt from a few known ones: an image is far from a
class in hundreds of directions by chance alone. So the discriminant also separates generators that are drawn at random
and trained for seconds on the training photographs (``random_upsamplers``), and only the directions that separate
classes are kept: what distinguishes decoders at large.
"""

from collections.abc import Callable
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from scipy.fft import dct
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.data import ImageFolder
from trainer.discriminant import Statistics
from trainer.errors import BadConfig
from trainer.evaluate import in_batches
from trainer.random_upsamplers import simulate_once
from trainer.systems import System

BLOCK: Final = 8
LAGS: Final = (
    *((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2)),
    *((0, 3), (3, 0), (0, 4), (4, 0), (4, 4), (0, 8), (8, 0)),
)
"""(down, right) at which the residual is compared with itself."""
STATISTICS: Final = 643
_KERNEL: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""The KB kernel of the Spatial Rich Model, times 4: the residual."""
_FAR: Final = 8.0
"""Standardised statistics are cut off here: what lies farther is far, and no matter how far."""


class BlockSpectraConfig(TrainConfig):
    """One fit; ``epochs``, ``batch`` and ``lr`` have no meaning here."""

    system: Literal["block_spectra"] = "block_spectra"

    fit: Literal["resize", "crop"] = "crop"
    epochs: int = Field(default=0, ge=0, le=0)
    """Nothing is trained by gradients."""
    shrinkage: float | None = Field(default=0.05, ge=0, le=1)
    """Of the covariance within classes; None takes the oracle approximating estimate."""
    simulated: int = Field(default=12, ge=0)
    """Random generators that are classes beside the known ones."""
    directions: int = Field(default=24, ge=0, le=STATISTICS)
    """Of the embedding: those that separate the classes most; zeros where there are fewer than classes less one. 0
    keeps all 643, in which a few images place a new class better, and which see no unknown."""
    simulated_steps: int = Field(default=200, ge=1)
    """Training steps of each."""
    simulated_images: int = Field(default=350, ge=16)
    """Photographs that each is given, at most."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.size % BLOCK:
            raise ValueError(f"size must be a multiple of {BLOCK}, got {self.size}")
        if self.binary:  # generators lie on all sides of the photographs: no plane separates them
            raise ValueError("binary is no variant of this system; the scores of its classes give a logit as well")
        return self


class BlockSpectra(nn.Module):
    """``uint8[N, H, W, 3]`` -> statistics ``float32[N, 643]``; H and W multiples of 8, at least 24.

    Of luma, R - G, B - G and G, on the 0-255 scale: the log mean magnitude of each coefficient of the orthonormal 8x8
    DCT, of blocks on the image's grid (256) and of blocks shifted by 4 and 4 (256); on luma the log of root mean square
    over mean (64). Of the KB residual of the first three: autocorrelation at 14 lags (42) and correlation of each two
    (3). Of luma's residual: log mean magnitude at each place of a 4x4 grid, less their mean (16). Of R, G and B: square
    root of the share of pixels at most 1, and at least 254 (6).
    """

    def __init__(self) -> None:
        super().__init__()
        rows = dct(np.eye(BLOCK), axis=0, norm="ortho")
        basis = np.einsum("uy,vx->uvyx", rows, rows).reshape(BLOCK**2, 1, BLOCK, BLOCK)
        self.register_buffer("basis", torch.from_numpy(basis).float(), persistent=False)
        self.register_buffer("kernel", torch.from_numpy(_KERNEL)[None, None], persistent=False)

    basis: Tensor
    kernel: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """All statistics, in the order of the description."""
        pixels = images.permute(0, 3, 1, 2).float()
        red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = torch.stack([luma, red - green, blue - green, green], dim=1)
        on_grid = self._spectrum(planes)
        half = BLOCK // 2
        shifted = self._spectrum(planes[:, :, half:-half, half:-half])
        mean = on_grid.mean(dim=3)
        peaked = (on_grid[:, 0].square().mean(dim=2).sqrt() + 0.1) / (mean[:, 0] + 0.1)
        residual = _convolve(planes[:, :3], self.kernel)
        power = residual.square().mean(dim=(2, 3)) + 1
        parts = [
            (mean + 0.1).log().flatten(1),
            peaked.log(),
            (shifted.mean(dim=3) + 0.1).log().flatten(1),
            _autocorrelation(residual, power),
            _by_place(residual[:, 0]),
            _between_planes(residual, power),
            torch.cat([(pixels <= 1).float().mean(dim=(2, 3)), (pixels >= 254).float().mean(dim=(2, 3))], dim=1).sqrt(),
        ]
        return torch.cat(parts, dim=1)

    def _spectrum(self, planes: Tensor) -> Tensor:
        """``float32[N, C, H, W]`` -> magnitudes ``float32[N, C, 64, blocks]``."""
        n, channels, height, width = planes.shape
        found = nn.functional.conv2d(planes.reshape(-1, 1, height, width), self.basis, stride=BLOCK)
        return found.abs().reshape(n, channels, BLOCK**2, -1)


class BlockSpectraNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, C]``, embedding ``float32[N, R]``).

    The embedding is in the whitened space: L2 distance to a class mean is the Mahalanobis distance. The scores are
    LDA's at equal priors, ``z . m - |m|^2 / 2``: log-likelihoods but for a term that all classes share.

    Attributes:
        centre, spread: ``float32[643]``, of the statistics of the training images.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, config: BlockSpectraConfig, outputs: int) -> None:
        super().__init__()
        self.statistics = BlockSpectra()
        self.register_buffer("centre", torch.zeros(STATISTICS))
        self.register_buffer("spread", torch.ones(STATISTICS))
        directions = config.directions or STATISTICS
        self.projection = nn.Linear(STATISTICS, directions)
        self.head = nn.Linear(directions, outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and embeddings."""
        with torch.autocast(images.device.type, enabled=False):
            embedding = self.projection(self.standardised(self.statistics(images)))
            return self.head(embedding), embedding

    def standardised(self, statistics: Tensor) -> Tensor:
        """In units of their spread, cut off at 8."""
        return ((statistics - self.centre) / self.spread).clamp(-_FAR, _FAR)


def fit(
    config: BlockSpectraConfig,
    net: nn.Module,
    folder: ImageFolder,
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None],
) -> None:
    """Fit all there is: standardisation, discriminant, class means.

    Raises:
        BadConfig: fewer images than it takes to say how statistics vary.
    """
    assert isinstance(net, BlockSpectraNet)
    if len(folder) < 2 * len(folder.classes):
        raise BadConfig(f"{folder.root}: {len(folder)} images are too few for {len(folder.classes)} classes")
    total = config.simulated + 1
    pixels = folder.pixels(slice(None))
    device = net.centre.device
    raw = torch.from_numpy(in_batches(lambda x: (net.statistics(x),), pixels, device)[0]).to(device)
    progress(1, total)
    with torch.no_grad():
        net.centre.copy_(raw.mean(dim=0))
        net.spread.copy_(raw.std(dim=0) + 1e-3)
    known = Statistics.of_classes(net.standardised(raw).cpu().numpy(), labels, folder.classes)
    places = np.flatnonzero(folder.among(config.real)[labels])[: config.simulated_images]
    made = simulate_once(
        pixels[places], config.simulated, config.simulated_steps, config.seed, lambda done, _: progress(done + 1, total)
    )
    standardised = [in_batches(lambda x: (net.standardised(net.statistics(x)),), images, device)[0] for images in made]
    others = [Statistics.of(f"~{number:04d}", rows) for number, rows in enumerate(standardised)]
    projection = known.projection(
        config.shrinkage,
        keep="between" if config.directions else "all",
        beside=Statistics.sum(others) if others else None,
    ).onto(net.projection.out_features)
    means = torch.from_numpy(projection(known.means))[[known.names.index(name) for name in folder.classes]]
    with torch.no_grad():
        net.projection.load_state_dict(projection.layer().state_dict())
        net.head.weight.copy_(means)
        net.head.bias.copy_(-means.square().sum(dim=1) / 2)


def _convolve(planes: Tensor, kernel: Tensor) -> Tensor:
    n, channels, height, width = planes.shape
    found = nn.functional.conv2d(planes.reshape(-1, 1, height, width), kernel)
    return found.reshape(n, channels, height - 2, width - 2)


def _autocorrelation(residual: Tensor, power: Tensor) -> Tensor:
    """``float32[N, C, H, W]`` -> ``float32[N, C * 14]``."""
    height, width = residual.shape[2:]
    found = []
    for down, right in LAGS:
        after = residual[:, :, down:, max(right, 0) : width + min(right, 0)]
        before = residual[:, :, : height - down, max(-right, 0) : width - max(right, 0)]
        found.append((after * before).mean(dim=(2, 3)) / power)
    return torch.stack(found, dim=2).flatten(1)


def _by_place(residual: Tensor) -> Tensor:
    """``float32[N, H - 2, W - 2]`` -> ``float32[N, 16]``: beginning at the pixel (2, 2), as far as whole grids go."""
    height, width = ((side - 1) // 4 for side in residual.shape[1:])
    inner = residual[:, 1 : 1 + 4 * height, 1 : 1 + 4 * width]
    strength = inner.abs().reshape(-1, height, 4, width, 4).mean(dim=(1, 3)).flatten(1)
    logarithm = (strength + 0.3).log()
    return logarithm - logarithm.mean(dim=1, keepdim=True)


def _between_planes(residual: Tensor, power: Tensor) -> Tensor:
    pairs = ((0, 1), (0, 2), (1, 2))
    found = [(residual[:, i] * residual[:, j]).mean(dim=(1, 2)) / (power[:, i] * power[:, j]).sqrt() for i, j in pairs]
    return torch.stack(found, dim=1)


def _summary(config: BlockSpectraConfig) -> str:
    return f"{STATISTICS} block-spectral statistics, LDA, {config.simulated} simulated generators"


SYSTEM: Final = System(
    source="ours",
    config=BlockSpectraConfig,
    summary=_summary,
    network=BlockSpectraNet,
    fit=fit,
)
