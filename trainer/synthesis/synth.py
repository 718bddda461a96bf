"""Training data from photographs alone: real patches, and what small autoencoders make of the same patches.

Every class shows the same content at the same place, written by the same encoder: file ``i`` of every sub-folder is
the same patch. Only a decoder's traces tell the classes apart (and its loss of detail, which the report states).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.store import whole_directory
from trainer.arrays import Pixels
from trainer.choices import MAX_SEED
from trainer.data.output import check_free
from trainer.synthesis.autoencoders import PATCH, UPSAMPLINGS, Upsampling, reproduce, train_autoencoder
from trainer.synthesis.photographs import SPLITS, Patches, Photograph, Split, cut_patches, split_photographs
from trainer.versions import installed_versions

MARGIN = 2 * PATCH
"""Pixels around a patch that are cut off again: padding would frame every generated image. A multiple of ``PATCH``, so
that an image's grid starts where its generator's does."""


class SynthConfig(BaseModel):
    """Settings of a training set; all are written to ``synth.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=64, ge=32, le=512, multiple_of=PATCH)
    train: int = Field(default=450, ge=1)
    """Number of training images of each class."""
    calib: int = Field(default=100, ge=1)
    test: int = Field(default=60, ge=1)
    shrink: float = Field(default=1.75, ge=1, le=16)
    """Photographs are made so many times smaller first. Not 2: it would put JPEG's grid of 8 pixels on the generators'
    grid of 4."""
    steps: int = Field(default=200, ge=2)
    """Training steps of each autoencoder."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    def count(self, split: Split) -> int:
        """Number of images of each class in a split."""
        return {"train": self.train, "calib": self.calib, "test": self.test}[split]


class Generator(BaseModel):
    """A trained autoencoder."""

    model_config = ConfigDict(frozen=True)

    upsampling: Upsampling
    mean_absolute_error: dict[Split, float]
    """Mean absolute difference of its images and the real ones in grey levels; it bounds how visible traces are."""


class SynthReport(BaseModel):
    """Content of ``synth.json``."""

    model_config = ConfigDict(frozen=True)

    config: SynthConfig
    photographs: dict[Split, dict[str, str]]
    """Name -> sha256 of the file."""
    images: dict[Split, int]
    """Number of images of each class in each split."""
    generators: tuple[Generator, ...]
    versions: dict[str, str]


def synthesise(
    out: Path,
    real: Path | None,
    config: SynthConfig,
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> SynthReport:
    """Write ``out/{train,calib,test}/{real,deconv,nearest,bilinear,shuffle}/*.png`` and ``out/synth.json``.

    ``out`` appears when it is complete. The same config, photographs and machine give the same pixels.

    Args:
        out: the folder to write.
        real: a folder of photographs; None for those that come with scikit-image and scikit-learn.
        config: number and size of images, and the training of the generators.
        force: replace what is at ``out``.
        progress: called with the current activity, steps done and their total.

    Raises:
        OutputExists, OutputUnwritable: see ``check_free``.
        DataMissing, TooFewPhotographs: see ``trainer.synthesis.photographs``.
    """
    check_free(out, force=force)
    photographs = split_photographs(real, config.seed)
    patches = {split: _cut(photographs[split], config, split) for split in SPLITS}

    with whole_directory(out) as staging:
        for split in SPLITS:
            _write(staging / split / "real", patches[split], patches[split].pixels)
        generators = []
        for number, upsampling in enumerate(UPSAMPLINGS):

            def step(done: int, error: float, name: str = upsampling) -> None:
                progress(f"{name}: error {error:.1f} grey levels", done, config.steps)

            seed = config.seed * len(UPSAMPLINGS) + number
            model = train_autoencoder(upsampling, patches["train"].pixels, steps=config.steps, seed=seed, progress=step)
            errors: dict[Split, float] = {}
            for split in SPLITS:
                made = keep_grey(patches[split].pixels, reproduce(model, patches[split].pixels))
                _write(staging / split / upsampling, patches[split], made)
                difference = _inner(made).astype(np.int16) - _inner(patches[split].pixels)
                errors[split] = round(float(np.abs(difference).mean()), 3)
            generators.append(Generator(upsampling=upsampling, mean_absolute_error=errors))
        report = SynthReport(
            config=config,
            photographs={split: {photo.name: photo.sha256 for photo in photographs[split]} for split in SPLITS},
            images={split: config.count(split) for split in SPLITS},
            generators=tuple(generators),
            versions=installed_versions(),
        )
        (staging / "synth.json").write_text(report.model_dump_json(indent=1) + "\n")
    return report


def keep_grey(real: Pixels, made: Pixels) -> Pixels:
    """Make images of ``made`` grey that are grey in ``real``, where colour fringes would give a decoder away."""
    grey = (real == real[..., :1]).all(axis=(1, 2, 3))
    averaged = np.repeat(made.mean(axis=3, keepdims=True).round().astype(np.uint8), 3, axis=3)
    return np.where(grey[:, None, None, None], averaged, made)


def _cut(photographs: tuple[Photograph, ...], config: SynthConfig, split: Split) -> Patches:
    seed = config.seed * len(SPLITS) + SPLITS.index(split)
    return cut_patches(photographs, config.size + 2 * MARGIN, config.shrink, config.count(split), seed)


def _inner(pixels: Pixels) -> Pixels:
    return pixels[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _write(folder: Path, patches: Patches, pixels: Pixels) -> None:
    folder.mkdir(parents=True)
    for number, (patch, image) in enumerate(zip(patches.origins, _inner(pixels), strict=True)):
        Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{number:04}-{patch.photograph}.png")
