import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.evaluate import embed, make_templates


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        total = images.float().sum(dim=(1, 2)) * self.scale
        return total[:, 0], total


def test_embedding_in_batches_keeps_the_order() -> None:
    images = np.arange(7 * 2 * 2 * 3, dtype=np.uint8).reshape(7, 2, 2, 3)
    logits, embeddings = embed(Sum(), images, batch=3)
    wanted = 2 * images.astype(np.float32).sum(axis=(1, 2))
    np.testing.assert_array_equal(embeddings, wanted)
    np.testing.assert_array_equal(logits, wanted[:, 0])
    assert embeddings.dtype == logits.dtype == np.float32


EMBEDDINGS = np.array([[0, 0], [2, 0], [10, 10], [12, 10], [14, 13]], np.float32)
NUMBERS = np.array([0, 0, 2, 2, 2])
NAMES = ("a", "absent", "c")


def test_a_mean_template_is_the_mean() -> None:
    library = make_templates(EMBEDDINGS, NUMBERS, NAMES, "mean", seed=0)
    assert library.labels == ("a", "c")
    np.testing.assert_allclose(library.vectors, [[1, 0], [12, 11]])
    assert library.counts.tolist() == [2, 3]


def test_one_template_is_an_image_that_the_seed_chooses() -> None:
    seen = set()
    for seed in range(20):
        library = make_templates(EMBEDDINGS, NUMBERS, NAMES, "one", seed)
        again = make_templates(EMBEDDINGS, NUMBERS, NAMES, "one", seed)
        np.testing.assert_array_equal(library.vectors, again.vectors)
        assert library.vectors[0].tolist() in EMBEDDINGS[:2].tolist()
        assert library.vectors[1].tolist() in EMBEDDINGS[2:].tolist()
        assert library.counts.tolist() == [1, 1]
        seen.add(library.vectors.tobytes())
    assert len(seen) > 3


@pytest.mark.parametrize("how", ["one", "mean"])
def test_templates_attribute_by_distance(how: str) -> None:
    library = make_templates(EMBEDDINGS, NUMBERS, NAMES, "one" if how == "one" else "mean", seed=1)
    assert library.distances(EMBEDDINGS).argmin(axis=1).tolist() == [0, 0, 1, 1, 1]
