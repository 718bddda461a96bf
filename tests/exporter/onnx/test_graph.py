from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bundle.manifest import Preprocessing, Resize, View
from bundle.store import Bundle
from bundle.views import Views
from exporter.errors import GraphInvalid
from exporter.onnx.graph import Graph, export_graph
from exporter.onnx.parity import check_parity
from exporter.onnx.runner import GraphOutputs, runner
from tests.bundles import SIZE
from trainer.training.checkpoint import Checkpoint

RECIPE = Preprocessing(views=(View(resize=Resize(mode="exact", size=16)),))


def random_views(count: int, size: int = SIZE) -> Views:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def by_torch(checkpoint: Checkpoint, views: Views) -> GraphOutputs:
    with torch.inference_mode():
        logit, embedding = checkpoint.model()(torch.from_numpy(views))
    return GraphOutputs(logit.numpy(), embedding.numpy())


@pytest.fixture(scope="module")
def graph(tiny_bundle: Bundle) -> Graph:
    model = tiny_bundle.manifest.detector
    return Graph(tiny_bundle.graph(model), model)


def test_inputs_and_outputs_are_the_contract_s(graph: Graph) -> None:
    proto = onnx.load_from_string(graph.data)
    found = {
        value.name: (value.type.tensor_type.elem_type, [axis.dim_param or axis.dim_value for axis in axes])
        for value in (*proto.graph.input, *proto.graph.output)
        if (axes := value.type.tensor_type.shape.dim)
    }
    batch = graph.model.input.shape[0]
    assert isinstance(batch, str)
    assert found == {
        "images": (onnx.TensorProto.UINT8, [batch, SIZE, SIZE, 3]),
        "logit": (onnx.TensorProto.FLOAT, [batch]),
        "embedding": (onnx.TensorProto.FLOAT, [batch, 16]),
    }
    assert graph.model.opset == next(entry.version for entry in proto.opset_import if entry.domain == "")


@pytest.mark.parametrize("count", [1, 3, 70])
def test_any_batch_computes_what_the_network_computes(graph: Graph, tiny_checkpoint: Checkpoint, count: int) -> None:
    views = random_views(count)
    found, expected = runner(graph)(views), by_torch(tiny_checkpoint, views)
    assert found.logit.shape == (count,)
    assert found.embedding.shape == (count, 16)
    parity = check_parity(found, expected, 1e-3)
    assert max(parity.logit_error, parity.embedding_error) < 1e-4
    assert np.allclose(runner(graph, batch=32)(views).embedding, found.embedding, atol=1e-3)


def test_nothing_of_this_machine_is_in_the_graph(graph: Graph) -> None:
    proto = onnx.load_from_string(graph.data)
    del proto.graph.initializer[:]  # millions of random weights spell any three bytes by chance
    written = proto.SerializeToString()
    assert b".py" not in written
    assert b"/" + __file__.split("/")[1].encode() + b"/" not in written


class Small(nn.Module):
    """Means of the colours; ``shape`` makes outputs of it."""

    def __init__(self, shape: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.shape = shape

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.shape(images.float().mean((1, 2)) * self.weight)


def test_equal_networks_give_equal_bytes() -> None:
    one, other = (
        export_graph(Small(lambda x: (x[:, 0], x)).eval(), RECIPE, name="small", file="model.onnx") for _ in range(2)
    )
    assert one.data == other.data
    assert one.model == other.model


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda x: (x, x), "logit must be float32 of rank 1"),
        (lambda x: (x[:, 0], x[:, 0]), "embedding must be float32 of rank 2"),
        (lambda x: (x[:, 0].double(), x), "logit is double, expected uint8 or float32"),
        (lambda x: (x[:, 0].mean(0, keepdim=True), x), "logit must be float32 of rank 1 with a free batch axis"),
    ],
    ids=["rank of the logit", "rank of the embedding", "dtype", "no batch"],
)
def test_other_graphs_are_refused(
    shape: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], message: str
) -> None:
    with pytest.raises(GraphInvalid, match=message):
        export_graph(Small(shape).eval(), RECIPE, name="small", file="model.onnx")
