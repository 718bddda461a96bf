"""``genprint exporter`` and ``python -m exporter``: export, inspect.

Options and help are here; what a command needs is imported when it is called, so that help and completion are quick.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from bundle.errors import BundleError
from bundle.standard_streams import run_command
from bundle.text import printable
from exporter.errors import BadOptions, ExportError
from exporter.options import ExportOptions
from trainer.choices import TemplateMethod
from trainer.console import PlainConsole
from trainer.errors import TrainerError, first_fault

if TYPE_CHECKING:
    from bundle.store import Bundle

app = typer.Typer(
    help="Make and read model bundles.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

DEFAULTS = ExportOptions()


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Written by `genprint trainer train`.")],
    out: Annotated[Path, typer.Argument(help="Bundle directory to make; {digest} stands for its digest.")],
    data: Annotated[Path, typer.Option(help="Data set with train, calib and (only reported) test.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle in verdicts; default genprint-SYSTEM.")] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="Generator that training did not see, with images in train; may be repeated."),
    ] = None,
    template: Annotated[
        TemplateMethod | None,
        typer.Option(
            help="Class mean, one random image (S1), or the system's own. Default: own, or mean where it has none."
        ),
    ] = DEFAULTS.template,
    calib_split: Annotated[Literal["calib", "val"], typer.Option(help="Split to calibrate on.")] = DEFAULTS.calib_split,
    calibrate_degraded: Annotated[
        bool | None,
        typer.Option(
            "--calibrate-degraded/--calibrate-pristine",
            help="Calibrate on degraded copies (JPEG, resized, ...) as well; default: where training has such copies.",
        ),
    ] = DEFAULTS.calibrate_degraded,
    alpha: Annotated[float, typer.Option(help="Templates reject p-values up to this.")] = DEFAULTS.alpha,
    error_target: Annotated[float, typer.Option(help="Error each threshold allows.")] = DEFAULTS.error_target,
    tolerance: Annotated[float, typer.Option(help="Largest PyTorch/ONNX difference.")] = DEFAULTS.tolerance,
    seed: Annotated[int, typer.Option(help="Chooses the image of --template one.")] = DEFAULTS.seed,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Turn a checkpoint into a bundle for the worker."""
    with _one_line_errors():
        options = _options(
            name=name,
            add=tuple(add or ()),
            template=template,
            calib_split=calib_split,
            calibrate_degraded=calibrate_degraded,
            alpha=alpha,
            error_target=error_target,
            tolerance=tolerance,
            seed=seed,
        )
        bundle = _exported(checkpoint, data, out, options, force=force)
    _show(bundle)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="The manifest, with the digest.")] = False,
) -> None:
    """Verify a bundle byte for byte and show what is in it."""
    from bundle.store import load_bundle

    with _one_line_errors():
        loaded = load_bundle(bundle)
    if as_json:
        document = loaded.manifest.model_dump_json(indent=1)
        sys.stdout.write(f'{{"digest": "{loaded.digest}", "manifest": {document}}}\n')
    else:
        _show(loaded)


def _exported(checkpoint: Path, data: Path, out: Path, options: ExportOptions, *, force: bool) -> "Bundle":
    """Export with a progress bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading the libraries")
        from exporter.export import STEPS, export
        from exporter.source import from_checkpoint
        from trainer.training.checkpoint import load_checkpoint
        from trainer.training.report import report_skipped

        bar.update(task, description="reading the checkpoint", total=STEPS)
        return export(
            from_checkpoint(load_checkpoint(checkpoint)),
            data,
            out,
            options,
            force=force,
            progress=lambda step: bar.update(task, description=step, advance=1),
            report=lambda folder: report_skipped(folder, bar.console),
        )


def _options(**values: object) -> ExportOptions:
    try:
        return ExportOptions.model_validate(values)
    except ValidationError as error:
        key, fault = first_fault(error)
        raise BadOptions(f"--{key.replace('_', '-')}: {fault}") from error


def _show(bundle: "Bundle") -> None:
    from rich.table import Column, Table

    manifest = bundle.manifest
    console = PlainConsole()
    # In a narrow terminal a digest is folded, never cut: people copy it.
    facts = Table("bundle", Column(printable(bundle.path), overflow="fold"))
    facts.add_row("name, version", f"{manifest.name} {manifest.version}")
    facts.add_row("digest", bundle.digest)
    for model in manifest.models:
        view = model.preprocessing.views[0]
        fit = (
            f"{view.resize.mode} resize, {view.crop.mode} crop"
            if view.resize.mode != "none"
            else f"{view.crop.mode} crop"
        )
        facts.add_row(f"model {model.name}", f"{model.file}, {model.precision}, opset {model.opset}")
        facts.add_row("views", f"{len(model.preprocessing.views)} of {model.preprocessing.size} px ({fit})")
    facts.add_row(
        "PyTorch to ONNX", f"logit {manifest.parity.logit_error:.2g}, embedding {manifest.parity.embedding_error:.2g}"
    )
    facts.add_row("decoder", manifest.decoder)
    high, low = manifest.thresholds.high, manifest.thresholds.low
    facts.add_row("generated from", f"{high.threshold:.4f} (false positives {high.observed:.2%} of {high.count})")
    facts.add_row("real below", f"{low.threshold:.4f} (false negatives {low.observed:.2%} of {low.count})")
    for name, found in manifest.evaluation.items():
        auroc = "no AUROC (one kind only)" if found.auroc is None else f"AUROC {found.auroc:.4f}"
        facts.add_row(f"on {name}", f"top-1 {found.top1_by_template:.4f}, {auroc}, {found.images} images")
    console.print(facts)
    labels = Table("label", "kind", "templates", "calibration images")
    for index, name in enumerate(bundle.templates.labels):
        kind = next((label.kind for label in manifest.labels if label.name == name), "")
        count = int((bundle.templates.label_of == index).sum())
        labels.add_row(name, kind, str(count), str(len(bundle.templates.calibration[index])))
    console.print(labels)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on stderr and exit status 2."""
    try:
        yield
    except (ExportError, TrainerError, BundleError, OSError) as error:
        sys.stderr.write(f"genprint exporter: {printable(' '.join(str(error).split()))}\n")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    run_command("genprint exporter", app)
