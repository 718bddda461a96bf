"""``python -m trainer``: make training data, train, evaluate."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from trainer.data.folder import ImageFolder
from trainer.data.layouts import Layout
from trainer.errors import BadConfig, OutputExists, SplitUnknown, TrainerError
from trainer.evaluation.attribute import attribute
from trainer.evaluation.attribute import show as show_attribution
from trainer.evaluation.evaluate import evaluate, show
from trainer.evaluation.templates import TemplateMethod, default_template_method
from trainer.experiments import reproduce as reproduction
from trainer.experiments.recipe import ScaleName
from trainer.inspection.examine import inspect
from trainer.inspection.reencode import Fit, Format, Reencoding, reencode
from trainer.inspection.show import show as show_inspection
from trainer.models.few_shot import FewShotConfig, few_shot
from trainer.synthesis import simulate as simulation
from trainer.synthesis import synth as synthesis
from trainer.synthesis.photographs import SPLITS
from trainer.training import loop
from trainer.training.checkpoint import load_checkpoint
from trainer.training.config import TrainConfig
from trainer.training.report import report_skipped
from trainer.training.systems import SYSTEMS, parse_settings, read_config

app = typer.Typer(
    help="Make training data, train a detector, evaluate it.", no_args_is_help=True, pretty_exceptions_enable=False
)

FEW_SHOT = FewShotConfig()
TEMPLATE = "One random image a class, the mean of all, or what training itself made; default: that, where it does,"

Options = TypeVar("Options", bound=BaseModel)


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
        config = checked(synthesis.SynthConfig, values)
        with step_bar("cutting patches") as report:
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
    system: Annotated[str | None, typer.Option(help=f"{', '.join(SYSTEMS)}; s1 where nothing says so.")] = None,
    val: Annotated[Path | None, typer.Option(help="Other images of the same classes, to watch.")] = None,
    real: Annotated[list[str] | None, typer.Option(help="Sub-folder of photographs; may be repeated.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")] = None,
    fit: Annotated[str | None, typer.Option(help="resize (whole image) or crop (centre, as stored).")] = None,
    binary: Annotated[bool | None, typer.Option("--binary", help="One output: generated or not.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip", help="Mirror half of the images.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first epoch.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode and augment.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: any other setting of the system; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint at OUT.")] = False,
) -> None:
    """Train on any folder with one sub-folder a class; under torchrun, on all its processes."""
    overrides: dict[str, Any] = {
        "system": system,
        "real": tuple(real) if real else None,
        "size": size,
        "fit": fit,
        "binary": binary,
        "flip": flip,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "workers": workers,
        "seed": seed,
    }
    with one_line_errors():
        config = read_config(recipe, overrides | parse_settings(more or []))
        if out.exists() and not force:
            raise OutputExists(f"{out}: exists; choose another name or say --force")
        loop.train(config, data, out, val, stderr())
    if is_first_process():
        stdout().print(f"wrote {out}")


@app.command("few-shot")
def few_shot_command(
    checkpoint: Annotated[Path, typer.Argument(help="Of S1, written by `train` or by `few-shot`.")],
    data: Annotated[Path, typer.Argument(help="A folder with the known classes, to replay, and the new ones.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    new: Annotated[
        list[str] | None, typer.Option(help="Class to learn; may be repeated. Default: those it does not know.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Images of each new class, drawn; default all.")] = None,
    replay: Annotated[int, typer.Option(help="Images of each known class, drawn.")] = FEW_SHOT.replay,
    triplets: Annotated[
        Literal["all", "new"], typer.Option(help="All of a batch, or those with an image of a new class.")
    ] = FEW_SHOT.triplets,
    epochs: Annotated[int, typer.Option(help="0 adds the class without training.")] = FEW_SHOT.epochs,
    batch: Annotated[int, typer.Option(help="Images a step.")] = FEW_SHOT.batch,
    lr: Annotated[float, typer.Option(help="Learning rate of the first epoch.")] = FEW_SHOT.lr,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = FEW_SHOT.seed,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint at OUT.")] = False,
) -> None:
    """Teach a checkpoint new classes by a few images of each: S1's triplet fine-tuning."""
    values = {
        "shots": shots,
        "replay": replay,
        "triplets": triplets,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "seed": seed,
    }
    with one_line_errors():
        config = checked(FewShotConfig, values)
        if out.exists() and not force:
            raise OutputExists(f"{out}: exists; choose another name or say --force")
        few_shot(load_checkpoint(checkpoint), data, out, new or [], config, stderr())
    stdout().print(f"wrote {out}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="What `train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Images that it was not trained on, one sub-folder a class.")],
    templates: Annotated[Path, typer.Option(help="Where templates are taken from: the training folder.")],
    split: Annotated[str | None, typer.Option(help="Which of DATA, where it comes in splits.")] = None,
    templates_split: Annotated[str | None, typer.Option(help="Likewise, of --templates.")] = None,
    template: Annotated[TemplateMethod | None, typer.Option(help=f"{TEMPLATE} or else one.")] = None,
    seed: Annotated[int, typer.Option(help="Which image becomes the template.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Top-1 by template, AUROC and AP of the binary decision, confusion matrix."""
    with one_line_errors():
        loaded = load_checkpoint(checkpoint)
        console = stderr()
        with console.status("reading and embedding images"):
            test = read(loaded.config, data, split, "--split", console)
            known = read(loaded.config, templates, templates_split, "--templates-split", console)
            evaluation = evaluate(loaded, test, known, template or default_template_method(loaded, "one"), seed)
    if json:
        sys.stdout.write(evaluation.model_dump_json(indent=1) + "\n")
    else:
        show(evaluation, stdout())


@app.command("attribute")
def attribute_command(
    checkpoint: Annotated[Path, typer.Argument(help="What `train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Images of any families, one sub-folder each; or of one, without.")],
    templates: Annotated[Path, typer.Option(help="Where templates are taken from: the training folder.")],
    calibration: Annotated[Path, typer.Option(help="Other images of the same classes: how far their own ones lie.")],
    split: Annotated[str | None, typer.Option(help="Which of DATA, where it comes in splits.")] = None,
    templates_split: Annotated[str | None, typer.Option(help="Likewise, of --templates.")] = None,
    calibration_split: Annotated[str | None, typer.Option(help="Likewise, of --calibration.")] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", help="FOLDER=LABEL: the family of a folder of another name; may be repeated."),
    ] = None,
    template: Annotated[TemplateMethod | None, typer.Option(help=f"{TEMPLATE} or else mean.")] = None,
    calibrate_degraded: Annotated[
        bool | None,
        typer.Option(
            "--calibrate-degraded/--calibrate-pristine",
            help="Calibrate on degraded copies (JPEG, resized, ...) as well; default: where training has such copies.",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Share of known images that may be unknown.", min=0, max=1)] = 0.05,
    seed: Annotated[int, typer.Option(help="Which image becomes the template.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Which family made each image of any folder, or that none of the known did."""
    with one_line_errors():
        loaded = load_checkpoint(checkpoint)
        labels = reproduction.parse_pairs(mapped or [], "--map", "LABEL")
        console = stderr()
        with console.status("reading and embedding images"):
            found = attribute(
                loaded,
                read(loaded.config, data, split, "--split", console, least=1),
                read(loaded.config, templates, templates_split, "--templates-split", console),
                read(loaded.config, calibration, calibration_split, "--calibration-split", console),
                template or default_template_method(loaded),
                alpha,
                seed,
                calibrate_degraded=calibrate_degraded,
                mapped=labels,
            )
    if json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
    else:
        show_attribution(found, stdout())


@app.command("inspect")
def inspect_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard.")],
    layout: Annotated[Layout | None, typer.Option(help="How it is laid out; default: recognised.")] = None,
    real: Annotated[list[str] | None, typer.Option(help="Class of photographs; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What is in a data set: counts, containers, duplicates, and whether metadata alone tell the classes apart."""
    with one_line_errors(), progress_bar("reading images") as report:
        inspection = inspect(data, layout, real or ["real"], report)
    if json:
        sys.stdout.write(inspection.model_dump_json(indent=1) + "\n")
    else:
        show_inspection(inspection, stdout())


@app.command("simulate")
def simulate_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard; only real images are read.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: `real` beside folders of fakes.")],
    kind: Annotated[simulation.SimulatorKind, typer.Option(help="autogan, or dip (deep image prior).")],
    real: Annotated[list[str] | None, typer.Option(help="Class of photographs; may be repeated.")] = None,
    size: Annotated[int, typer.Option(help="Side of the centre taken of each image, in pixels.")] = 256,
    images: Annotated[int | None, typer.Option(help="Real images to take, drawn; default all.")] = None,
    layout: Annotated[Layout | None, typer.Option(help="How it is laid out; default: recognised.")] = None,
    split: Annotated[str | None, typer.Option(help="Which images, where they are in splits.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: width, steps and others; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Make fakes to train on from real images alone: what AutoGAN or deep image priors make of them."""
    with one_line_errors(), step_bar("reading images") as report:
        how = checked(simulation.KINDS[kind], parse_settings(more or []))
        config = checked(simulation.SimulateConfig, {"how": how, "size": size, "images": images, "seed": seed})
        made = simulation.simulate(
            data, out, config, real=real or ["real"], layout=layout, split=split, force=force, progress=report
        )
    if made.left_out:
        stderr().print(f"left out {len(made.left_out)} images, first {made.left_out[0]}", style="yellow")
    table = Table("fakes", "images", "error, grey levels", title=f"{out}: of {len(made.real)} real images")
    for name, count in made.fakes.items():
        table.add_row(name, str(count), f"{made.mean_absolute_error[name]:.2f}")
    stdout().print(table)


@app.command("reencode")
def reencode_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard.")],
    out: Annotated[Path, typer.Argument(help="The folder to write, in the same layout.")],
    to: Annotated[Format, typer.Option("--format", help="Of all images.")],
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP.")] = 95,
    size: Annotated[int | None, typer.Option(help="Side of a square, in pixels; default: sizes stay.")] = None,
    fit: Annotated[Fit, typer.Option(help="crop (centre, as stored; smaller ones are left out) or resize.")] = "crop",
    layout: Annotated[Layout | None, typer.Option(help="How it is laid out; default: recognised.")] = None,
    max_unreadable: Annotated[int, typer.Option(help="Broken images that are left out before it stops.")] = 20,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Write a data set anew with containers alike: one format, quality and, if wanted, size; no tags."""
    values = {"format": to, "quality": quality, "size": size, "fit": fit}
    with one_line_errors(), progress_bar("encoding images") as report:
        reencoding = checked(Reencoding, values)
        done = reencode(
            data, out, reencoding, layout=layout, max_unreadable=max_unreadable, force=force, progress=report
        )
    for left_out, why in ((done.too_small, f"smaller than {size} x {size}"), (done.unreadable, "unreadable")):
        if left_out:
            stderr().print(f"left out {len(left_out)} images, {why}; first {left_out[0]}", style="yellow")
    stdout().print(f"wrote {done.written} images to {out}")


def read(
    config: TrainConfig, path: Path, split: str | None, option: str, console: Console, least: int = 2
) -> ImageFolder:
    """Images as a trained network is served them; what was left out is said.

    Args:
        config: of the training.
        path: a data set of any layout.
        split: which of its images, or None.
        option: what chooses the split.
        console: where it is said.
        least: so many classes.

    Raises:
        SplitUnknown: names the option.
        DataError: see ``ImageFolder.read``.
    """
    try:
        folder = ImageFolder.read(
            path, config.preprocessing, split=split, least=least, max_unreadable=config.max_unreadable
        )
    except SplitUnknown as error:
        raise SplitUnknown(f"{option}: {error}") from error
    report_skipped(folder, console)
    return folder


def checked(kind: type[Options], values: dict[str, Any]) -> Options:
    """The options as one value.

    Raises:
        BadConfig: names the first that cannot be.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadConfig(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """For something that tells how many of how many are done; silent where stderr is no terminal."""
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=not stderr().is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def step_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """For something that tells what it is doing as well."""
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=not stderr().is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total)


@app.command("reproduce")
def reproduce_command(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments, TOML files of one's own, or `all`.")] = None,
    data: Annotated[Path | None, typer.Option(help="The corpus, in splits; smoke makes one if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Results, and what is kept to go on from.")] = Path("build/reproduce"),
    scale: Annotated[ScaleName, typer.Option(help="How much of everything.")] = "smoke",
    test: Annotated[Path | None, typer.Option(help="Test on these images in place of the corpus's own.")] = None,
    real: Annotated[list[str] | None, typer.Option(help="The corpus's photographs; may be repeated.")] = None,
    stand_ins: Annotated[
        list[str] | None, typer.Option("--map", help="NAME=FOLDER: what stands for a published generator.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--only", help="A row of the tables, ours for instance; may be repeated.")
    ] = None,
    pretrained: Annotated[
        list[str] | None, typer.Option(help="NETWORK=FILE: ImageNet's weights, resnet50=a.pth for instance.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing over from an earlier run.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say which experiments there are.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Repeat published experiments: published and measured figures side by side, and one HTML report."""
    with one_line_errors():
        if listed or not names:
            stdout().print(reproduction.listing())
            return
        weights = reproduction.parse_pairs(pretrained or [], "--pretrained", "FILE")
        sections = reproduction.reproduce(
            names,
            data,
            out,
            scale,
            test=test,
            real=real or ["real"],
            stand_ins=reproduction.parse_pairs(stand_ins or [], "--map", "FOLDER"),
            rows=rows or (),
            pretrained={network: Path(file) for network, file in weights.items()},
            fresh=fresh,
            console=stderr(),
        )
    if json:
        sys.stdout.write(reproduction.as_json(sections) + "\n")
    else:
        reproduction.show_all(sections, stdout())
        stdout().print(f"wrote {out / reproduction.REPORT}")


@app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(help="What `reproduce` wrote.")],
    json: Annotated[bool, typer.Option("--json", help="All its figures, for machines.")] = False,
) -> None:
    """Write the HTML report of all experiments in OUT anew, without running any."""
    with one_line_errors():
        path = reproduction.write_report(out)
        sections = reproduction.read_sections(out)
    if json:
        sys.stdout.write(reproduction.as_json(sections) + "\n")
    else:
        stdout().print(f"wrote {path}")


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
