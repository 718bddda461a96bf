"""The probe of a bundle: real images in several encodings, with the outputs that they must give."""

import io

import numpy as np
from PIL import Image

from bundle.manifest import Model
from bundle.preprocess import decode
from bundle.probe import Probe
from bundle.views import Views
from exporter.contents.splits import EmbeddedSplit
from exporter.onnx.graph import EMBEDDING, LOGIT, Graph
from exporter.onnx.runner import RunGraph
from trainer.arrays import Floats

_LOSSY = (".jpg", ".webp", ".avif")
"""Formats whose decoders may drift."""


def record_probe(calib: EmbeddedSplit, graph: Graph, run: RunGraph) -> Probe:
    """Take the probe's images from the calibration images and record what the graph makes of them here."""

    def by_role(_model: Model, views: Views) -> dict[str, Floats]:
        found = run(views)
        return {LOGIT: found.logit, EMBEDDING: found.embedding}

    return Probe.record(_images(calib), (graph.model,), by_role)


def _images(calib: EmbeddedSplit) -> dict[str, bytes]:
    """File name -> encoded image: one of each label as it is on disk, and the first of them in every lossy format."""
    first = {calib.labels[i].name: int(np.argmax(calib.label_ids == i)) for i in np.unique(calib.label_ids)}
    originals = [calib.folder.encoded(index) for _, index in sorted(first.items())]
    decoded = [decode(data) for data in originals]
    images = {
        f"probe/{number}.{image.facts.format.lower()}": data
        for number, (image, data) in enumerate(zip(decoded, originals, strict=True))
    }
    for suffix in _LOSSY:
        buffer = io.BytesIO()
        decoded[0].image.save(buffer, Image.registered_extensions()[suffix], quality=85)
        images[f"probe/lossy{suffix}"] = buffer.getvalue()
    return images
