"""A bundle whose verdicts are easy to predict: bright images are generated, dark ones real.

It is made with onnx alone, in milliseconds, and loaded through the store like any other.

=========== ============ ================================
mean pixel  logit        nearest template
=========== ============ ================================
0           not a number (the graph takes a logarithm)
1 to 127    below 0      ``real``, at brightness 40
128 to 255  above 0      ``bright``, at brightness 220
=========== ============ ================================

Distances are differences of brightness; templates accept up to about 60.
"""

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from PIL import Image

from bundle.manifest import (
    Calibration,
    Crop,
    Label,
    Manifest,
    Model,
    OperatingPoint,
    Parity,
    Preprocessing,
    ProbeSpec,
    TemplateSpec,
    Tensor,
    Thresholds,
    View,
)
from bundle.preprocess import decoder_version
from bundle.probe import Probe
from bundle.store import Bundle, load_bundle, sha256, write_bundle
from bundle.templates import TemplateLibrary
from bundle.views import Views

SIZE = 16


def encoded_image(brightness: int, *, size: int = 24, suffix: str = ".png", seed: int = 0) -> bytes:
    """An encoded image whose pixels average ``brightness``; other seeds give other bytes."""
    noise = np.random.default_rng(seed).integers(-3, 4, (size, size, 3)) if 3 < brightness < 252 else 0
    pixels = np.full((size, size, 3), brightness) + noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, Image.registered_extensions()[suffix])
    return buffer.getvalue()


def small_bundle(out: Path) -> Bundle:
    """Write the bundle to ``out`` and load it."""
    model = Model(
        name="brightness",
        file="model.onnx",
        input=Tensor(name="images", dtype="uint8", shape=("N", SIZE, SIZE, 3)),
        logit=Tensor(name="logit", dtype="float32", shape=("N",)),
        embedding=Tensor(name="embedding", dtype="float32", shape=("N", 1)),
        preprocessing=Preprocessing(views=(View(crop=Crop(mode="centre", size=SIZE)),)),
        opset=18,
    )
    graph = _graph()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(_: Model, views: Views) -> dict[str, np.ndarray]:
        logit, embedding = session.run(["logit", "embedding"], {"images": views})
        return {"logit": logit, "embedding": embedding}

    images = {"probe/0.png": encoded_image(40), "probe/1.jpg": encoded_image(220, suffix=".jpg")}
    probe = Probe.record(images, (model,), run)
    distances = np.linspace(0, 60, 200, dtype=np.float32)
    library = TemplateLibrary(
        labels=("bright", "real"),
        vectors=np.array([[220], [40]], np.float32),
        label_of=np.arange(2),
        counts=np.array([1, 1]),
        calibration=(distances, distances),
    )
    files = {"model.onnx": graph, "templates.npz": library.to_bytes(), "probe/expected.npz": probe.to_bytes(), **images}
    point = {"target": 0.01, "observed": 0.0, "interval_95": (0.0, 0.02), "count": 200}
    manifest = Manifest(
        name="brightness",
        version="1",
        created_at="2026-01-01T00:00:00+00:00",
        models=(model,),
        labels=(Label(id=0, name="bright", kind="generator"), Label(id=1, name="real", kind="real")),
        templates=TemplateSpec(
            embedder="brightness",
            preprocessing_digest=model.preprocessing.digest,
            l2_normalised=False,
            dimension=1,
            alpha=0.01,
        ),
        calibration=Calibration(scale=1, bias=0, prior_generated=0.5, count_real=200, count_generated=200),
        thresholds=Thresholds(
            low=OperatingPoint(threshold=0.3, error="false_negative_rate", **point),
            high=OperatingPoint(threshold=0.7, error="false_positive_rate", **point),
        ),
        probe=ProbeSpec(images=tuple(images)),
        files={name: sha256(data) for name, data in files.items()},
        parity=Parity(tolerance=1e-3, logit_error=0, embedding_error=0, images=2),
        decoder=decoder_version(),
    )
    return load_bundle(write_bundle(out, manifest, files))


def _graph() -> bytes:
    """``embedding = mean(pixels)``, ``logit = (embedding - 127.5) / 10 + 0 * log(embedding)``."""
    constants = {
        "axes": helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        "middle": helper.make_tensor("middle", TensorProto.FLOAT, [], [127.5]),
        "ten": helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0]),
        "zero": helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        "row": helper.make_tensor("row", TensorProto.INT64, [1], [-1]),
        "column": helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["embedding"]),
        helper.make_node("Sub", ["mean", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "ten"], ["scaled"]),
        helper.make_node("Log", ["mean"], ["logarithm"]),
        helper.make_node("Mul", ["logarithm", "zero"], ["nothing"]),
        helper.make_node("Add", ["scaled", "nothing"], ["flat"]),
        helper.make_node("Reshape", ["flat", "row"], ["logit"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 1]),
        ],
        initializer=list(constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
