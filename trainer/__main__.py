"""``python -m trainer``: make training data, train, evaluate.

Libraries that take seconds to load (PyTorch, scikit-learn, ...) are imported by the commands that need them, so that
``--help``, shell completion and mistyped options answer at once.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from bundle.standard_streams import run_command
from bundle.text import counted, printable
from trainer.choices import MAX_SEED, SYSTEMS, Fit, ImageFormat, ScaleName, SimulatorKind, TemplateMethod
from trainer.console import PlainConsole
from trainer.data.layouts import Layout
from trainer.errors import BadConfig, SplitUnknown, TrainerError, first_fault

if TYPE_CHECKING:
    from pydantic import BaseModel

    from trainer.data.folder import ImageFolder
    from trainer.training.config import TrainConfig

app = typer.Typer(
    help="Make training data, train a detector, evaluate it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PROGRAM = "genprint trainer"
"""What error lines begin with."""
TEMPLATE = (
    "Template of each class: one (a random image of it), mean (of all its images) or own (made by training itself). "
    "Default: own where the system makes templates, otherwise"
)
SEED = typer.Option(min=0, max=MAX_SEED, help="Seed of all random choices.")
TEMPLATE_SEED = typer.Option(min=0, max=MAX_SEED, help="Seed of the choice of random templates.")
JSON = "Print JSON, for programs."
LAYOUT = "How DATA is laid out; recognised if not given."
REAL = "Class of real photographs; may be repeated. Default: real."

Options = TypeVar("Options", bound="BaseModel")


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    real: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs; default: those that scikit-image and scikit-learn install."),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of each image, in pixels.")] = 64,
    train: Annotated[int, typer.Option(help="Training images of each class.")] = 450,
    calib: Annotated[int, typer.Option(help="Calibration images of each class.")] = 100,
    test: Annotated[int, typer.Option(help="Test images of each class.")] = 60,
    shrink: Annotated[float, typer.Option(help="Make photographs smaller by this factor first.")] = 1.75,
    steps: Annotated[int, typer.Option(help="Training steps of each autoencoder.")] = 200,
    seed: Annotated[int, SEED] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Make a small training set from photographs alone: real patches, and fakes by four small autoencoders."""
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
        from trainer.synthesis.photographs import SPLITS
        from trainer.synthesis.synth import SynthConfig, synthesise

        config = checked(SynthConfig, values)
        with step_bar("cutting patches") as report:
            made = synthesise(out, real, config, force=force, progress=report)
    table = Table("split", "photographs", "images a class", title=str(out))
    for split in SPLITS:
        table.add_row(split, ", ".join(made.photographs[split]), str(made.images[split]))
    errors = Table("generator", *(f"error on {split}" for split in SPLITS), title="mean absolute error, grey levels")
    for generator in made.generators:
        errors.add_row(generator.upsampling, *(f"{generator.mean_absolute_error[split]:.2f}" for split in SPLITS))
    stdout().print(table, errors)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with one sub-folder for each class.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    recipe: Annotated[Path | None, typer.Option(help="A TOML file of settings; options override it.")] = None,
    system: Annotated[
        str | None, typer.Option(help=f"The detector to train: {', '.join(SYSTEMS)}. Default: s1.")
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(help="Other images of the same classes, whose accuracy is reported after each epoch."),
    ] = None,
    real: Annotated[
        list[str] | None, typer.Option(help="Sub-folder of real photographs; may be repeated. Default: real.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")] = None,
    fit: Annotated[
        Fit | None, typer.Option(help="resize (the whole image) or crop (the centre, with pixels as stored).")
    ] = None,
    binary: Annotated[
        bool | None, typer.Option("--binary", help="Decide between real and generated alone, with a single output.")
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip", help="Mirror half of the training images.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a training step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first epoch.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode and augment images.")] = None,
    seed: Annotated[int | None, SEED] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: any other setting of the system; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint at OUT.")] = False,
) -> None:
    """Train a detector on a folder with one sub-folder for each class; under torchrun, on several processes."""
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
        from trainer.data.output import check_new_file
        from trainer.training import loop
        from trainer.training.systems import parse_settings, read_config

        config = read_config(recipe, overrides | parse_settings(more or []))
        check_new_file(out, force=force)
        loop.train(config, data, out, val, stderr())
    if is_first_process():
        stdout().print(f"wrote {out}", soft_wrap=True)


@app.command("few-shot")
def few_shot_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of system s1, written by `train` or `few-shot`.")],
    data: Annotated[Path, typer.Argument(help="A folder with the known classes, to replay, and the new ones.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    new: Annotated[
        list[str] | None,
        typer.Option(help="Class to learn; may be repeated. Default: all that the checkpoint does not know."),
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Images of each new class, drawn at random; default: all.")] = None,
    replay: Annotated[int, typer.Option(help="Images of each known class, drawn at random.")] = 100,
    triplets: Annotated[
        Literal["all", "new"],
        typer.Option(help="Triplets to learn from: all of a batch, or those with an image of a new class."),
    ] = "all",
    epochs: Annotated[int, typer.Option(help="Passes over the images; 0 adds the class without training.")] = 10,
    batch: Annotated[int, typer.Option(help="Images in a training step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of the first epoch.")] = 1e-3,
    seed: Annotated[int, SEED] = 0,
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
        from trainer.data.output import check_new_file
        from trainer.models.few_shot import FewShotConfig, few_shot
        from trainer.training.checkpoint import load_checkpoint

        config = checked(FewShotConfig, values)
        check_new_file(out, force=force)
        few_shot(load_checkpoint(checkpoint), data, out, new or [], config, stderr())
    stdout().print(f"wrote {out}", soft_wrap=True)


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint written by `train`.")],
    data: Annotated[Path, typer.Argument(help="Images that it was not trained on, one sub-folder for each class.")],
    templates: Annotated[Path, typer.Option(help="Images to make templates of: the training folder.")],
    split: Annotated[str | None, typer.Option(help="Which split of DATA to test, if it has several.")] = None,
    templates_split: Annotated[
        str | None, typer.Option(help="Which split of --templates to take, if it has several.")
    ] = None,
    template: Annotated[TemplateMethod | None, typer.Option(help=f"{TEMPLATE} one.")] = None,
    seed: Annotated[int, TEMPLATE_SEED] = 0,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Test a checkpoint: accuracy by nearest template, real against generated (AUROC, AP), and a confusion matrix."""
    with one_line_errors():
        from trainer.evaluation.evaluate import evaluate, show
        from trainer.evaluation.templates import default_template_method
        from trainer.training.checkpoint import load_checkpoint

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
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint written by `train`.")],
    data: Annotated[
        Path, typer.Argument(help="Images of known or unknown origin, in sub-folders or in the folder itself.")
    ],
    templates: Annotated[Path, typer.Option(help="Images to make templates of: the training folder.")],
    calibration: Annotated[
        Path, typer.Option(help="Other images of the same classes; they say how far from its template a class's lie.")
    ],
    split: Annotated[str | None, typer.Option(help="Which split of DATA to attribute, if it has several.")] = None,
    templates_split: Annotated[
        str | None, typer.Option(help="Which split of --templates to take, if it has several.")
    ] = None,
    calibration_split: Annotated[
        str | None, typer.Option(help="Which split of --calibration to take, if it has several.")
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", help="FOLDER=LABEL: the label of a sub-folder of another name; may be repeated."),
    ] = None,
    template: Annotated[TemplateMethod | None, typer.Option(help=f"{TEMPLATE} mean.")] = None,
    calibrate_degraded: Annotated[
        bool | None,
        typer.Option(
            "--calibrate-degraded/--calibrate-pristine",
            help="Calibrate on degraded copies (JPEG, resized, ...) as well, or on the images as stored alone. "
            "Default: with copies where the system is trained on such copies.",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Share of images of known classes that may be called unknown.", min=0, max=1)
    ] = 0.05,
    seed: Annotated[int, TEMPLATE_SEED] = 0,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Name the generator of each image, or call it unknown if no known class explains it."""
    with one_line_errors():
        from trainer.evaluation.attribute import attribute, show
        from trainer.evaluation.templates import default_template_method
        from trainer.training.checkpoint import load_checkpoint

        loaded = load_checkpoint(checkpoint)
        labels = parse_pairs(mapped or [], "--map", "FOLDER=LABEL")
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
        show(found, stdout())


@app.command("inspect")
def inspect_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard.")],
    layout: Annotated[Layout | None, typer.Option(help=LAYOUT)] = None,
    real: Annotated[list[str] | None, typer.Option(help=REAL)] = None,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Look into a data set: counts, formats, duplicates, and whether metadata alone tell the classes apart."""
    with one_line_errors(), progress_bar("reading images") as report:
        from trainer.inspection.examine import inspect
        from trainer.inspection.show import show

        inspection = inspect(data, layout, real or ["real"], report)
    if json:
        sys.stdout.write(inspection.model_dump_json(indent=1) + "\n")
    else:
        show(inspection, stdout())


@app.command("simulate")
def simulate_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard; only real images are read.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: `real` beside folders of fakes.")],
    kind: Annotated[SimulatorKind, typer.Option(help="What makes the fakes: autogan, or dip (deep image prior).")],
    real: Annotated[list[str] | None, typer.Option(help=REAL)] = None,
    size: Annotated[int, typer.Option(help="Side of the centre to take of each image, in pixels.")] = 256,
    images: Annotated[int | None, typer.Option(help="Real images to take, drawn at random; default: all.")] = None,
    layout: Annotated[Layout | None, typer.Option(help=LAYOUT)] = None,
    split: Annotated[str | None, typer.Option(help="Which split of DATA to read, if it has several.")] = None,
    seed: Annotated[int, SEED] = 0,
    more: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: any other setting of the simulator (width, steps); may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Make fakes to train on from real images alone, by AutoGAN or by deep image priors."""
    with one_line_errors(), step_bar("reading images") as report:
        from trainer.synthesis import simulate as simulation
        from trainer.training.systems import parse_settings

        how = checked(simulation.KINDS[kind], parse_settings(more or []))
        config = checked(simulation.SimulateConfig, {"how": how, "size": size, "images": images, "seed": seed})
        made = simulation.simulate(
            data, out, config, real=real or ["real"], layout=layout, split=split, force=force, progress=report
        )
    if made.left_out:
        stderr().print(
            f"left out {counted(len(made.left_out), 'image')}, first {made.left_out[0]}", style="yellow", soft_wrap=True
        )
    table = Table("fakes", "images", "error, grey levels", title=f"{out}: of {counted(len(made.real), 'real image')}")
    for name, count in made.fakes.items():
        table.add_row(name, str(count), f"{made.mean_absolute_error[name]:.2f}")
    stdout().print(table)


@app.command("reencode")
def reencode_command(
    data: Annotated[Path, typer.Argument(help="A folder, a list (CSV, JSON) or a shard.")],
    out: Annotated[Path, typer.Argument(help="The folder to write, in the same layout.")],
    to: Annotated[ImageFormat, typer.Option("--format", help="The format of all images.")],
    quality: Annotated[int, typer.Option(help="Quality of JPEG and WebP, 1 to 100.")] = 95,
    size: Annotated[int | None, typer.Option(help="Side of a square, in pixels; default: sizes stay.")] = None,
    fit: Annotated[
        Fit, typer.Option(help="With --size: crop (the centre; smaller images are left out) or resize.")
    ] = "crop",
    layout: Annotated[Layout | None, typer.Option(help=LAYOUT)] = None,
    max_unreadable: Annotated[int, typer.Option(help="Stop at more unreadable images than this.")] = 20,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
) -> None:
    """Copy a data set with all files alike: one format, quality and, if wanted, size; no metadata."""
    values = {"format": to, "quality": quality, "size": size, "fit": fit}
    with one_line_errors(), progress_bar("encoding images") as report:
        from trainer.inspection.reencode import Reencoding, reencode

        reencoding = checked(Reencoding, values)
        done = reencode(
            data, out, reencoding, layout=layout, max_unreadable=max_unreadable, force=force, progress=report
        )
    for left_out, why in ((done.too_small, f"smaller than {size} x {size}"), (done.unreadable, "unreadable")):
        if left_out:
            stderr().print(
                f"left out {counted(len(left_out), 'image')}, {why}; first {left_out[0]}",
                style="yellow",
                soft_wrap=True,
            )
    stdout().print(f"wrote {counted(done.written, 'image')} to {out}", soft_wrap=True)


@app.command("reproduce")
def reproduce_command(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments (see --list), recipe files, or `all`.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set, in splits; scale smoke makes a small one if not given.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of results, and of finished steps that a later run takes over.")
    ] = Path("build/reproduce"),
    scale: Annotated[
        ScaleName, typer.Option(help="How many images, seeds and epochs: smoke (minutes), mini or full.")
    ] = "smoke",
    test: Annotated[Path | None, typer.Option(help="Test on the images of this data set instead.")] = None,
    real: Annotated[list[str] | None, typer.Option(help=REAL)] = None,
    stand_ins: Annotated[
        list[str] | None,
        typer.Option("--map", help="NAME=FOLDER: the class of DATA that stands for a published generator."),
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--only", help="Run only this row of the tables; may be repeated.")
    ] = None,
    pretrained: Annotated[
        list[str] | None, typer.Option(help="NETWORK=FILE: ImageNet's weights, as in resnet50=a.pth; may be repeated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Work out all steps anew.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the experiments and exit.")] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Repeat published experiments: published and measured figures side by side, and one HTML report."""
    with one_line_errors():
        from trainer.experiments import reproduce as reproduction

        if listed or not names:
            stdout().print(reproduction.listing())
            return
        weights = parse_pairs(pretrained or [], "--pretrained", "NETWORK=FILE")
        sections = reproduction.reproduce(
            names,
            data,
            out,
            scale,
            test=test,
            real=real or ["real"],
            stand_ins=parse_pairs(stand_ins or [], "--map", "NAME=FOLDER"),
            rows=rows or (),
            pretrained={network: Path(file) for network, file in weights.items()},
            fresh=fresh,
            console=stderr(),
        )
    if json:
        sys.stdout.write(reproduction.as_json(sections) + "\n")
    else:
        reproduction.show_all(sections, stdout())
        stdout().print(f"wrote {out / reproduction.REPORT}", soft_wrap=True)


@app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(help="The folder that `reproduce` wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Print all its figures as JSON, for programs.")] = False,
) -> None:
    """Write the HTML report of all experiments in OUT again, without running any."""
    with one_line_errors():
        from trainer.experiments import reproduce as reproduction

        path = reproduction.write_report(out)
        sections = reproduction.read_sections(out)
    if json:
        sys.stdout.write(reproduction.as_json(sections) + "\n")
    else:
        stdout().print(f"wrote {path}", soft_wrap=True)


def read(
    config: "TrainConfig", path: Path, split: str | None, option: str, console: PlainConsole, least: int = 2
) -> "ImageFolder":
    """Read images as a trained network is served them, and report those that are skipped.

    Args:
        config: the configuration that the network was trained with.
        path: a data set of any layout.
        split: which of its images, or None.
        option: the option that chooses the split, for errors.
        console: where skipped images are reported.
        least: the fewest classes that will do.

    Raises:
        SplitUnknown: names the option.
        DataError: see ``ImageFolder.read``.
    """
    from trainer.data.folder import ImageFolder
    from trainer.training.report import report_skipped

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
        BadConfig: names the first option whose value is refused.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        key, fault = first_fault(error)
        raise BadConfig(f"--{key}: {fault}") from error


def parse_pairs(pairs: Sequence[str], option: str, form: str) -> dict[str, str]:
    """Name -> value of each ``NAME=VALUE``.

    Args:
        pairs: as given.
        option: the option that they were given to, for errors: ``--map``.
        form: what is expected, for errors: ``NAME=FOLDER``.

    Raises:
        BadConfig: one has not that form.
    """
    found = {}
    for pair in pairs:
        name, equals, given = pair.partition("=")
        if not (name and equals and given):
            raise BadConfig(f"{option} {pair}: expected {form}")
        found[name] = given
    return found


@contextmanager
def step_bar(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, silent where that is no terminal; it takes the step, the number done and their total.

    Args:
        first: the step that is shown until another is reported.
    """
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=not stderr().is_terminal) as bars:
        task = bars.add_task(first, total=None)
        yield lambda step, done, total: bars.update(task, description=step, completed=done, total=total)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A ``step_bar`` with a single step."""
    with step_bar(what) as report:
        yield lambda done, total: report(what, done, total)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error that the user can mend into one line on stderr and exit status 2, and Ctrl-C into one and 130.

    Under torchrun only the first process writes it.
    """
    try:
        yield
    except TrainerError as error:
        _fail(str(error), error)
    except KeyboardInterrupt as error:
        _fail("stopped", error, 128 + signal.SIGINT)
    except OSError as error:  # what no check has foreseen: a disk that fills up, a folder that disappears
        reason = error.strerror or str(error)
        _fail(reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}", error)


def _fail(message: str, error: BaseException, status: int = 2) -> NoReturn:
    if is_first_process():
        sys.stderr.write(f"{PROGRAM}: {printable(message)}\n")
    raise typer.Exit(status) from error


def _warn(message: str) -> None:
    stderr().print(message, style="yellow", soft_wrap=True)


def is_first_process() -> bool:
    """Whether this is the first of torchrun's processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def stdout() -> PlainConsole:
    """A console for results."""
    return PlainConsole()


def stderr() -> PlainConsole:
    """A console for progress."""
    return PlainConsole(stderr=True)


if __name__ == "__main__":
    run_command(PROGRAM, app)
