"""A network as an ONNX graph."""

import logging
import warnings
from dataclasses import dataclass

import onnx
import torch
from torch import nn

from bundle.manifest import Model, Preprocessing, Tensor
from exporter.errors import GraphInvalid

INPUT, LOGIT, EMBEDDING = "images", "logit", "embedding"


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file and its declaration."""

    data: bytes
    model: Model


def export_graph(detector: nn.Module, preprocessing: Preprocessing, *, name: str, file: str) -> Graph:
    """Export ``uint8[M, H, W, 3] -> logit float32[M], embedding float32[M, D]`` with a free batch axis.

    Raises:
        GraphInvalid: the exporter made other inputs, outputs or axes.
    """
    size = preprocessing.size
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch's own decompositions warn about torch's own deprecations; nothing there can be changed from here.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            detector,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[LOGIT, EMBEDDING],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 16)},),
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # stack traces: this machine's paths, and other bytes each time
    onnx.checker.check_model(proto, full_check=True)
    tensors = {value.name: _tensor(value) for value in (*proto.graph.input, *proto.graph.output)}
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    expected = {INPUT: ("uint8", 4), LOGIT: ("float32", 1), EMBEDDING: ("float32", 2)}
    for tensor, (dtype, rank) in expected.items():
        found = tensors.get(tensor)
        if found is None or found.dtype != dtype or len(found.shape) != rank or not isinstance(found.shape[0], str):
            raise GraphInvalid(f"{tensor} must be {dtype} of rank {rank} with a free batch axis, got {found}")
    model = Model(
        name=name,
        file=file,
        input=tensors[INPUT],
        logit=tensors[LOGIT],
        embedding=tensors[EMBEDDING],
        preprocessing=preprocessing,
        opset=opset,
    )
    return Graph(proto.SerializeToString(), model)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    shape = tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
    if dtype not in ("uint8", "float"):
        raise GraphInvalid(f"{value.name} is {dtype}, expected uint8 or float32")
    return Tensor(name=value.name, dtype="uint8" if dtype == "uint8" else "float32", shape=shape)
