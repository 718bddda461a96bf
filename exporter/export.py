"""Read this first: from a trained network and a data folder to a bundle.

Graph and parity, templates, calibration, thresholds, probe, evaluation, manifest and model card; written whole or not
at all. All numbers come from the graph as ONNX Runtime runs it, not from the network it was made of.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bundle.manifest import Label
from bundle.store import Bundle, check_free, load_bundle, write_bundle
from exporter.contents.calibration import choose_thresholds, fit_platt
from exporter.contents.evaluation import evaluation
from exporter.contents.manifest import Contents, bundle_files
from exporter.contents.probe import record_probe
from exporter.contents.splits import EmbeddedSplit, embedded, ids_in, read_split
from exporter.contents.templates import choose_method, make_library
from exporter.errors import BadOptions, ExportDataMissing
from exporter.onnx.graph import export_graph
from exporter.onnx.parity import check_parity
from exporter.onnx.runner import GraphOutputs, runner
from exporter.options import ExportOptions
from exporter.source import ExportSource
from trainer.data.folder import ImageFolder
from trainer.data.layouts import list_images
from trainer.data.output import check_writable
from trainer.training.embedding import embed

ReportStep = Callable[[str], None]
"""Told the name of each step as it begins."""
STEPS: Final = 8
"""How often ``export`` reports a step; once less without test images."""

MODEL_FILE: Final = "model.onnx"


def export(
    source: ExportSource,
    data: Path,
    out: Path,
    options: ExportOptions,
    *,
    force: bool,
    progress: ReportStep,
    report: Callable[[ImageFolder], None] = lambda _: None,
) -> Bundle:
    """Make a bundle and load it again, verified.

    Args:
        source: the network, and what is known of it.
        data: of any layout, with splits ``train`` (templates), ``calib`` (calibration; images the network has not seen)
            and, optionally, ``test`` (reported in the model card and nothing else).
        out: where to; ``{digest}`` stands for the bundle's digest.
        options: see there.
        force: replace what is at ``out``.
        progress: told the name of each step.
        report: told each split that was read, which knows the images that were left out.

    Raises:
        ExportError, trainer.errors.TrainerError, FileExistsError: nothing was written.
    """
    check_writable(out)  # now, not after minutes of work
    check_free(out, force=force)
    method = choose_method(source, options.template)
    labels = _with_added(source.labels, options.add)

    progress("exporting the graph")
    graph = export_graph(source.network, source.preprocessing, name=source.name, file=MODEL_FILE)
    run = runner(graph)

    progress("reading the training images")
    train = read_split(data, "train", source.preprocessing, report)
    _require_every_label(train, labels, data)
    progress("embedding the calibration images")
    calib = embedded(read_split(data, options.calib_split, source.preprocessing, report), labels, run)
    _require_both_kinds(calib, data, options.calib_split)

    progress("comparing with PyTorch")
    parity = check_parity(calib.outputs, GraphOutputs(*embed(source.network, calib.folder)), options.tolerance)

    progress("templates, calibration, thresholds")
    library = make_library(source, labels, train, lambda images: run(images).embedding, method, options.seed)
    degraded = source.calibrate_degraded if options.calibrate_degraded is None else options.calibrate_degraded
    held_out = calib.with_degraded_copies(run) if degraded else calib
    library = library.with_calibration(held_out.embeddings())
    logits, generated = held_out.known_to_detector()
    calibration = fit_platt(logits, generated)
    thresholds = choose_thresholds(logits, generated, calibration, options.error_target)

    progress("probe")
    probe = record_probe(calib, graph, run)

    evaluated: dict[str, EmbeddedSplit] = {options.calib_split: calib}
    if "test" in list_images(data).splits:
        progress("evaluating the test images")
        evaluated["test"] = embedded(read_split(data, "test", source.preprocessing, report), labels, run)

    progress("writing")
    contents = Contents(
        graph=graph,
        labels=labels,
        library=library,
        alpha=options.alpha,
        calibration=calibration,
        thresholds=thresholds,
        probe=probe,
        parity=parity,
        evaluation={name: evaluation(split, library) for name, split in evaluated.items()},
        made_by={"template": method, "calibrated_on_degraded": degraded},
    )
    manifest, files = bundle_files(options.name or f"genprint-{source.name}", source, contents)
    return load_bundle(write_bundle(out, manifest, files, force=force))


def _with_added(known: tuple[Label, ...], names: Sequence[str]) -> tuple[Label, ...]:
    """The labels, followed by generators that the detector did not learn."""
    labels = known
    for name in names:
        if name in {label.name for label in labels}:
            raise BadOptions(f"--add: there is a label {name!r} already")
        labels = (*labels, Label(id=len(labels), name=name, kind="generator", in_detector=False))
    return labels


def _require_every_label(train: ImageFolder, labels: Sequence[Label], data: Path) -> None:
    present = set(ids_in(train, labels).tolist())
    if missing := sorted(label.name for label in labels if label.id not in present):
        raise ExportDataMissing(f"{data}: train has no images of {', '.join(missing)} to make a template from")


def _require_both_kinds(calib: EmbeddedSplit, data: Path, split: str) -> None:
    _, generated = calib.known_to_detector()
    if generated.all() or not generated.any():
        raise ExportDataMissing(f"{data}: calibration needs both real and generated images in {split}")
