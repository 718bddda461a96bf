"""Read this first: from a checkpoint and a data folder to a bundle.

Graph and parity, templates, calibration, thresholds, probe, model card, manifest; written whole or not at all. All
numbers come from the graph as ONNX Runtime runs it, not from the network it was made of.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Label, Manifest, Model, Parity, ProbeSpec, TemplateSpec
from bundle.preprocess import Views, decode, decoder_version
from bundle.probe import Probe
from bundle.store import Bundle, check_free, load_bundle, sha256, write_bundle
from bundle.templates import TemplateLibrary
from exporter.contents.calibration import choose_thresholds, fit_platt
from exporter.contents.card import model_card
from exporter.errors import BadOptions, ExportDataMissing
from exporter.graph import Outputs, check_parity, export_graph, runner
from trainer.choices import TemplateMethod
from trainer.data.folder import ImageFolder, label_ids
from trainer.data.layouts import list_images
from trainer.errors import UnknownClass
from trainer.evaluation.evaluate import calibrates_on_degraded, degraded_copies
from trainer.evaluation.metrics import binary, closed_set
from trainer.evaluation.templates import default_template_method, templates_of
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import embed
from trainer.training.systems import system

Progress = Callable[[str], None]
STEPS: Final = 8
"""How often ``export`` calls its ``progress``; one time less without test images."""

MODEL_FILE = "model.onnx"
CARD_FILE = "MODEL_CARD.md"


class ExportOptions(BaseModel):
    """How a bundle is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str | None = Field(default=None, min_length=1)
    """None: ``genprint-`` and the name of the system."""
    add: tuple[str, ...] = ()
    """Generators that the checkpoint does not know, which get a template of their images in ``train``: the one that the
    system gives a new class, with ``template: own``. The detector's calibration leaves their images out."""
    template: TemplateMethod | None = None
    """``mean`` of a label's training images, ``one`` of them at random as S1 does, or the system's ``own``; None: the
    last, where there are some, or else the first."""
    calib_split: Literal["calib", "val"] = "calib"
    """What to calibrate on. Training and test images would promise too much."""
    calibrate_degraded: bool | None = None
    """Calibrate on a copy of each calibration image as well, degraded as images are on the web
    (``trainer.data.augment.degradation``); None: where the system is trained on such copies."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """A template rejects an image whose conformal p-value is not above it."""
    error_target: float = Field(default=0.01, ge=0, lt=0.5)
    """Share of errors that each threshold allows on the calibration images."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest ``|a - b| / (1 + |b|)`` between PyTorch and ONNX Runtime."""
    seed: int = Field(default=0, ge=0)
    """Chooses the image of ``template: one``."""


@dataclass(frozen=True, eq=False)
class _Split:
    folder: ImageFolder
    numbers: npt.NDArray[np.int64]
    """Labels in the checkpoint's numbering, added ones after it."""
    outputs: Outputs


def export(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    options: ExportOptions,
    *,
    force: bool,
    progress: Progress,
    report: Callable[[ImageFolder], None] = lambda _: None,
) -> Bundle:
    """Make a bundle and load it again, verified.

    Args:
        checkpoint: the network.
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
    added = _added(options.add, checkpoint)
    labels = (*checkpoint.labels, *added)
    names = tuple(label.name for label in labels)
    preprocessing = checkpoint.config.preprocessing
    kind = system(checkpoint.config.system)

    check_free(out, force=force)  # now, not after minutes of work
    progress("exporting the graph")
    detector = checkpoint.model()
    graph = export_graph(detector, preprocessing, name=checkpoint.config.system, file=MODEL_FILE)
    run = runner(graph)

    def read(split: str) -> ImageFolder:
        folder = ImageFolder.read(data, preprocessing, split=split)
        report(folder)
        return folder

    def split(name: str) -> _Split:
        folder = read(name)
        return _Split(folder, _numbers(folder, labels), run(folder))

    progress("reading the training images")
    train = read("train")
    if missing := set(names) - {names[number] for number in _numbers(train, labels)}:
        raise ExportDataMissing(f"{data}: train has no images of {', '.join(sorted(missing))} to make a template from")
    progress("embedding the calibration images")
    calib = split(options.calib_split)
    _, generated = _decided(calib, labels)
    if generated.all() or not generated.any():
        raise ExportDataMissing(f"{data}: calibration needs both real and generated images in {options.calib_split}")

    progress("comparing with PyTorch")
    expected = Outputs(*embed(detector, calib.folder))
    logit_error, embedding_error = check_parity(calib.outputs, expected, options.tolerance)

    progress("templates, calibration, thresholds")
    how = options.template or default_template_method(checkpoint)
    library = templates_of(checkpoint, train, lambda images: run(images).embedding, how, options.seed, added)
    degraded = calibrates_on_degraded(checkpoint, options.calibrate_degraded)
    seen = _with_copies(calib, run) if degraded else calib
    library = library.with_calibration(
        {name: seen.outputs.embedding[seen.numbers == i] for i, name in enumerate(names)}
    )
    logits, generated = _decided(seen, labels)
    calibration = fit_platt(logits, generated)
    thresholds = choose_thresholds(logits, generated, calibration, options.error_target)

    progress("probe")
    probe = Probe.record(_probe_images(calib, names), (graph.model,), _roles(run))

    evaluation: dict[str, dict[str, object]] = {options.calib_split: _evaluation(calib, library, labels)}
    if "test" in list_images(data).splits:
        progress("evaluating the test images")
        evaluation["test"] = _evaluation(split("test"), library, labels)

    files = {MODEL_FILE: graph.data, "templates.npz": library.to_bytes(), "probe/expected.npz": probe.to_bytes()}
    files |= probe.images

    made_at = datetime.now(UTC)

    def manifest(files: dict[str, bytes]) -> Manifest:
        return Manifest(
            name=options.name or f"genprint-{checkpoint.config.system}",
            version=made_at.strftime("%Y%m%d.%H%M%S"),
            created_at=made_at.isoformat(timespec="seconds"),
            models=(graph.model,),
            labels=labels,
            templates=TemplateSpec(
                embedder=graph.model.name,
                preprocessing_digest=preprocessing.digest,
                l2_normalised=checkpoint.config.l2_normalised,
                dimension=library.vectors.shape[1],
                alpha=options.alpha,
            ),
            calibration=calibration,
            thresholds=thresholds,
            probe=ProbeSpec(images=tuple(probe.images)),
            files={name: sha256(content) for name, content in files.items()},
            parity=Parity(
                tolerance=options.tolerance,
                logit_error=logit_error,
                embedding_error=embedding_error,
                images=len(calib.folder),
            ),
            decoder=decoder_version(),
            versions={
                **checkpoint.origin.versions,
                **{package: version(package) for package in ("onnx", "onnxruntime-gpu", "onnxscript")},
            },
            training={
                "config": checkpoint.config.model_dump(mode="json"),
                "network": kind.summary(checkpoint.config),
                "source": kind.source,
                "seed": checkpoint.seed,
                "data_fingerprint": checkpoint.fingerprint,
                "images": checkpoint.origin.images,
                "epochs": len(checkpoint.history),
                "template": how,
                "calibrated_on_degraded": degraded,
            },
            evaluation=evaluation,
        )

    progress("writing")
    files[CARD_FILE] = model_card(manifest(files), library).encode()
    return load_bundle(write_bundle(out, manifest(files), files, force=force))


def _added(names: Sequence[str], checkpoint: Checkpoint) -> tuple[Label, ...]:
    for number, name in enumerate(names):
        if name in (*(label.name for label in checkpoint.labels), *names[:number]):
            raise BadOptions(f"--add: there is a label {name!r} already")
    first = len(checkpoint.labels)
    return tuple(Label(id=first + i, name=name, kind="generator", in_detector=False) for i, name in enumerate(names))


def _numbers(folder: ImageFolder, labels: Sequence[Label]) -> npt.NDArray[np.int64]:
    try:
        return label_ids(folder, labels)
    except UnknownClass as error:
        raise UnknownClass(f"{error}; `--add NAME` gives a generator a template without training") from error


def _generated(split: _Split, labels: Sequence[Label]) -> npt.NDArray[np.bool_]:
    kinds = np.array([label.kind == "generator" for label in labels])
    return np.asarray(kinds[split.numbers], np.bool_)


def _decided(split: _Split, labels: Sequence[Label]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Logits, and which images are generated, of the labels that the detector knows."""
    known = np.array([label.in_detector for label in labels])[split.numbers]
    return split.outputs.logit[known], _generated(split, labels)[known]


def _with_copies(split: _Split, run: Callable[[Views], Outputs]) -> _Split:
    """A degraded copy of each image after them."""
    parts = [split.outputs, *map(run, degraded_copies(split.folder))]
    both = Outputs(np.concatenate([p.logit for p in parts]), np.concatenate([p.embedding for p in parts]))
    return _Split(split.folder, np.tile(split.numbers, 2), both)


def _roles(run: Callable[[Views], Outputs]) -> Callable[[Model, Views], dict[str, npt.NDArray[np.float32]]]:
    def by_role(model: Model, views: Views) -> dict[str, npt.NDArray[np.float32]]:
        assert model.file == MODEL_FILE
        found = run(views)
        return {"logit": found.logit, "embedding": found.embedding}

    return by_role


def _probe_images(calib: _Split, names: tuple[str, ...]) -> dict[str, bytes]:
    """One calibration image of each label as it is, and one in every lossy format, whose decoders may drift."""
    first = {names[number]: index for index, number in reversed(list(enumerate(calib.numbers)))}
    originals = [calib.folder.encoded(index) for _, index in sorted(first.items())]
    pictures = [decode(data) for data in originals]
    images = {
        f"probe/{i}.{picture.facts.format.lower()}": data
        for i, (picture, data) in enumerate(zip(pictures, originals, strict=True))
    }
    for suffix, options in {".jpg": {"quality": 85}, ".webp": {"quality": 85}, ".avif": {"quality": 85}}.items():
        buffer = io.BytesIO()
        pictures[0].image.save(buffer, Image.registered_extensions()[suffix], **options)
        images[f"probe/lossy{suffix}"] = buffer.getvalue()
    return images


def _evaluation(split: _Split, library: TemplateLibrary, labels: Sequence[Label]) -> dict[str, object]:
    nearest = library.distances(split.outputs.embedding).argmin(axis=1)
    closed = closed_set(split.numbers, nearest, library.labels)
    decision = binary(split.outputs.logit, _generated(split, labels))
    return {
        "images": len(split.folder),
        "data_fingerprint": split.folder.fingerprint,
        "top1_by_template": closed.top1,
        "recall": closed.recall,
        "auroc": decision.auroc if decision else None,
        "average_precision": decision.average_precision if decision else None,
    }
