"""Proof that a graph computes what the network computes."""

from bundle.manifest import Parity
from bundle.probe import relative_error
from exporter.errors import ParityFailed
from exporter.onnx.graph import EMBEDDING, LOGIT
from exporter.onnx.runner import GraphOutputs


def check_parity(actual: GraphOutputs, expected: GraphOutputs, tolerance: float) -> Parity:
    """Compare by the largest ``|a - b| / (1 + |b|)`` of logits and of embeddings.

    Args:
        actual: of ONNX Runtime.
        expected: of PyTorch, for the same images.
        tolerance: largest error that is accepted.

    Raises:
        ParityFailed: an error exceeds ``tolerance``, or an output is not a finite number.
    """
    images = len(actual.logit)
    logit_error = relative_error(actual.logit, expected.logit)
    embedding_error = relative_error(actual.embedding, expected.embedding)
    for output, error in ((LOGIT, logit_error), (EMBEDDING, embedding_error)):
        if not error <= tolerance:
            raise ParityFailed(
                f"{output}: ONNX Runtime differs from PyTorch by {error:.3g} on {images} images, "
                f"tolerance {tolerance:g}; nothing was written"
            )
    return Parity(tolerance=tolerance, logit_error=logit_error, embedding_error=embedding_error, images=images)
