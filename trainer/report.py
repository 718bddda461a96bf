"""What a run says to people: bars while it works, one line for what is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.checkpoint import Epoch
from trainer.config import TrainConfig
from trainer.data import ImageFolder
from trainer.device import Precision, World


def read_folder(config: TrainConfig, path: Path, progress: Progress) -> ImageFolder:
    """The images as the config wants them; what was left out is said."""
    task = progress.add_task(f"reading {path}", total=None, speed="", loss="")
    folder = ImageFolder.read(
        path,
        config.preprocessing,
        max_unreadable=config.max_unreadable,
        cache_mib=config.cache_mib,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    progress.remove_task(task)
    for bad in folder.unreadable:
        progress.console.print(f"skipped {path / bad.path}: {bad.reason}", style="yellow")
    if folder.too_small:
        progress.console.print(
            f"skipped {len(folder.too_small)} images smaller than {config.size} x {config.size} "
            f"(first: {folder.too_small[0]}); --fit resize would enlarge them",
            style="yellow",
        )
    return folder


@contextmanager
def show_progress(console: Console, world: World) -> Iterator[Progress]:
    """Bars in the first process and on a terminal, silence elsewhere."""
    quiet = console if world.first else Console(quiet=True)
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


def describe(config: TrainConfig, folder: ImageFolder, world: World, precision: Precision) -> str:
    """One line on what is about to run."""
    classes = ", ".join(f"{name} {count}" for name, count in zip(folder.classes, folder.counts(), strict=True))
    return (
        f"{config.backbone} on {config.srm} residuals of {config.size} px ({config.fit}), {len(folder)} images "
        f"({classes}), {world.device.type} x {world.size}, {precision.name}, seed {config.seed}"
    )


def describe_epoch(epoch: Epoch, of: int) -> str:
    """One line a finished epoch."""
    line = (
        f"epoch {epoch.number:>2}/{of}  lr {epoch.lr:.2e}  loss {epoch.loss:.4f} (cross-entropy "
        f"{epoch.cross_entropy:.4f}, centre {epoch.centre:.2f})  accuracy {epoch.accuracy:.3f}  "
        f"{epoch.images_per_s:.0f} images/s"
    )
    return line if epoch.val_accuracy is None else f"{line}  val {epoch.val_accuracy:.3f}"
