"""``python -m trainer``: make training data, train, evaluate."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from trainer import loop
from trainer import synth as synthesis
from trainer.checkpoint import load_checkpoint
from trainer.config import read_config
from trainer.data import ImageFolder
from trainer.errors import BadConfig, OutputExists, TrainerError
from trainer.evaluate import How, evaluate, show
from trainer.photographs import SPLITS

app = typer.Typer(
    help="Make training data, train a detector, evaluate it.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    real: Annotated[Path | None, typer.Option(help="Photographs; default: those in scikit-image and -learn.")] = None,
    size: Annotated[int, typer.Option(help="Side of an image, in pixels.")] = 64,
    train: Annotated[int, typer.Option(help="Images a class to train on.")] = 450,
    calib: Annotated[int, typer.Option(help="Images a class to calibrate on.")] = 100,
    test: Annotated[int, typer.Option(help="Images a class to test on.")] = 60,
    shrink: Annotated[float, typer.Option(help="Make photographs so many times smaller first.")] = 1.75,
    steps: Annotated[int, typer.Option(help="Training steps of each autoencoder.")] = 200,
    seed: Annotated[int, typer.Option()] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Make a training set from photographs alone: real patches and what four autoencoders make of them."""
    values = {
        "size": size,
        "train": train,
        "calib": calib,
        "test": test,
        "shrink": shrink,
        "steps": steps,
        "seed": seed,
    }
    with one_line_errors():
        try:
            config = synthesis.SynthConfig.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadConfig(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error
        columns = (*Progress.get_default_columns(), TimeElapsedColumn())
        with Progress(*columns, console=stderr(), transient=True, disable=not stderr().is_terminal) as bars:
            task = bars.add_task("cutting patches", total=None)

            def report(what: str, done: int, total: int) -> None:
                bars.update(task, description=what, completed=done, total=total)

            made = synthesis.synthesise(out, real, config, force=force, progress=report)
    table = Table("split", "photographs", "images a class", title=str(out))
    for split in SPLITS:
        table.add_row(split, ", ".join(made.photographs[split]), str(made.images[split]))
    errors = Table("generator", *(f"error on {split}" for split in SPLITS), title="mean absolute error, grey levels")
    for generator in made.generators:
        errors.add_row(generator.upsampling, *(f"{generator.mean_absolute_error[split]:.2f}" for split in SPLITS))
    stdout().print(table, errors)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with one sub-folder a class.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    recipe: Annotated[Path | None, typer.Option(help="A TOML file of settings; options go over it.")] = None,
    val: Annotated[Path | None, typer.Option(help="Other images of the same classes, to watch.")] = None,
    real: Annotated[list[str] | None, typer.Option(help="Sub-folder of photographs; may be repeated.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")] = None,
    fit: Annotated[str | None, typer.Option(help="resize (whole image) or crop (centre, as stored).")] = None,
    backbone: Annotated[str | None, typer.Option(help="resnet18 or resnet50.")] = None,
    srm: Annotated[str | None, typer.Option(help="rgbn3 or srm30.")] = None,
    binary: Annotated[bool | None, typer.Option("--binary", help="One output: generated or not.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip", help="Mirror half of the images.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first epoch.")] = None,
    lr_decay: Annotated[float | None, typer.Option(help="Its factor after every epoch.")] = None,
    centre_weight: Annotated[float | None, typer.Option(help="Of the centre loss.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode, if the cache is too small.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint at OUT.")] = False,
) -> None:
    """Train on any folder with one sub-folder a class; under torchrun, on all its processes."""
    overrides: dict[str, Any] = {
        "real": tuple(real) if real else None,
        "size": size,
        "fit": fit,
        "backbone": backbone,
        "srm": srm,
        "binary": binary,
        "flip": flip,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "lr_decay": lr_decay,
        "centre_weight": centre_weight,
        "workers": workers,
        "seed": seed,
    }
    with one_line_errors():
        config = read_config(recipe, overrides)
        if out.exists() and not force:
            raise OutputExists(f"{out}: exists; choose another name or say --force")
        loop.train(config, data, out, val, stderr())
    if is_first_process():
        stdout().print(f"wrote {out}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="What `train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Images that it was not trained on, one sub-folder a class.")],
    templates: Annotated[Path, typer.Option(help="Where templates are taken from: the training folder.")],
    template: Annotated[Literal["one", "mean"], typer.Option(help="One random image a class, or their mean.")] = "one",
    seed: Annotated[int, typer.Option(help="Which image becomes the template.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Top-1 by template, AUROC and AP of the binary decision, confusion matrix."""
    how: How = template
    with one_line_errors():
        loaded = load_checkpoint(checkpoint)
        with stderr().status("reading and embedding images"):
            test = ImageFolder.read(data, loaded.config.preprocessing)
            known = ImageFolder.read(templates, loaded.config.preprocessing)
            evaluation = evaluate(loaded, test, known, how, seed)
    if json:
        sys.stdout.write(evaluation.model_dump_json(indent=1) + "\n")
    else:
        show(evaluation, stdout())


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on stderr and status 2; the first process speaks for all."""
    try:
        yield
    except TrainerError as error:
        if is_first_process():
            sys.stderr.write(f"trainer: {error}\n")
        raise typer.Exit(2) from error


def is_first_process() -> bool:
    """Among those of torchrun."""
    return os.environ.get("RANK", "0") == "0"


def stdout() -> Console:
    """Results."""
    return Console()


def stderr() -> Console:
    """Progress."""
    return Console(stderr=True)


if __name__ == "__main__":
    app()
