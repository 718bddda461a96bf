import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bundle.manifest import Parity
from bundle.store import Bundle
from exporter.errors import ParityFailed
from exporter.onnx.graph import Graph
from exporter.onnx.parity import check_parity
from exporter.onnx.runner import GraphOutputs, runner
from tests.bundles import SIZE
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import embed


def test_changed_weights_fail_parity_and_say_by_how_much(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    model = tiny_bundle.manifest.detector
    proto = onnx.load_from_string(tiny_bundle.graph(model))
    largest = max(proto.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.05), largest.name))
    views = np.random.default_rng(8).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    found = runner(Graph(proto.SerializeToString(), model))(views)
    with pytest.raises(
        ParityFailed, match=r"ONNX Runtime differs from PyTorch by [\d.e-]+ on 8 images, tolerance 0\.001"
    ):
        check_parity(found, GraphOutputs(*embed(tiny_checkpoint.model(), views)), 1e-3)


@pytest.mark.parametrize(
    ("actual", "error"),
    [
        ((5.0, 1.0), None),
        ((5.5, 1.0), "^logit: .* by 0.0833 "),
        ((5.0, 2.0), "^embedding: .* by 0.5 "),
        ((np.nan, 1.0), "^logit: .* nan"),
    ],
)
def test_parity(actual: tuple[float, float], error: str | None) -> None:
    def outputs(logit: float, embedding: float) -> GraphOutputs:
        return GraphOutputs(np.full(3, logit, np.float32), np.full((3, 2), embedding, np.float32))

    if error is None:
        parity = check_parity(outputs(*actual), outputs(5, 1), 1e-3)
        assert parity == Parity(tolerance=1e-3, logit_error=0, embedding_error=0, images=3)
    else:
        with pytest.raises(ParityFailed, match=error):
            check_parity(outputs(*actual), outputs(5, 1), 1e-3)
