"""Block spectra: classes as normal distributions in closed form, with simulated generators beside them.

A thousand statistics of an image (``block_statistics``) tell generators apart that no eye can; since they are averages
they are nearly normal, and the discriminant of normal classes (LDA with a shrunken covariance) names them. That takes
no gradient: see ``discriminant``.

What an image of an *unknown* generator looks like cannot be learnt from a few known ones: an image is far from a class
in hundreds of directions by chance alone. So generators that are drawn at random and trained for seconds on the
training photographs (``random_upsamplers``) say with the known ones where the mean of a generator may lie. The distance
to a template is the log-likelihood ratio of that class against *any* generator: Mahalanobis distance less that to the
background, as in Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection" (2021); here the
background is estimated from means of classes, not from all images. A class that is known by a few images has the
posterior mean.

JPEG, resizing or blur move statistics farther than generators do. So the fit sees one degraded copy of each training
image (``augment.degradation``). The directions in which copies lie from their originals count as a way to vary within
classes, as in within-class covariance normalisation (Hatch et al., Interspeech 2006): those directions tell less apart.
And an image that looks degraded (``degradation_detector``) is given leeway: it may lie farther from its class before it
is unknown.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from trainer.arrays import Floats, Floats64, Numbers
from trainer.choices import Fit
from trainer.data.augment import degradation
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig
from trainer.models.block_statistics import BLOCK, EXTENDED, BlockSpectra
from trainer.models.degradation_detector import DegradationDetector, DegradedPairs, DetectorConstants, train_detector
from trainer.models.discriminant import MeansPrior, Statistics, whitening
from trainer.synthesis.random_upsamplers import simulate_once
from trainer.training.config import TrainConfig
from trainer.training.detector import against_simulated
from trainer.training.embedding import in_batches
from trainer.training.systems import System


class BlockSpectraConstants(BaseModel):
    """Constants of the fit, on which scores, embeddings and templates depend.

    ``unknown_variance``, ``off_plane``, ``new_class_off_plane`` and all that concerns degraded images were chosen on
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

    fit: Fit = "crop"
    epochs: int = Field(default=0, ge=0, le=0)
    """Nothing is trained by gradients over all images: their statistics are computed once."""
    shrinkage: float | None = Field(default=0.05, ge=0, le=1)
    """Shrinkage of the covariance within classes; None takes the oracle approximating estimate."""
    degradation_variance: float = Field(default=0.5, ge=0)
    """Variance along what degradation changes, each change at length 1 a statistic, over that within classes."""
    degradation_epochs: int = Field(default=5, ge=0)
    """Epochs of each network that detects degraded images; 0 does without them, and without leeway."""
    simulated: int = Field(default=24, ge=0)
    """Random generators: they say where unknown ones may lie, and count against photographs."""
    simulated_steps: int = Field(default=200, ge=1)
    """Training steps of each random generator."""
    simulated_images: int = Field(default=350, ge=16)
    """Photographs that each random generator is given, at most."""
    constants: BlockSpectraConstants = BlockSpectraConstants()
    """Constants of the method, which need no change from data set to data set."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.size % BLOCK:
            raise ValueError(f"size must be a multiple of {BLOCK}, got {self.size}")
        if self.binary:  # generators lie on all sides of the photographs: no plane separates them
            raise ValueError("binary is no variant of this system; the scores of its classes give a logit as well")
        if self.l2_normalised:
            raise ValueError("l2_normalised is no variant of this system: length is part of its distances")
        return self


class BlockSpectraNet(nn.Module):
    """``uint8[N, H, W, 3]`` -> (scores ``float32[N, C]``, embedding ``float32[N, 1101]``).

    With x the whitened statistics about the mean of all classes, and T the covariance of unknown generators' means
    there, a class with mean m has ``-2 log N(x; m, I) / N(x; 0, I + T) = (x - m)^2 - x^T (I + T)^-1 x - log|I + T|``.
    With ``A = T (I + T)^-1`` that is ``(A^1/2 x - A^-1/2 m)^2 - m^T T^-1 m - log|I + T|``, a squared L2 distance to a
    template: the embedding is ``A^1/2 x`` and a 0, the template ``A^-1/2 m`` and what makes the sum positive. A
    pristine image adds ``leeway``, a degraded one nothing, one in doubt a part: the root of that is the last number of
    the embedding, and the template has a 0 there. The scores are LDA's at equal priors, ``x . m - |m|^2 / 2``:
    log-likelihoods but for a term that all classes share.

    An image that looks like a simulated class is no photograph, see ``against_simulated``.

    Attributes:
        centre, spread: ``float32[1099]``, mean and deviation of the statistics of the training images.
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
        self.clip = config.constants.clip
        self.statistics = BlockSpectra(extended=True)
        self.register_buffer("photographs", torch.zeros(outputs, dtype=torch.bool))
        self.register_buffer("centre", torch.zeros(EXTENDED))
        self.register_buffer("spread", torch.ones(EXTENDED))
        self.register_buffer("leeway", torch.zeros(()))
        self.register_buffer("means", torch.zeros(classes, EXTENDED))
        self.register_buffer("counts", torch.ones(classes, dtype=torch.int64))
        self.projection = nn.Linear(EXTENDED, EXTENDED)
        self.head = nn.Linear(EXTENDED, classes)
        self.degradation = DegradationDetector(config.constants.detector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and embeddings."""
        with torch.autocast(images.device.type, enabled=False):
            embedding = self.embed(self.standardised(self.statistics(images)))
            return against_simulated(self.scores(embedding), self.photographs), embedding

    def scores(self, embedding: Tensor) -> Tensor:
        """Scores of all classes, simulated ones last: ``float32[N, C + simulated]``."""
        found: Tensor = self.head(embedding[:, :EXTENDED])
        return found

    def embed(self, rows: Tensor) -> Tensor:
        """Embeddings ``float32[N, 1101]`` of standardised statistics ``float32[N, 1099]``."""
        coordinates = nn.functional.pad(self.projection(rows), (0, 1))
        return torch.cat([coordinates, (self.leeway * self.pristine(rows)).sqrt()], dim=1)

    def pristine(self, rows: Tensor) -> Tensor:
        """Probability ``float32[N, 1]`` that the image is pristine, from standardised statistics."""
        return torch.sigmoid(-self.degradation(rows))

    def standardised(self, statistics: Tensor) -> Tensor:
        """Statistics in units of their spread, clipped at ``constants.clip``."""
        return ((statistics - self.centre) / self.spread).clamp(-self.clip, self.clip)


def fit(
    config: BlockSpectraConfig,
    net: nn.Module,
    folder: ImageFolder,
    progress: Callable[[int, int], None],
) -> None:
    """Fit standardisation, discriminant, class means, where unknown means may be, and the detector of degraded images.

    Raises:
        BadConfig: there are fewer images than it takes to estimate how statistics vary.
    """
    assert isinstance(net, BlockSpectraNet)
    require_enough(folder)
    constants = config.constants
    total = config.simulated + 1
    device = net.centre.device
    degrade, rng = degradation(0), np.random.default_rng(config.seed)

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        copies = np.stack([degrade(image, rng) for image in images.cpu().numpy()])
        return net.statistics(images), net.statistics(torch.from_numpy(copies).to(device))

    raw = [torch.from_numpy(found).to(device) for found in in_batches(both, folder, device)]
    progress(1, total)
    with torch.no_grad():
        net.centre.copy_(raw[0].mean(dim=0))
        net.spread.copy_(raw[0].std(dim=0) + 1e-3)
    own = DegradedPairs(*(net.standardised(rows).cpu().numpy() for rows in raw))
    photographs = np.flatnonzero(folder.among(config.real)[folder.labels])[: config.simulated_images]
    made = simulate_once(
        folder.pixels(photographs),
        config.simulated,
        config.simulated_steps,
        config.seed,
        lambda done, _: progress(done + 1, total),
    )
    simulated = [
        DegradedPairs(*in_batches(lambda x: tuple(net.standardised(rows) for rows in both(x)), images, device))
        for images in made
    ]
    known = Statistics.of(own.pristine, folder.labels, len(folder.classes))
    every = np.stack([*known.means, *(pairs.pristine.mean(axis=0, dtype=np.float64) for pairs in simulated)])
    covariance = known.covariance(config.shrinkage)
    changes = _changes(whitening(covariance), own, simulated, constants.short_change)
    whiten = whitening(covariance + config.degradation_variance * changes)
    middle = every.mean(axis=0)
    means = (every - middle) @ whiten
    counts = np.array([*known.counts, *(len(pairs.pristine) for pairs in simulated)])
    unknown = _unknown_means(constants, means, counts)
    root, inverse_root = _roots(constants)
    matrix = unknown.times(root, whiten)
    with torch.no_grad():
        net.photographs.copy_(torch.from_numpy(folder.among(config.real)))
        net.means.copy_(torch.from_numpy(means))
        net.counts.copy_(torch.from_numpy(counts))
        net.projection.weight.copy_(torch.from_numpy(matrix.T))
        net.projection.bias.copy_(torch.from_numpy(-middle @ matrix))
        net.head.weight.copy_(torch.from_numpy(unknown.times(inverse_root, means)))
        net.head.bias.copy_(torch.from_numpy(-(means**2).sum(axis=1) / 2))
    if config.degradation_epochs:
        groups, epochs = [own, *simulated], config.degradation_epochs
        train_detector(net.degradation, groups, whiten, constants.detector, epochs=epochs, seed=config.seed)
        library = _templates(constants, unknown, means[: len(known.means)])
        with torch.no_grad():
            net.leeway.copy_(_leeway(constants, net, own, library))


def require_enough(folder: ImageFolder) -> None:
    """Check that a fit is possible.

    Raises:
        BadConfig: there are fewer images than two times the classes.
    """
    if len(folder) < 2 * len(folder.classes):
        raise BadConfig(f"{folder.root}: {len(folder)} images are too few for {len(folder.classes)} classes")


def _changes(whiten: Floats64, own: DegradedPairs, simulated: Sequence[DegradedPairs], short: float) -> Floats64:
    """Second moment of what degradation changes, ``float64[1099, 1099]``; known and simulated classes count alike.

    How large a change is does not matter, only where it leads, or strong blur would drown all else: each is brought to
    a root mean square of 1 in units of the scatter within classes, which ``whiten`` whitens.
    """
    found: list[Floats64] = []
    for group in ([own], simulated):
        if group:
            changes = np.concatenate([pairs.degraded - pairs.pristine for pairs in group]).astype(np.float64)
            length = np.sqrt(np.mean((changes @ whiten) ** 2, axis=1, keepdims=True)) + short
            changes /= length
            found.append(changes.T @ changes / len(changes))
    return sum(found[1:], found[0]) / len(found)


def _leeway(constants: BlockSpectraConstants, net: BlockSpectraNet, own: DegradedPairs, library: Tensor) -> Tensor:
    """Squared distance by which degraded training images lie farther from the nearest template than pristine ones.

    ``net`` has no leeway yet.
    """
    library = library.to(net.centre.device).double()
    found = []
    for part in (own.pristine, own.degraded):
        rows = torch.from_numpy(part).to(net.centre.device)
        nearest = torch.cdist(net.embed(rows).double(), library).square().amin(dim=1)
        found.append((nearest, 1 - net.pristine(rows)[:, 0].double()))
    (pristine, _), (degraded, doubt) = found
    needed = (degraded - torch.quantile(pristine, constants.pristine_inside)) / doubt
    return torch.quantile(needed, constants.degraded_inside).clamp(min=0)


def templates(config: BlockSpectraConfig, weights: Mapping[str, Tensor], labels: int) -> Tensor:
    """Templates of the classes that training knew, ``float32[C, 1101]``.

    Raises:
        BadConfig: see ``_template``.
    """
    means, counts = _means(weights)
    return _templates(config.constants, _unknown_means(config.constants, means, counts), means[:labels])


def template_for_new_class(config: BlockSpectraConfig, weights: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
    """Template ``float32[1101]`` of a class that training did not know, from embeddings ``float32[n, 1101]``.

    The mean is drawn towards those of known and simulated classes: where few are known, the latter say most.
    """
    constants = config.constants
    means, counts = _means(weights)
    unknown = _unknown_means(constants, means, counts)
    _, inverse_root = _roots(constants)
    mean = unknown.times(inverse_root, embeddings[:, :EXTENDED].double().mean(dim=0).numpy())
    prior = MeansPrior.of(means, counts, constants.new_class_off_plane)
    return torch.from_numpy(_template(constants, unknown, prior.mean(mean, len(embeddings))))


def _means(weights: Mapping[str, Tensor]) -> tuple[Floats64, Numbers]:
    return weights["means"].double().numpy(), weights["counts"].numpy()


def _unknown_means(constants: BlockSpectraConstants, means: Floats64, counts: Numbers) -> MeansPrior:
    """Where means of unknown generators may be, about the mean of ``means``, which is 0."""
    return MeansPrior.of(means, counts, constants.off_plane, constants.unknown_variance)


_OfVariance = Callable[[Floats64], Floats64]


def _roots(constants: BlockSpectraConstants) -> tuple[_OfVariance, _OfVariance]:
    """``A^1/2`` and ``A^-1/2`` as functions of T's variance; classes that do not differ leave a little of it."""

    def root(variance: Floats64) -> Floats64:
        variance = variance.clip(min=constants.least_variance)
        return np.sqrt(variance / (1 + variance))

    return root, lambda variance: 1 / root(variance)


def _templates(constants: BlockSpectraConstants, unknown: MeansPrior, means: Floats64) -> Tensor:
    return torch.from_numpy(np.stack([_template(constants, unknown, mean) for mean in means]))


def _template(constants: BlockSpectraConstants, unknown: MeansPrior, mean: Floats64) -> Floats:
    """``float32[1101]``; a class that lies too far out for the level is drawn in until it does not.

    Raises:
        BadConfig: the level is too low for any class.
    """
    least, level = constants.least_variance, constants.level
    evidence = float(mean @ unknown.times(lambda variance: 1 / variance.clip(min=least), mean))
    volume = np.log1p(unknown.variances).sum() + (len(mean) - len(unknown.variances)) * math.log1p(unknown.elsewhere)
    room = level**2 - float(volume)
    if room <= 0:
        raise BadConfig(f"constants.level: {level:g} is too low for these classes; set it above {volume**0.5:.0f}")
    drawn = min(1.0, math.sqrt(room / max(evidence, 1e-9)))
    left = math.sqrt(max(0.0, room - drawn**2 * evidence))
    _, inverse_root = _roots(constants)
    return np.append(unknown.times(inverse_root, drawn * mean), [left, 0]).astype(np.float32)


def _summary(config: BlockSpectraConfig) -> str:
    return f"{EXTENDED} block-spectral statistics, LDA, {config.simulated} simulated generators"


SYSTEM: Final = System(
    source="Genprint",
    config=BlockSpectraConfig,
    summary=_summary,
    network=BlockSpectraNet,
    fit=fit,
    templates=templates,
    template_for_new_class=template_for_new_class,
)
