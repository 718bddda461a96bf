"""The network's parts against plain convolutions, and what training and fitting leave behind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.signal import correlate2d
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity

from tests.trainer.conftest import MakeFolder
from tests.trainer.stored_config import replaced, store_config, stored_config
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig
from trainer.evaluation.templates import own_templates
from trainer.models.contrastive import ContrastiveConfig, ContrastiveNet, Residuals, enlarge, templates
from trainer.models.srm_metric import SQUARE3, SQUARE5
from trainer.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.training.embedding import embed
from trainer.training.loop import train
from trainer.training.systems import parse_config

pytestmark = pytest.mark.slow

SMALL = {
    "system": "contrastive",
    "size": 32,
    "widths": [4, 4, 8, 8, 8],
    "epochs": 12,
    "batch": 16,
    "simulated": 2,
    "simulated_steps": 2,
    "simulated_images": 16,
}
CONFIG = ContrastiveConfig.model_validate(SMALL)


def test_residuals_are_bent_srm_filters_of_each_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    found = Residuals(16.0)(torch.from_numpy(image[None]))[0].numpy()
    assert found.shape == (15, 16, 16)
    np.testing.assert_allclose(found[:3], (np.moveaxis(image, 2, 0) - 128.0) / 64, atol=1e-6)
    across = np.zeros((5, 5))
    across[2, 1:4] = 0.5, -1, 0.5
    for colour in range(3):
        padded = np.pad(image[..., colour].astype(np.float64), 2, mode="reflect")
        for number, kernel in enumerate((SQUARE5, SQUARE3, across, across.T)):
            plain = correlate2d(padded, kernel, mode="valid")
            expected = 4 * plain / (np.abs(plain) + 16)
            np.testing.assert_allclose(found[3 + 4 * colour + number], expected, atol=1e-4)


def test_an_embedding_is_made_of_means_and_deviations_of_the_stages_and_of_block_spectra() -> None:
    net = small_net()
    images = noise(3)
    with torch.inference_mode():
        maps, rows = net.residuals(images), []
        for stage in net.stages:
            maps = stage(maps)
            deviation = (maps.double().var(dim=(2, 3), correction=0) + 1e-4).sqrt()
            rows += [maps.double().mean(dim=(2, 3)), deviation]
        features = torch.cat([*rows, net.statistics(images).double()], dim=1)
        features = (features / np.sqrt(1 + net.norm.eps)).clamp(-8, 8)  # batch norm has seen nothing yet
        expected = features @ net.embedding.weight.double().T + net.embedding.bias
        np.testing.assert_allclose(net.contrasted(images), expected, atol=1e-4)
        embedding = net(images)[1][:, :128]
    np.testing.assert_allclose(embedding, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)


def test_probabilities_of_all_classes_stand_behind_what_is_contrasted() -> None:
    net = small_net()
    with torch.inference_mode():
        _, embedding = net(noise(5))
        cosines = cosine_similarity(embedding[:, :128], net.prototypes)
    assert embedding.shape == (5, 128 + 2 + 2)
    np.testing.assert_allclose(embedding[:, 128:], softmax(16 * cosines, axis=1), atol=1e-5)


@pytest.mark.parametrize("opinion", [0.0, 2.0])
def test_the_nearest_template_of_training_is_the_class_of_cosine_and_probability(opinion: float) -> None:
    net, images = small_net(opinion=opinion), noise(40)
    if net.discriminant is not None:
        net.discriminant.head.weight.data *= 30
        net.discriminant.degradation.out.bias.data.fill_(-np.log(3))  # half of it is heard
    library = templates(CONFIG, net.state_dict(), 2)
    np.testing.assert_allclose(library.norm(dim=1), 1, atol=1e-6)
    with torch.inference_mode():
        embedding = net(images)[1]
        cosines = net.scores(net.contrasted(images)) / 16
        nearest = torch.cdist(torch.nn.functional.normalize(embedding), library).argmin(dim=1)
    together = cosines[:, :2] + embedding[:, 128:130]
    assert nearest.tolist() == together.argmax(dim=1).tolist()
    if opinion == 0:
        assert nearest.tolist() == cosines[:, :2].argmax(dim=1).tolist()


def test_scores_are_cosines_and_simulated_classes_count_against_photographs() -> None:
    net = small_net()
    net.photographs[1] = True
    with torch.inference_mode():
        scores, embedding = net(noise(5))
        cosines = cosine_similarity(embedding[:, :128], net.prototypes)
        np.testing.assert_allclose(scores[:, 0], 16 * cosines[:, 0], atol=1e-4)
        logit = scores[:, 0] - scores[:, 1]
        of_generators = np.logaddexp.reduce(16 * cosines[:, [0, 2, 3]], axis=1)
        np.testing.assert_allclose(logit, of_generators - 16 * cosines[:, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("odds", "degraded", "moved", "heard"),
    [
        *((3, -99, 1.0, 1), (-4.5, -99, -1.5, 1), (900, -99, 1.6, 1), (-40, -99, -1.6, 1)),
        *((0.9, 99, 0.3, 0), (900, 99, 0.4, 0), (-40, 0, -0.4, 0), (-40, -np.log(3), -1.0, 0.5)),
    ],
)
def test_the_discriminant_moves_log_odds_within_bounds_and_probabilities(
    odds: float, degraded: float, moved: float, heard: float
) -> None:
    net, without = small_net(opinion=1.6), small_net()
    net.load_state_dict(without.state_dict(), strict=False)
    assert net.discriminant is not None
    net.photographs[1] = net.discriminant.photographs[1] = without.photographs[1] = True
    with torch.inference_mode():
        net.discriminant.degradation.out.bias.fill_(degraded)
        net.discriminant.head.weight.zero_()
        net.discriminant.head.bias.copy_(torch.tensor([odds, 0, -1e4, -1e4]))
        scores, embedding = net(noise(5))
        before, same = without(noise(5))
    np.testing.assert_allclose((scores - before)[:, 1], -moved, atol=1e-4)
    np.testing.assert_array_equal(scores[:, 0], before[:, 0])
    np.testing.assert_array_equal(embedding[:, :128], same[:, :128])
    opinion = softmax(np.array([odds, 0, -1e4, -1e4]) / 3)
    np.testing.assert_allclose(embedding[:, 128:], heard * opinion + (1 - heard) * same[:, 128:].numpy(), atol=1e-5)


def test_training_is_the_same_with_and_without_the_discriminant() -> None:
    with_it, after = small_net(opinion=1.0), torch.rand(3)
    without, later = small_net(), torch.rand(3)
    torch.testing.assert_close(after, later)
    torch.testing.assert_close(with_it.embedding.weight, without.embedding.weight)


def test_an_epoch_has_photographs_several_times_and_further_classes(make_folder: MakeFolder) -> None:
    folder = ImageFolder.read(make_folder(classes=("grid", "real"), images=20), CONFIG.preprocessing)
    images = enlarge(CONFIG, folder, lambda *_: None)
    assert np.bincount(images.labels).tolist() == [20, 60, 16, 16]
    photographs = folder.pixels(folder.labels == 1)
    for label in (2, 3):
        made = images.pixels(np.flatnonzero(images.labels == label)).astype(int)
        assert 0 < np.abs(made - photographs[:16]).mean() < 60  # two steps teach little


@pytest.mark.parametrize("binary", [False, True])
def test_a_run_tells_classes_apart(make_folder: MakeFolder, tmp_path: Path, *, binary: bool) -> None:
    data = make_folder(classes=("coarse", "grid", "real"), images=20)
    config = parse_config({**SMALL, "binary": binary, "clean": 1.0, "simulated": 1})
    checkpoint = train(config, data, tmp_path / "c.pt", None, Console(quiet=True))
    assert {"cross_entropy", "contrast"} <= checkpoint.history[-1].parts.keys()
    assert checkpoint.history[-1].accuracy > 0.9
    net = checkpoint.model()
    folder = ImageFolder.read(data, config.preprocessing)
    logits, embeddings = embed(net, folder.pixels(slice(None)))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert ((logits > 0) == (folder.labels != folder.classes.index("real"))).mean() > 0.8
    if not binary:
        assert checkpoint.weights["photographs"].tolist() == [False, False, True]
        same = ("size", "simulated_steps", "simulated_images")
        values = {"simulated": 1, **{name: SMALL[name] for name in same}}
        alone = parse_config({"system": "block_spectra", **values})
        expected = train(alone, data, tmp_path / "b.pt", None, Console(quiet=True))
        for name, tensor in expected.weights.items():
            torch.testing.assert_close(checkpoint.weights[f"discriminant.{name}"], tensor)


OTHER = {
    "residual_bend": 8.0,
    "feature_clip": 2.0,
    "opinion_temperature": 30.0,
    "opinion_degraded": 0.5,
    "pristine_between": [0.1, 0.95],
    "constants": {"clip": 2.0, "detector": {"members": 1}},
}
"""None at its default."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained with other constants."""
    root = tmp_path_factory.mktemp("other")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "real"):
        (root / "data" / name).mkdir(parents=True)
        for number in range(8):
            image = rng.integers(60, 180, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / "data" / name / f"{number}.png")
    train(parse_config({**SMALL, "epochs": 1, **OTHER}), root / "data", root / "a.pt", None, Console(quiet=True))
    return root / "a.pt"


def served(checkpoint: Checkpoint) -> list[np.ndarray]:
    """Log-odds and embeddings of some images, and templates."""
    images = np.concatenate([noise(4).numpy(), noise(4).numpy() // 9])
    return [*embed(checkpoint.model(), images), own_templates(checkpoint).vectors]


def test_a_checkpoint_comes_back_with_its_own_constants(other: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(other)
    assert loaded.config == ContrastiveConfig.model_validate({**SMALL, "epochs": 1, **OTHER})
    save_checkpoint(tmp_path / "b.pt", loaded)
    for one, again in zip(served(loaded), served(load_checkpoint(tmp_path / "b.pt")), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("residual_bend", 16.0), ("feature_clip", 8.0), ("opinion_temperature", 1e4), ("opinion_degraded", 0.0)),
        *(("pristine_between", [0.6, 0.9]), ("constants.clip", 8.0)),
    ],
)
def test_scores_follow_the_stored_constants(other: Path, tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "b.pt"
    shutil.copyfile(other, path)
    store_config(path, replaced(stored_config(path), key, value))
    before, after = served(load_checkpoint(other)), served(load_checkpoint(path))
    assert not all(np.allclose(one, another, rtol=1e-4) for one, another in zip(before, after, strict=True))


@pytest.mark.parametrize("limits", [[0.9, 0.6], [0.5, 0.5], [-0.1, 0.5], [0.5, 1.1]])
def test_probabilities_of_being_pristine_rise(limits: list[float]) -> None:
    with pytest.raises(BadConfig, match=r"two rising numbers in 0\.\.1"):
        parse_config({**SMALL, "pristine_between": limits})


def small_net(opinion: float = 0.0) -> ContrastiveNet:
    torch.manual_seed(0)
    return ContrastiveNet(CONFIG.model_copy(update={"opinion": opinion}), 2).eval()


def noise(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8))
