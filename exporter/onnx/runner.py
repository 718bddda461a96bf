"""The graph as ONNX Runtime computes it: all numbers of a bundle come from here, not from the network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from bundle.views import Views
from exporter.onnx.graph import EMBEDDING, INPUT, LOGIT, Graph
from trainer.arrays import Floats
from trainer.data.folder import ImageFolder


@dataclass(frozen=True, eq=False)
class GraphOutputs:
    """What a graph computes: ``logit`` ``float32[M]``, ``embedding`` ``float32[M, D]``."""

    logit: Floats
    embedding: Floats


RunGraph = Callable[[Views | ImageFolder], GraphOutputs]
"""The outputs for ``uint8[M, H, W, 3]``, or for all images of a folder."""


def runner(graph: Graph, batch: int = 64) -> RunGraph:
    """Run the graph in ONNX Runtime on the CPU, as the worker without a GPU does; a folder is read as it goes."""
    session = ort.InferenceSession(graph.data, providers=["CPUExecutionProvider"])

    def run(views: Views | ImageFolder) -> GraphOutputs:
        parts = []
        for start in range(0, len(views), batch):
            chosen = slice(start, start + batch)
            pixels = views.pixels(chosen) if isinstance(views, ImageFolder) else views[chosen]
            parts.append(session.run([LOGIT, EMBEDDING], {INPUT: np.ascontiguousarray(pixels)}))
        return GraphOutputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return run
