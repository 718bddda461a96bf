"""Progress bars and lines of a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bundle.manifest import Preprocessing
from bundle.text import counted
from trainer.console import PlainConsole
from trainer.data.folder import WHERE_TOO_SMALL, ImageFolder
from trainer.training.checkpoint import Epoch
from trainer.training.config import TrainConfig
from trainer.training.device import Precision, World
from trainer.training.systems import system

NO_FIGURES: Final[dict[str, Any]] = {"speed": "", "loss": ""}
"""The columns of ``show_progress`` that a task without figures leaves empty."""


def read_folder(
    config: TrainConfig, preprocessing: Preprocessing, path: Path, split: str | None, progress: Progress
) -> ImageFolder:
    """Read a data set, and report the images that were skipped; the config limits how many may be broken."""
    with progress_of(progress, f"reading {path}") as advance:
        folder = ImageFolder.read(
            path,
            preprocessing,
            layout=config.layout,
            split=split,
            max_unreadable=config.max_unreadable,
            cache_mib=config.cache_mib,
            progress=advance,
        )
    report_skipped(folder, progress.console)
    return folder


def report_skipped(folder: ImageFolder, console: Console) -> None:
    """Print each broken image, and how many were too small."""
    warn = partial(console.print, style="yellow", soft_wrap=True, highlight=False)
    for bad in folder.unreadable:
        warn(f"skipped {folder.root / bad.path}: {bad.reason}")
    if folder.too_small:
        count, size, first = len(folder.too_small), folder.preprocessing.size, folder.root / folder.too_small[0]
        warn(f"skipped {counted(count, 'image')} smaller than {size} x {size} (first: {first}): {WHERE_TOO_SMALL}")


@contextmanager
def show_progress(console: Console, world: World) -> Iterator[Progress]:
    """Show bars in the first process and on a terminal, and nothing elsewhere."""
    quiet = console if world.first else PlainConsole(quiet=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=quiet, transient=True, disable=not quiet.is_terminal) as progress:
        yield progress


@contextmanager
def progress_of(progress: Progress, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; the callable that is yielded takes (done, total)."""
    task = progress.add_task(what, total=None, **NO_FIGURES)
    try:
        yield lambda done, total: progress.update(task, completed=done, total=total)
    finally:
        progress.remove_task(task)


def describe(config: TrainConfig, folder: ImageFolder, world: World, precision: Precision) -> str:
    """Describe a run in one line before it starts."""
    classes = ", ".join(f"{name} {count}" for name, count in zip(folder.classes, folder.counts(), strict=True))
    summary = system(config.system).summary(config)
    return (
        f"{config.system}: {summary}, {config.size} px ({config.fit}), {counted(len(folder), 'image')} ({classes}), "
        f"{world.device.type} x {world.size}, {precision.name}, seed {config.seed}"
    )


def describe_epoch(epoch: Epoch, of: int) -> str:
    """Describe a finished epoch in one line."""
    parts = ", ".join(f"{name.replace('_', '-')} {value:.4f}" for name, value in epoch.parts.items())
    line = (
        f"epoch {epoch.number:>2}/{of}  lr {epoch.lr:.2e}  loss {epoch.loss:.4f} ({parts})  "
        f"accuracy {epoch.accuracy:.3f}  {epoch.images_per_s:.0f} images/s"
    )
    return line if epoch.val_accuracy is None else f"{line}  val {epoch.val_accuracy:.3f}"
