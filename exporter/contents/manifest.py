"""The files of a bundle, and the manifest that declares them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from bundle.manifest import Calibration, Evaluation, Label, Manifest, Parity, ProbeSpec, TemplateSpec, Thresholds
from bundle.preprocess import decoder_version
from bundle.probe import Probe
from bundle.store import sha256
from bundle.templates import TemplateLibrary
from exporter.contents.card import model_card
from exporter.onnx.graph import Graph
from exporter.source import ExportSource

CARD_FILE: Final = "MODEL_CARD.md"


@dataclass(frozen=True, eq=False)
class Contents:
    """All parts of a bundle, before they are files.

    Attributes:
        labels: the source's, and those that were added.
        library: templates with their calibration distances.
        alpha: templates reject images whose p-value is not above it.
        evaluation: name of a split -> figures.
        made_by: choices of this export, which the manifest keeps beside what the source says of its training.
    """

    graph: Graph
    labels: tuple[Label, ...]
    library: TemplateLibrary
    alpha: float
    calibration: Calibration
    thresholds: Thresholds
    probe: Probe
    parity: Parity
    evaluation: Mapping[str, Evaluation]
    made_by: Mapping[str, Any]


def bundle_files(name: str, source: ExportSource, contents: Contents) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the bytes of every file that it declares.

    Args:
        name: of the bundle; its version is the time.
        source: what was exported.
        contents: what was made of it.
    """
    files = {
        contents.graph.model.file: contents.graph.data,
        "templates.npz": contents.library.to_bytes(),
        "probe/expected.npz": contents.probe.to_bytes(),
        **contents.probe.images,
    }
    made_at = datetime.now(UTC)
    declared = _manifest(name, made_at, source, contents, files)
    files[CARD_FILE] = model_card(declared, contents.library).encode()
    return declared.model_copy(update={"files": {**declared.files, CARD_FILE: sha256(files[CARD_FILE])}}), files


def _manifest(
    name: str, made_at: datetime, source: ExportSource, contents: Contents, files: Mapping[str, bytes]
) -> Manifest:
    return Manifest(
        name=name,
        version=made_at.strftime("%Y%m%d.%H%M%S"),
        created_at=made_at.isoformat(timespec="seconds"),
        models=(contents.graph.model,),
        labels=contents.labels,
        templates=TemplateSpec(
            embedder=contents.graph.model.name,
            preprocessing_digest=source.preprocessing.digest,
            l2_normalised=source.l2_normalised,
            dimension=contents.library.vectors.shape[1],
            alpha=contents.alpha,
        ),
        calibration=contents.calibration,
        thresholds=contents.thresholds,
        probe=ProbeSpec(images=tuple(contents.probe.images)),
        files={file: sha256(data) for file, data in files.items()},
        parity=contents.parity,
        decoder=decoder_version(),
        versions={
            **source.versions,
            **{package: version(package) for package in ("onnx", "onnxruntime-gpu", "onnxscript")},
        },
        training={**source.training, **contents.made_by},
        evaluation=dict(contents.evaluation),
    )
