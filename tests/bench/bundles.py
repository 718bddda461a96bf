"""Bundles to measure with: real architectures with random weights, since speed does not depend on what was learned."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from bundle.errors import BundleError
from bundle.manifest import (
    Calibration,
    Label,
    Manifest,
    OperatingPoint,
    Parity,
    ProbeSpec,
    TemplateSpec,
    Thresholds,
)
from bundle.preprocess import decoder_version
from bundle.probe import Probe
from bundle.store import Bundle, load_bundle, sha256, write_bundle
from bundle.templates import TemplateLibrary
from exporter.onnx.graph import Graph, export_graph
from exporter.onnx.runner import runner
from tests.bench.regimes import BALANCED, MODEL_BOUND, PIPELINE_BOUND, Regime

_LABELS = ("real", *(f"generator-{number}" for number in range(1, 8)))
_TEMPLATES_PER_LABEL = 5
_CALIBRATION = 200
_TOLERANCE = 1e-2


class _Pixels(nn.Module):
    """``float32[M, 3, H, W] -> float32[M, 768]``: a few pixels as they are, which is how a model on a fast GPU looks
    from the CPU. They are picked before anything is computed."""

    dimension = 3 * 16 * 16

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)


class _Detector(nn.Module):
    """``uint8[M, H, W, 3] -> logit [M], embedding [M, D]`` (L2-normalised)."""

    def __init__(self, backbone: nn.Module, dimension: int, step: int) -> None:
        super().__init__()
        self.backbone, self._step = backbone, step
        self.head = nn.Linear(dimension, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = images[:, :: self._step, :: self._step]
        features = self.backbone(chosen.permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.5)
        return self.head(features)[:, 0], nn.functional.normalize(features)


def make_bundle(regime: Regime, root: Path, images: list[bytes], seed: int) -> Bundle:
    """The bundle of a regime under ``root``, made when there is none that loads.

    Args:
        regime: which.
        root: of all bundles.
        images: a few encoded ones, for its probe.
        seed: of weights and templates.
    """
    out = root / f"{regime.name}-{seed}"
    try:
        return load_bundle(out)
    except (BundleError, OSError):
        graph, dimension = _graph(regime, seed)
        return _write(out, regime, graph, dimension, images, np.random.default_rng(seed))


def _graph(regime: Regime, seed: int) -> tuple[Graph, int]:
    torch.manual_seed(seed)
    backbone: nn.Module
    match regime.name:
        case MODEL_BOUND.name:
            backbone, dimension, step = resnet50(), 2048, 1
            backbone.fc = nn.Identity()
        case BALANCED.name:
            backbone, dimension, step = resnet18(), 512, 1
            backbone.fc = nn.Identity()
        case PIPELINE_BOUND.name:
            backbone, dimension, step = _Pixels(), _Pixels.dimension, regime.preprocessing.size // 16
        case other:
            raise ValueError(other)
    detector = _Detector(backbone, dimension, step).eval()
    return export_graph(detector, regime.preprocessing, name=regime.name, file="model.onnx"), dimension


def _write(
    out: Path, regime: Regime, graph: Graph, dimension: int, images: list[bytes], rng: np.random.Generator
) -> Bundle:
    run = runner(graph)
    encoded = {f"probe/{number}.jpg": data for number, data in enumerate(images)}
    probe = Probe.record(encoded, (graph.model,), lambda _, views: vars(run(views)))
    library = _templates(dimension, rng)
    files = {graph.model.file: graph.data, "templates.npz": library.to_bytes(), "probe/expected.npz": probe.to_bytes()}
    files |= encoded
    point = {"target": 0.01, "observed": 0.0, "interval_95": (0.0, 0.02), "count": _CALIBRATION}
    manifest = Manifest(
        name=f"bench-{regime.name}",
        version="1",
        created_at="2026-01-01T00:00:00+00:00",
        models=(graph.model,),
        labels=tuple(Label(id=i, name=n, kind="generator" if i else "real") for i, n in enumerate(_LABELS)),
        templates=TemplateSpec(
            embedder=regime.name,
            preprocessing_digest=regime.preprocessing.digest,
            l2_normalised=True,
            dimension=dimension,
            alpha=0.01,
        ),
        calibration=Calibration(
            scale=1, bias=0, prior_generated=0.5, count_real=_CALIBRATION, count_generated=_CALIBRATION
        ),
        thresholds=Thresholds(
            low=OperatingPoint(threshold=0.3, error="false_negative_rate", **point),
            high=OperatingPoint(threshold=0.7, error="false_positive_rate", **point),
        ),
        probe=ProbeSpec(images=tuple(encoded)),
        files={name: sha256(data) for name, data in files.items()},
        parity=Parity(tolerance=_TOLERANCE, logit_error=0, embedding_error=0, images=len(encoded)),
        decoder=decoder_version(),
    )
    return load_bundle(write_bundle(out, manifest, files, force=True))


def _templates(dimension: int, rng: np.random.Generator) -> TemplateLibrary:
    """As many as a library usually has, at random: matching takes the same time wherever they lie."""
    count = len(_LABELS) * _TEMPLATES_PER_LABEL
    vectors = rng.normal(size=(count, dimension)).astype(np.float32)
    return TemplateLibrary(
        labels=_LABELS,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        label_of=np.repeat(np.arange(len(_LABELS)), _TEMPLATES_PER_LABEL),
        counts=np.ones(count, np.int64),
        calibration=(np.linspace(0, 2, _CALIBRATION, dtype=np.float32),) * len(_LABELS),
    )
