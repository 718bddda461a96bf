"""Fakes to train on, made of real images alone by AutoGAN (Zhang et al.) or deep image priors (S3, A.4)."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Crop, Preprocessing, View
from trainer.arrays import Pixels
from trainer.data.entries import REAL, Extent
from trainer.experiments.corpus import CorpusImage, spread
from trainer.experiments.study import Study, load_views
from trainer.synthesis.autoencoders import reproduce
from trainer.synthesis.autogan import GanConfig, GanUpsampling, train_simulator
from trainer.synthesis.deep_image_prior import PriorConfig, reconstruct


class Simulation(BaseModel):
    """The settings of a simulator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["autogan", "deep_image_prior"]
    upsampling: GanUpsampling = "transposed"
    """The decoder of AutoGAN."""
    images: int | None = Field(default=None, ge=1)
    """Photographs to use; None for all. Each deep image prior is a network of its own, fitted for minutes."""
    side: int = Field(default=256, ge=16)
    """Side of their central squares, in pixels."""
    options: dict[str, Any] = {}
    """Settings of ``GanConfig`` or ``PriorConfig``."""


Folder = dict[str, tuple[CorpusImage, ...]]


def simulate(study: Study, photographs: Sequence[CorpusImage], how: Simulation) -> tuple[Folder, Folder]:
    """Photographs and fakes made of them, equally many: if a prior has six snapshots, each photograph comes six times.

    Returns:
        Training images, and validation images: those of an eighth of the photographs.
    """
    chosen = spread(photographs, how.images)
    inputs = {
        "what": f"{len(chosen)} photographs by {how.method}",
        "how": how.model_dump(mode="json"),
        "images": study.corpus.digest(chosen),
    }

    def make(out: Path) -> None:
        cut = Preprocessing(views=(View(crop=Crop(mode="centre", size=how.side)),))
        real = np.concatenate(list(load_views(chosen, cut)))
        _write(out, _autogan(real, how) if how.method == "autogan" else _priors(real, how))

    path = study.steps.file("simulate", inputs, "tar", make)
    with tarfile.open(path, "r:") as tar:
        extents = [Extent(path, member.offset_data, member.size) for member in tar]
    fakes = tuple(CorpusImage(extent, "train", how.method, "", generated=True) for extent in extents)
    times = len(fakes) // len(chosen)
    classes = {REAL: tuple(image for image in chosen for _ in range(times)), how.method: fakes}
    watched = times * max(1, len(chosen) // 8)
    train = {label: images[:-watched] for label, images in classes.items()}
    return train, {label: images[-watched:] for label, images in classes.items()}


def _autogan(real: Pixels, how: Simulation) -> Pixels:
    simulator = train_simulator(how.upsampling, real, GanConfig.model_validate(how.options), seed=0)
    return reproduce(simulator, real)


def _priors(real: Pixels, how: Simulation) -> Pixels:
    config = PriorConfig.model_validate(how.options)
    return np.stack([made for seed, image in enumerate(real) for made in reconstruct(image, config, seed=seed)])


def _write(out: Path, made: Pixels) -> None:
    with tarfile.open(out, "w") as tar:
        for number, pixels in enumerate(made):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            member = tarfile.TarInfo(f"{number:06}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
