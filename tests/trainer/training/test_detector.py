from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bundle.manifest import Label
from trainer.training.detector import Detector, against_simulated, log_odds

LABELS = tuple(
    Label(id=number, name=name, kind="real" if name.startswith("real") else "generator")
    for number, name in enumerate(("a", "real", "b", "real2"))
)


class Fixed(nn.Module):
    """Scores and embeddings that do not depend on the image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.scores = 30 * torch.randn(3, outputs, generator=generator)
        self.embedding = torch.randn(3, 5, generator=generator)

    def forward(self, _images: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores, self.embedding


def test_the_logit_is_the_log_odds_of_generated() -> None:
    net = Fixed(4)
    logit, embedding = Detector(net, LABELS, binary=False, l2_normalised=False)(torch.empty(3, 2, 2, 3))
    chances = torch.softmax(net.scores.double(), 1)
    generated = chances[:, 0] + chances[:, 2]
    torch.testing.assert_close(torch.sigmoid(logit.double()), generated, rtol=1e-4, atol=1e-7)
    assert torch.equal(embedding, net.embedding)


def test_the_single_output_is_the_logit() -> None:
    net = Fixed(1)
    logit, _ = Detector(net, LABELS, binary=True, l2_normalised=False)(torch.empty(3, 2, 2, 3))
    assert torch.equal(logit, net.scores[:, 0])


def test_embeddings_have_length_1_where_asked_for() -> None:
    net = Fixed(1)
    _, embedding = Detector(net, LABELS, binary=True, l2_normalised=True)(torch.empty(3, 2, 2, 3))
    for found, raw in zip(embedding.tolist(), net.embedding.tolist(), strict=True):
        length = sum(value**2 for value in raw) ** 0.5
        torch.testing.assert_close(torch.tensor(found), torch.tensor([value / length for value in raw]))


class Odds(nn.Module):
    """Class scores with two simulated ones -> log-odds of *generated*."""

    def __init__(self, photographs: list[bool]) -> None:
        super().__init__()
        self.register_buffer("photographs", torch.tensor(photographs))

    photographs: Tensor

    def forward(self, scores: Tensor) -> Tensor:
        return log_odds(against_simulated(scores, self.photographs), self.photographs)


@pytest.mark.parametrize("photographs", [[True, False, False], [False, True, False], [True, True, False]])
def test_log_odds_of_scores_of_any_size_are_served_as_they_are(tmp_path: Path, photographs: list[bool]) -> None:
    sizes = np.array([1, 30, 300, 9000])[:, None]
    scores = (np.random.default_rng(0).normal(-1, 1, (4, 5)) * sizes).astype(np.float32)
    odds = Odds(photographs).eval()
    generated = ~np.array([*photographs, False, False])
    expected = np.logaddexp.reduce(scores, axis=1, where=generated, initial=-np.inf)
    expected -= np.logaddexp.reduce(scores, axis=1, where=~generated, initial=-np.inf)
    np.testing.assert_allclose(odds(torch.from_numpy(scores)), expected, rtol=1e-5, atol=1e-4)

    path = tmp_path / "odds.onnx"
    torch.onnx.export(odds, (torch.from_numpy(scores),), path, dynamo=True, verbose=False)
    served = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = served.run(None, {served.get_inputs()[0].name: scores})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
