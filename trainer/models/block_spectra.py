"""Ours: block spectra, and classes as normal distributions in closed form, with simulated generators beside them.

A decoder leaves its traces in how strong each spatial frequency is, in what its grid does to neighbouring pixels, in
how colours go together and in where on the grid a pixel lies. A thousand such statistics, averaged over an image, tell
generators apart that no eye can; since they are averages they are nearly normal, and the discriminant of normal classes
(LDA with a shrunken covariance) names them. That takes no gradient: see ``discriminant``.

What an image of an *unknown* generator looks like cannot be learnt from a few known ones: an image is far from a class
in hundreds of directions by chance alone. So generators that are drawn at random and trained for seconds on the
training photographs (``random_upsamplers``) say with the known ones where the mean of a generator may lie. The distance
to a template is the log-likelihood ratio of that class against *any* generator: Mahalanobis distance less that to the
background, as in Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection" (2021); we have
the background from means of classes, not from all images. A class that is known by a few images has the posterior mean.

JPEG, resizing or blur move statistics farther than generators do. So one copy of each training image is *handled*
(``augment.handled``). Which way copies lie from their originals is counted as a way to vary within classes, as in
within-class covariance normalisation (Hatch et al., Interspeech 2006): those ways tell less apart. And an image that
looks handled is given leeway: it may lie farther from its class before it is unknown. Three small networks say which
do: copies of one generator's images may lie where another's own images do, and no plane parts those.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.fft import dct
from torch import Tensor, nn

from trainer.arrays import Floats, Floats64, Numbers
from trainer.data.augment import degradation
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig
from trainer.models.discriminant import Prior, Statistics, whitening
from trainer.models.srm_metric import SQUARE5
from trainer.synthesis.random_upsamplers import simulate_once
from trainer.training.config import TrainConfig
from trainer.training.detector import against_simulated
from trainer.training.embedding import in_batches
from trainer.training.systems import System

BLOCK: Final = 8
LAGS: Final = (
    *((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2)),
    *((0, 3), (3, 0), (0, 4), (4, 0), (4, 4), (0, 8), (8, 0)),
)
"""(down, right) at which the residual is compared with itself."""
STATISTICS: Final = 643
"""Of an image."""
EXTENDED: Final = 1099
"""Those, and more."""
_KERNEL: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""The KB kernel of the Spatial Rich Model, times 4: the residual."""
_DIFFERENCES: Final = (
    *(np.array([values], np.float32) for values in ([-1, 1], [1, -2, 1], [1, -3, 3, -1])),
    *(np.array([values], np.float32).T for values in ([-1, 1], [1, -2, 1], [1, -3, 3, -1])),
    np.array([[1, -1], [-1, 1]], np.float32),
    (12 * SQUARE5).astype(np.float32),
)
"""High passes: differences across and down, diagonal, and the KV kernel times 12."""


class DetectorConstants(BaseModel):
    """Constants of the small networks that tell degraded images from pristine ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    members: int = Field(default=3, ge=1)
    """Networks whose log-odds are averaged; one alone is right less often."""
    hidden_units: int = Field(default=64, ge=1)
    """Hidden units of each network."""
    batch: int = Field(default=256, ge=1)
    """Images a training step."""
    temperature: float = Field(default=1.5, gt=0)
    """Divisor of the log-odds: the networks have seen the training images, and are too sure of them."""


class BlockSpectraConstants(BaseModel):
    """Constants of the fit that scores, embeddings and templates depend on.

    ``unknown_variance``, ``off_plane``, ``new_class_off_plane`` and what concerns degraded images were chosen on
    mini8's validation and calibration images, each family left out in turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: float = Field(default=8.0, gt=0)
    """Standardised statistics are clipped here, in deviations: what lies farther is far, no matter how far."""
    short_change: float = Field(default=0.05, gt=0)
    """Root mean square of what degradation changed, in deviations within classes, below which it has no direction."""
    pristine_inside: float = Field(default=0.95, gt=0, le=1)
    """Share of pristine training images within the distance that the leeway is measured from."""
    degraded_inside: float = Field(default=0.98, gt=0, le=1)
    """Share of degraded training images that the leeway brings within that distance."""
    unknown_variance: float = Field(default=0.3, gt=0)
    """Variance of the means of unknown generators, over that of known and simulated ones."""
    off_plane: float = Field(default=0.1, ge=0, le=1)
    """Share of that variance in directions in which neither known nor simulated generators differ."""
    new_class_off_plane: float = Field(default=0.2, ge=0, le=1)
    """The same share where the template of a new class is estimated from a few images, at the full variance."""
    least_variance: float = Field(default=1e-4, gt=0)
    """Variance of means where classes do not differ: the embedding divides by it."""
    level: float = Field(default=500.0, gt=0)
    """Distance to a template at which a class is as likely as any generator: far from 0, as ratios have either sign."""
    detector: DetectorConstants = DetectorConstants()
    """Constants of the detector of degraded images."""


class BlockSpectraConfig(TrainConfig):
    """One fit; ``epochs``, ``batch`` and ``lr`` have no meaning here."""

    system: Literal["block_spectra"] = "block_spectra"

    fit: Literal["resize", "crop"] = "crop"
    epochs: int = Field(default=0, ge=0, le=0)
    """Images are not gone through again and again: their statistics are taken once."""
    shrinkage: float | None = Field(default=0.05, ge=0, le=1)
    """Of the covariance within classes; None takes the oracle approximating estimate."""
    handling: float = Field(default=0.5, ge=0)
    """Variance along what handling changes, each change at length 1 a statistic, over that within classes."""
    handled_epochs: int = Field(default=5, ge=0)
    """Of each network that says what looks handled; 0 does without, and without leeway."""
    simulated: int = Field(default=24, ge=0)
    """Random generators: they say where unknown ones may lie, and count against photographs."""
    simulated_steps: int = Field(default=200, ge=1)
    """Training steps of each."""
    simulated_images: int = Field(default=350, ge=16)
    """Photographs that each is given, at most."""
    constants: BlockSpectraConstants = BlockSpectraConstants()
    """Constants of the method; they need no change from data set to data set."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.size % BLOCK:
            raise ValueError(f"size must be a multiple of {BLOCK}, got {self.size}")
        if self.binary:  # generators lie on all sides of the photographs: no plane separates them
            raise ValueError("binary is no variant of this system; the scores of its classes give a logit as well")
        if self.l2_normalised:
            raise ValueError("l2_normalised is no variant of this system: length is part of its distances")
        return self


class BlockSpectra(nn.Module):
    """``uint8[N, H, W, 3]`` -> statistics ``float32[N, 643]``, or 1,099; H and W multiples of 8, at least 24.

    Of luma, R - G, B - G and G, on the 0-255 scale: the log mean magnitude of each coefficient of the orthonormal 8x8
    DCT, of blocks on the image's grid (256) and of blocks shifted by 4 and 4 (256); on luma the log of root mean square
    over mean (64). Of the KB residual of the first three: autocorrelation at 14 lags (42) and correlation of each two
    (3). Of luma's residual: log mean magnitude at each place of a 4x4 grid, less their mean (16). Of R, G and B: square
    root of the share of pixels at most 1, and at least 254 (6).

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
        for number, values in enumerate(_DIFFERENCES if extended else ()):
            self.register_buffer(f"difference{number}", torch.from_numpy(values)[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """All statistics, in the order of the description."""
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
            _by_place(residual[:, 0]),
            _between_planes(residual.flatten(2)[:, :, None], power[:, :, None]),
            (pixels <= 1).float().mean(dim=(2, 3)).sqrt(),
            (pixels >= 254).float().mean(dim=(2, 3)).sqrt(),
        ]
        if self.extended:
            first = coefficients[:, :3]
            parts += [_peakedness(on_grid[:, 1:]), _between_planes(first, first.square().mean(dim=3) + 1)]
            parts += [self._difference(planes[:, :3], number) for number in range(len(_DIFFERENCES))]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _spectrum(self, planes: Tensor) -> Tensor:
        """``float32[N, C, H, W]`` -> coefficients ``float32[N, C, 64, blocks]``."""
        n, channels, height, width = planes.shape
        found = nn.functional.conv2d(planes.reshape(-1, 1, height, width), self.basis, stride=BLOCK)
        return found.reshape(n, channels, BLOCK**2, -1)

    def _difference(self, planes: Tensor, number: int) -> Tensor:
        """``float32[N, C, H, W]`` -> ``float32[N, 3, C]``: strength, peakedness and skewness of a high pass."""
        found = _convolve(planes, cast("Tensor", getattr(self, f"difference{number}"))).flatten(2)
        strength = (found.abs().mean(dim=2) + 0.1).log()
        skewness = found.pow(3).mean(dim=2) / (found.square().mean(dim=2) + 1).pow(1.5)
        return torch.stack([strength, _peakedness(found.abs()), skewness], dim=1)


class Handled(nn.Module):
    """Standardised statistics ``float32[N, 1099]`` -> log-odds ``float32[N, 1]`` that something happened to the image.

    The mean of those of networks that were trained apart; side by side they are one. Untrained they are 0.
    """

    def __init__(self, constants: DetectorConstants) -> None:
        super().__init__()
        units = constants.members * constants.hidden_units
        self.hidden, self.out = nn.Linear(EXTENDED, units), nn.Linear(units, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """Log-odds."""
        found: Tensor = self.out(self.hidden(rows).relu())
        return found


class BlockSpectraNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, C]``, embedding ``float32[N, 1101]``).

    With x the whitened statistics about the mean of all classes, and T the covariance of unknown generators' means
    there, a class with mean m has ``-2 log N(x; m, I) / N(x; 0, I + T) = (x - m)^2 - x^T (I + T)^-1 x - log|I + T|``.
    With ``A = T (I + T)^-1`` that is ``(A^1/2 x - A^-1/2 m)^2 - m^T T^-1 m - log|I + T|``, a squared L2 distance to a
    template: the embedding is ``A^1/2 x`` and a 0, the template ``A^-1/2 m`` and what makes the sum positive. An image
    as a generator wrote it adds ``leeway``, a handled one nothing, one in doubt a part: the root of that is the last
    number of the embedding, and the template has a 0 there. The scores are LDA's at equal priors,
    ``x . m - |m|^2 / 2``: log-likelihoods but for a term that all classes share.

    An image that looks like a simulated class is no photograph, see ``against_simulated``.

    Attributes:
        centre, spread: ``float32[1099]``, of the statistics of the training images.
        leeway: ``float32[]``, in units of squared distance.
        photographs: ``bool[C]``, which outputs are of photographs.
        means: ``float32[C + simulated, 1099]``, of the known classes and the simulated ones, about their mean.
        counts: ``int64[C + simulated]``, images of each.
    """

    centre: Tensor
    spread: Tensor
    leeway: Tensor
    photographs: Tensor
    means: Tensor
    counts: Tensor

    def __init__(self, config: BlockSpectraConfig, outputs: int) -> None:
        super().__init__()
        classes = outputs + config.simulated
        self.statistics = BlockSpectra(extended=True)
        self.register_buffer("photographs", torch.zeros(outputs, dtype=torch.bool))
        self.register_buffer("centre", torch.zeros(EXTENDED))
        self.register_buffer("spread", torch.ones(EXTENDED))
        self.register_buffer("leeway", torch.zeros(()))
        self.register_buffer("means", torch.zeros(classes, EXTENDED))
        self.register_buffer("counts", torch.ones(classes, dtype=torch.int64))
        self.projection = nn.Linear(EXTENDED, EXTENDED)
        self.head = nn.Linear(EXTENDED, classes)
        self.handled = Handled(config.constants.detector)
        self.clip = config.constants.clip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and embeddings."""
        with torch.autocast(images.device.type, enabled=False):
            embedding = self.embed(self.standardised(self.statistics(images)))
            return against_simulated(self.scores(embedding), self.photographs), embedding

    def scores(self, embedding: Tensor) -> Tensor:
        """Of all classes, simulated ones last: ``float32[N, C + simulated]``."""
        found: Tensor = self.head(embedding[:, :EXTENDED])
        return found

    def embed(self, rows: Tensor) -> Tensor:
        """Of standardised statistics, ``float32[N, 1099]``."""
        place = nn.functional.pad(self.projection(rows), (0, 1))
        return torch.cat([place, (self.leeway * self.as_written(rows)).sqrt()], dim=1)

    def as_written(self, rows: Tensor) -> Tensor:
        """Probability that nothing happened to the image since, ``float32[N, 1]``, from standardised statistics."""
        return torch.sigmoid(-self.handled(rows))

    def standardised(self, statistics: Tensor) -> Tensor:
        """In units of their spread, clipped at the config's ``constants.clip``."""
        return ((statistics - self.centre) / self.spread).clamp(-self.clip, self.clip)


def fit(
    config: BlockSpectraConfig,
    net: nn.Module,
    folder: ImageFolder,
    progress: Callable[[int, int], None],
) -> None:
    """Fit all there is: standardisation, discriminant, class means, and where others may be.

    Raises:
        BadConfig: fewer images than it takes to say how statistics vary.
    """
    assert isinstance(net, BlockSpectraNet)
    require_enough(folder)
    total = config.simulated + 1
    device = net.centre.device
    handle, draws = degradation(0), np.random.default_rng(config.seed)

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        copies = np.stack([handle(image, draws) for image in images.cpu().numpy()])
        return net.statistics(images), net.statistics(torch.from_numpy(copies).to(device))

    raw = [torch.from_numpy(found).to(device) for found in in_batches(both, folder, device)]
    progress(1, total)
    with torch.no_grad():
        net.centre.copy_(raw[0].mean(dim=0))
        net.spread.copy_(raw[0].std(dim=0) + 1e-3)
    own = _Pairs(*(net.standardised(rows).cpu().numpy() for rows in raw))
    places = np.flatnonzero(folder.among(config.real)[folder.labels])[: config.simulated_images]
    photographs = folder.pixels(places)
    made = simulate_once(
        photographs, config.simulated, config.simulated_steps, config.seed, lambda done, _: progress(done + 1, total)
    )
    simulated = [
        _Pairs(*in_batches(lambda x: tuple(net.standardised(rows) for rows in both(x)), images, device))
        for images in made
    ]
    known = Statistics.of(own.written, folder.labels, len(folder.classes))
    every = np.stack([*known.means, *(pairs.written.mean(axis=0, dtype=np.float64) for pairs in simulated)])
    covariance = known.covariance(config.shrinkage)
    constants = config.constants
    changes = _handling(whitening(covariance), own, simulated, constants.short_change)
    turn = whitening(covariance + config.handling * changes)
    middle = every.mean(axis=0)
    means = (every - middle) @ turn
    counts = np.array([*known.counts, *(len(pairs.written) for pairs in simulated)])
    others = _others(constants, means, counts)
    root, inverse_root = _roots(constants)
    matrix = others.times(root, turn)
    with torch.no_grad():
        net.photographs.copy_(torch.from_numpy(folder.among(config.real)))
        net.means.copy_(torch.from_numpy(means))
        net.counts.copy_(torch.from_numpy(counts))
        net.projection.weight.copy_(torch.from_numpy(matrix.T))
        net.projection.bias.copy_(torch.from_numpy(-middle @ matrix))
        net.head.weight.copy_(torch.from_numpy(others.times(inverse_root, means)))
        net.head.bias.copy_(torch.from_numpy(-(means**2).sum(axis=1) / 2))
    if config.handled_epochs:
        _tell_handled(net.handled, [own, *simulated], turn, config)
        with torch.no_grad():
            library = _templates(constants, others, means[: len(known.means)])
            net.leeway.copy_(_leeway(constants, net, own, library))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Standardised statistics of images, ``float32[N, 1099]``, and of a handled copy of each."""

    written: Floats
    copies: Floats


def _handling(turn: Floats64, own: _Pairs, simulated: Sequence[_Pairs], short: float) -> Floats64:
    """Second moment of what handling changes, ``float64[1099, 1099]``; known classes and simulated ones count alike.

    How large a change is does not matter, only where it leads, or strong blur would drown all else: each is brought to
    a root mean square of 1 in units of the scatter within classes, which ``turn`` whitens.
    """
    found: list[Floats64] = []
    for group in ([own], simulated):
        if group:
            changes = np.concatenate([pairs.copies - pairs.written for pairs in group]).astype(np.float64)
            length = np.sqrt(np.mean((changes @ turn) ** 2, axis=1, keepdims=True)) + short
            changes /= length
            found.append(changes.T @ changes / len(changes))
    return sum(found[1:], found[0]) / len(found)


def _tell_handled(net: Handled, groups: Sequence[_Pairs], turn: Floats64, config: BlockSpectraConfig) -> None:
    """Teach ``net`` to tell copies from what they are of; statistics are whitened by ``turn`` for it."""
    rows = torch.from_numpy(np.concatenate([part for pairs in groups for part in (pairs.written, pairs.copies)]))
    handled = torch.cat([torch.arange(2.0).repeat_interleave(len(pairs.written)) for pairs in groups])
    middle, scale = rows.mean(dim=0), torch.from_numpy(turn).float() / 3
    constants = config.constants.detector
    divisor = constants.members * constants.temperature
    rows = (rows - middle) @ scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        judges = [_judge(rows, handled, config.handled_epochs, constants) for _ in range(constants.members)]
    weights = torch.cat([hidden.weight for hidden, _ in judges]) @ scale.T
    with torch.no_grad():
        net.hidden.weight.copy_(weights)
        net.hidden.bias.copy_(torch.cat([hidden.bias for hidden, _ in judges]) - weights @ middle)
        net.out.weight.copy_(torch.cat([out.weight for _, out in judges], dim=1) / divisor)
        net.out.bias.copy_(torch.cat([out.bias for _, out in judges]).sum() / divisor)


def _judge(rows: Tensor, handled: Tensor, epochs: int, constants: DetectorConstants) -> tuple[nn.Linear, nn.Linear]:
    """Both layers of a network that has learnt which rows are ``handled``."""
    hidden, out = nn.Linear(EXTENDED, constants.hidden_units), nn.Linear(constants.hidden_units, 1)
    nn.init.zeros_(out.weight)  # where there is little to learn from, no image looks more handled than another
    net = nn.Sequential(nn.Dropout(0.3), hidden, nn.ReLU(), nn.Dropout(0.3), out)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    steps = math.ceil(len(rows) / constants.batch) * epochs
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (constants.batch,))
        loss = nn.functional.binary_cross_entropy_with_logits(net(rows[chosen])[:, 0], handled[chosen])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        rate.step()
    return hidden, out


def _leeway(constants: BlockSpectraConstants, net: BlockSpectraNet, own: _Pairs, library: Tensor) -> Tensor:
    """What handled training images may lie farther from the nearest template, for the network as it is without."""
    library = library.to(net.centre.device).double()
    found = []
    for part in (own.written, own.copies):
        rows = torch.from_numpy(part).to(net.centre.device)
        nearest = torch.cdist(net.embed(rows).double(), library).square().amin(dim=1)
        found.append((nearest, 1 - net.as_written(rows)[:, 0].double()))
    (written, _), (copies, doubt) = found
    needed = (copies - torch.quantile(written, constants.pristine_inside)) / doubt
    return torch.quantile(needed, constants.degraded_inside).clamp(min=0)


def require_enough(folder: ImageFolder) -> None:
    """Say that a fit is possible.

    Raises:
        BadConfig: it is not.
    """
    if len(folder) < 2 * len(folder.classes):
        raise BadConfig(f"{folder.root}: {len(folder)} images are too few for {len(folder.classes)} classes")


def templates(config: BlockSpectraConfig, weights: Mapping[str, Tensor], labels: int) -> Tensor:
    """Templates of the classes that training knew, ``float32[C, 1101]``."""
    means, counts = _means(weights)
    return _templates(config.constants, _others(config.constants, means, counts), means[:labels])


def template_for_new_class(config: BlockSpectraConfig, weights: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
    """Template ``float32[1101]`` of a class that training did not know, from embeddings ``float32[n, 1101]``.

    The mean is drawn towards those of known and simulated classes: where few are known, the latter say most.
    """
    constants = config.constants
    means, counts = _means(weights)
    others = _others(constants, means, counts)
    _, inverse_root = _roots(constants)
    mean = others.times(inverse_root, embeddings[:, :EXTENDED].double().mean(dim=0).numpy())
    prior = Prior.of(means, counts, constants.new_class_off_plane)
    return torch.from_numpy(_template(constants, others, prior.mean(mean, len(embeddings))))


def _means(weights: Mapping[str, Tensor]) -> tuple[Floats64, Numbers]:
    return weights["means"].double().numpy(), weights["counts"].numpy()


def _others(constants: BlockSpectraConstants, means: Floats64, counts: Numbers) -> Prior:
    """Where unknown generators may be, about the mean of ``means``, which is 0."""
    return Prior.of(means, counts, constants.off_plane, constants.unknown_variance)


_OfVariance = Callable[[Floats64], Floats64]


def _roots(constants: BlockSpectraConstants) -> tuple[_OfVariance, _OfVariance]:
    """``A^1/2`` and ``A^-1/2`` as functions of the variance; classes that do not differ leave a little of it."""

    def root(variance: Floats64) -> Floats64:
        variance = variance.clip(min=constants.least_variance)
        return np.sqrt(variance / (1 + variance))

    return root, lambda variance: 1 / root(variance)


def _templates(constants: BlockSpectraConstants, others: Prior, means: Floats64) -> Tensor:
    return torch.from_numpy(np.stack([_template(constants, others, mean) for mean in means]))


def _template(constants: BlockSpectraConstants, others: Prior, mean: Floats64) -> Floats:
    """``float32[1101]``; a class that lies too far out for the level is drawn in until it does not."""
    least, level = constants.least_variance, constants.level
    evidence = float(mean @ others.times(lambda variance: 1 / variance.clip(min=least), mean))
    volume = np.log1p(others.variances).sum() + (len(mean) - len(others.variances)) * math.log1p(others.elsewhere)
    room = level**2 - float(volume)
    drawn = min(1.0, math.sqrt(room / max(evidence, 1e-9)))
    left = math.sqrt(max(0.0, room - drawn**2 * evidence))
    _, inverse_root = _roots(constants)
    return np.append(others.times(inverse_root, drawn * mean), [left, 0]).astype(np.float32)


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


def _by_place(residual: Tensor) -> Tensor:
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


def _summary(config: BlockSpectraConfig) -> str:
    return f"{EXTENDED} block-spectral statistics, LDA, {config.simulated} simulated generators"


SYSTEM: Final = System(
    source="ours",
    config=BlockSpectraConfig,
    summary=_summary,
    network=BlockSpectraNet,
    fit=fit,
    templates=templates,
    template_for_new_class=template_for_new_class,
)
