"""Training data of real images alone: the images, and what AutoGAN or deep image priors make of them, as fakes.

The folders are those that ``trainer train`` takes: ``real``, and one of fakes for each way of making them. File ``i``
of every folder shows the same image, written by the same encoder.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.errors import ImageError
from bundle.manifest import Crop, Preprocessing, View
from bundle.preprocess import read_views
from bundle.store import whole_directory
from trainer.arrays import Pixels
from trainer.choices import MAX_SEED, SimulatorKind
from trainer.data.layouts import Layout, list_images
from trainer.data.output import check_free
from trainer.errors import BadConfig, DataMissing
from trainer.synthesis.autoencoders import reproduce
from trainer.synthesis.autogan import GAN_UPSAMPLINGS, GanConfig, train_simulator
from trainer.synthesis.deep_image_prior import PriorConfig, reconstruct
from trainer.synthesis.synth import keep_grey
from trainer.versions import installed_versions

KINDS: Final[dict[SimulatorKind, type[GanConfig] | type[PriorConfig]]] = {"autogan": GanConfig, "dip": PriorConfig}
REPORT: Final = "simulate.json"

ReportProgress = Callable[[str, int, int], None]


class SimulateConfig(BaseModel):
    """Settings of a simulation; all are written to ``simulate.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Annotated[GanConfig | PriorConfig, Field(discriminator="kind")]
    size: int = Field(default=256, ge=32, le=1024, multiple_of=4)
    """Side in pixels of the centre that is cut from each image, as stored."""
    images: int | None = Field(default=None, ge=1)
    """Number of real images, which are drawn; None takes all."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class SimulateReport(BaseModel):
    """Content of ``simulate.json``."""

    model_config = ConfigDict(frozen=True)

    config: SimulateConfig
    real: tuple[str, ...]
    """Names of the real images that were used."""
    left_out: tuple[str, ...]
    """Names of images that are unreadable, or smaller than ``size``."""
    fakes: dict[str, int]
    """Number of images in each folder of fakes."""
    mean_absolute_error: dict[str, float]
    """Mean absolute difference of fakes and reals in grey levels, by folder; a bound on how visible traces are."""
    versions: dict[str, str]


def simulate(
    data: Path,
    out: Path,
    config: SimulateConfig,
    *,
    real: Sequence[str] = ("real",),
    layout: Layout | None = None,
    split: str | None = None,
    force: bool = False,
    progress: ReportProgress = lambda *_: None,
) -> SimulateReport:
    """Write ``out/real/*.png``, ``out/NAME/*.png`` for each kind of fake, and ``out/simulate.json``.

    ``out`` appears when it is complete. The same config, images and machine give the same pixels.

    Args:
        data: a data set in any layout; only its real images are read.
        out: the folder to write.
        config: the simulator, and the number and size of images.
        real: classes of the real images.
        layout: layout of ``data``; None recognises it.
        split: the split to read, where images are in splits.
        force: replace what is at ``out``.
        progress: called with the current activity, steps done and their total.

    Raises:
        OutputExists, OutputUnwritable: see ``check_free``.
        DataMissing: no real image can be used.
        BadConfig: the network cannot take images of that size.
        DataMalformed, SplitUnknown: see ``layouts.list_images``.
        RealLabelMissing: ``real`` names a class that does not exist.
    """
    check_free(out, force=force)
    if isinstance(config.how, PriorConfig) and config.size % (2 << config.how.levels):
        raise BadConfig(
            f"size: {config.how.levels} levels need a multiple of {2 << config.how.levels}, got {config.size}"
        )
    names, pixels, left_out = _read(data, config, real, layout, split, progress)
    match config.how:
        case GanConfig():
            made = _autogan(pixels, config, config.how, progress)
        case PriorConfig():
            made = _dip(pixels, config, config.how, progress)
    folders = {"real": dict.fromkeys(next(iter(made.values())), pixels), **made}

    report = SimulateReport(
        config=config,
        real=names,
        left_out=left_out,
        fakes={folder: sum(map(len, variants.values())) for folder, variants in made.items()},
        mean_absolute_error={
            folder: round(float(np.mean([np.abs(v.astype(np.int16) - pixels).mean() for v in variants.values()])), 3)
            for folder, variants in made.items()
        },
        versions=installed_versions(),
    )
    with whole_directory(out) as staging:
        for folder, variants in folders.items():
            (staging / folder).mkdir(parents=True)
            for variant, images in variants.items():
                for number, image in enumerate(images):
                    Image.fromarray(image).save(staging / folder / f"{number:06}{variant}.png")
        (staging / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
    return report


_Made = dict[str, dict[str, Pixels]]
"""Folder -> suffix of its files' stems -> ``uint8[N, size, size, 3]``, in the order of the reals."""


def _autogan(pixels: Pixels, config: SimulateConfig, how: GanConfig, progress: ReportProgress) -> _Made:
    made: _Made = {}
    for number, upsampling in enumerate(GAN_UPSAMPLINGS):

        def step(done: int, error: float, name: str = upsampling) -> None:
            progress(f"{name}: error {error:.1f} grey levels", done, how.steps)

        seed = config.seed * len(GAN_UPSAMPLINGS) + number
        simulator = train_simulator(upsampling, pixels, how, seed=seed, progress=step)
        made[f"autogan-{upsampling}"] = {"": keep_grey(pixels, reproduce(simulator, pixels, how.batch))}
    return made


def _dip(pixels: Pixels, config: SimulateConfig, how: PriorConfig, progress: ReportProgress) -> _Made:
    """Reconstruct each image at every snapshot; reals are repeated as often, which balances the classes as S3 does."""
    total = len(pixels) * len(how.rates) * how.steps
    found = []
    for number, image in enumerate(pixels):

        def step(done: int, number: int = number) -> None:
            progress(f"image {number + 1}/{len(pixels)}", total // len(pixels) * number + done, total)

        found.append(reconstruct(image, how, seed=config.seed * len(pixels) + number, progress=step))
    stages = zip(how.snapshots, zip(*found, strict=True), strict=True)
    return {"dip": {f"-{steps}": keep_grey(pixels, np.stack(images)) for steps, images in stages}}


def _read(
    data: Path,
    config: SimulateConfig,
    real: Sequence[str],
    layout: Layout | None,
    split: str | None,
    progress: ReportProgress,
) -> tuple[tuple[str, ...], Pixels, tuple[str, ...]]:
    """Names and pixels of the real images, and names of those that were left out."""
    listing = list_images(data, layout)
    listing.check_real(real)
    entries = [entry for entry in listing.of(split) if entry.label in real]
    order = np.random.default_rng(config.seed).permutation(len(entries))
    wanted = len(entries) if config.images is None else config.images
    preprocessing = Preprocessing(views=(View(crop=Crop(mode="centre", size=config.size)),))
    taken: dict[int, Pixels] = {}
    left_out: list[str] = []
    for index in order.tolist():
        if len(taken) == wanted:
            break
        try:
            views = read_views(entries[index].extent.read(), preprocessing)
        except (ImageError, OSError):
            views = np.empty((0, config.size, config.size, 3), np.uint8)
        if len(views) == 0:
            left_out.append(entries[index].path.as_posix())
        else:
            taken[index] = views[0]
        progress("reading images", len(taken), min(wanted, len(entries)))
    if not taken:
        raise DataMissing(
            f"{data}: no image of {', '.join(real)} can be used ({len(left_out)} unreadable or smaller than "
            f"{config.size} x {config.size}); name the real images' class with --real"
        )
    chosen = sorted(taken)
    names = tuple(entries[index].path.as_posix() for index in chosen)
    return names, np.stack([taken[index] for index in chosen]), tuple(sorted(left_out))
