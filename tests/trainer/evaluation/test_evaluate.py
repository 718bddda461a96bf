import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.trainer.conftest import MakeFolder
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.templates import default_template_method, make_templates, own_templates, templates_of
from trainer.models.block_spectra import BlockSpectraConfig, template_for_new_class
from trainer.models.contrastive import ContrastiveNet
from trainer.training.embedding import embed
from trainer.training.loop import train
from trainer.training.systems import parse_config


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


def test_templates_of_training_are_the_prototypes_that_scores_compare_with(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    values = {"size": 32, "widths": [4, 4, 8, 8, 8], "epochs": 1, "batch": 8, "simulated": 1, "simulated_steps": 1}
    config = parse_config({"system": "contrastive", "simulated_images": 16, "opinion": 0, **values})
    data = make_folder(classes=("coarse", "grid", "real"), images=8)
    checkpoint = train(config, data, tmp_path / "a.pt", None, Console(quiet=True))
    folder = ImageFolder.read(data, config.preprocessing)
    _, embeddings = embed(checkpoint.model(), folder)
    library = templates_of(checkpoint, folder, lambda _: pytest.fail("it needs no embeddings"), "own", 0)
    assert library.labels == ("coarse", "grid", "real")
    assert library.counts.tolist() == [8, 8, 8]
    np.testing.assert_allclose(np.linalg.norm(library.vectors, axis=1), 1, atol=1e-6)
    with torch.inference_mode():
        net = checkpoint.model().net
        assert isinstance(net, ContrastiveNet)
        scores = net.scores(net.contrasted(torch.from_numpy(folder.pixels(slice(None)))))[:, :3]
    np.testing.assert_array_equal(library.distances(embeddings).argmin(axis=1), scores.argmax(dim=1))
    assert evaluate(checkpoint, folder, folder, "own", 0).template == "own"


def test_not_every_system_has_templates_of_its_own(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder(images=8)
    config = parse_config({"system": "spectrum", "size": 32, "epochs": 1})
    checkpoint = train(config, data, tmp_path / "a.pt", None, Console(quiet=True))
    assert default_template_method(checkpoint) == "mean"
    folder = ImageFolder.read(data, config.preprocessing)
    with pytest.raises(BadConfig, match="spectrum has none of its own; choose one or mean"):
        evaluate(checkpoint, folder, folder, "own", 0)


def test_the_binary_variant_has_no_templates_of_its_own(make_folder: MakeFolder, tmp_path: Path) -> None:
    config = parse_config({"system": "prnu", "size": 32, "epochs": 0, "binary": True})
    checkpoint = train(config, make_folder(images=8), tmp_path / "a.pt", None, Console(quiet=True))
    assert default_template_method(checkpoint, "one") == "one"
    with pytest.raises(BadConfig, match="prnu has none of its own in its binary variant; choose one or mean"):
        own_templates(checkpoint)


def test_a_new_class_has_a_template_as_long_as_the_others(make_folder: MakeFolder, tmp_path: Path) -> None:
    config = parse_config({"system": "prnu", "size": 32, "epochs": 0, "l2_normalised": True})
    checkpoint = train(config, make_folder(images=8), tmp_path / "a.pt", None, Console(quiet=True))
    folder = ImageFolder.read(make_folder("other", images=8), config.preprocessing)
    _, embeddings = embed(checkpoint.model(), folder)
    assert np.linalg.norm(embeddings.mean(axis=0)) < 0.9
    library = own_templates(checkpoint, {"new": embeddings})
    assert np.linalg.norm(library.vectors[-1]) == pytest.approx(1)


def test_a_new_class_has_the_template_that_its_system_gives_it(make_folder: MakeFolder, tmp_path: Path) -> None:
    config = parse_config({"system": "block_spectra", "size": 32, "simulated": 0})
    assert isinstance(config, BlockSpectraConfig)
    data = make_folder(classes=("coarse", "grid", "real"), images=8)
    new = tmp_path / "new"
    shutil.move(data / "grid", new / "grid")
    shutil.copytree(data / "real", new / "real")
    checkpoint = train(config, data, tmp_path / "a.pt", None, Console(quiet=True))
    assert default_template_method(checkpoint) == "own"
    folder = ImageFolder.read(new, config.preprocessing)
    _, embeddings = embed(checkpoint.model(), folder)
    grid = embeddings[folder.labels == 0]
    library = own_templates(checkpoint, {"grid": grid[:4]})
    assert library.labels == ("coarse", "real", "grid")
    assert library.counts.tolist() == [8, 8, 4]
    placed = template_for_new_class(config, checkpoint.weights, torch.from_numpy(grid[:4])).numpy()
    np.testing.assert_array_equal(library.vectors[2], placed)
    assert not np.allclose(placed, grid[:4].mean(axis=0), atol=1)
