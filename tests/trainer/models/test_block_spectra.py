"""The fit against scikit-learn's discriminant and SciPy's densities."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bundle.manifest import Label
from tests.trainer.stored_config import replaced, store_config, stored_config
from trainer.data.augment import degradation
from trainer.data.folder import ImageFolder, make_labels
from trainer.errors import BadConfig, CheckpointInvalid
from trainer.evaluation.templates import own_templates
from trainer.models.block_spectra import (
    BlockSpectraConfig,
    BlockSpectraConstants,
    BlockSpectraNet,
    fit,
    template_for_new_class,
    templates,
)
from trainer.models.block_statistics import EXTENDED
from trainer.models.discriminant import MeansPrior, Statistics, whitening
from trainer.synthesis.random_upsamplers import simulate_once
from trainer.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.training.embedding import embed
from trainer.training.loop import train
from trainer.training.systems import make_network, parse_config

pytestmark = pytest.mark.slow


def textures(count: int, seed: int, size: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.normal(128, 30, (count, size, size, 3))).clip(0, 255).astype(np.uint8)


def folder_of(root: Path, classes: dict[str, np.ndarray]) -> ImageFolder:
    for name, images in classes.items():
        (root / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:03}.png")
    return ImageFolder.read(root, BlockSpectraConfig(size=40).preprocessing)


CONFIG = BlockSpectraConfig(size=40, simulated=0)


def fitted(folder: ImageFolder, **values: object) -> BlockSpectraNet:
    config = BlockSpectraConfig.model_validate({**CONFIG.model_dump(), **values})
    labels = make_labels(folder, config.real)
    net = make_network(config, labels)
    assert isinstance(net, BlockSpectraNet)
    fit(config, net, folder, lambda *_: None)
    return net.eval()


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    """Photographs, and two generators that leave a grid and a blur."""
    classes = {"real": textures(40, 1), "grid": textures(40, 2), "soft": textures(40, 3)}
    classes["grid"][:, ::2, ::2] = (classes["grid"][:, ::2, ::2] * 0.97).astype(np.uint8)
    soft = classes["soft"].astype(np.float64)
    classes["soft"] = np.rint(0.9 * soft + 0.1 * np.roll(soft, 1, axis=1)).astype(np.uint8)
    return folder_of(tmp_path, classes)


def outputs(net: BlockSpectraNet, folder: ImageFolder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and embeddings, and the standardised statistics that they are made of; in double precision."""
    pixels = torch.from_numpy(folder.pixels(slice(None)))
    with torch.inference_mode():
        scores, embedding = net(pixels)
        rows = net.standardised(net.statistics(pixels))
    return scores.double().numpy(), embedding.double().numpy(), rows.double().numpy()


def test_distances_and_scores_are_those_of_the_discriminant(folder: ImageFolder) -> None:
    net = fitted(folder, shrinkage=0.3, degradation_variance=0)
    scores, embedding, rows = outputs(net, folder)
    distances = ((embedding[:, None] - templates(CONFIG, net.state_dict(), 3).numpy()) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), scores.argmax(axis=1))
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunken(), priors=[1 / 3] * 3)
    decided = oracle.fit(rows, folder.labels).decision_function(rows)
    np.testing.assert_allclose(scores - scores[:, :1], decided - decided[:, :1], rtol=1e-2, atol=0.05)
    np.testing.assert_allclose((distances[:, :1] - distances) / 2, scores - scores[:, :1], rtol=1e-2, atol=0.05)


def test_the_distance_to_a_template_is_the_likelihood_ratio_of_the_class_and_any_generator(folder: ImageFolder) -> None:
    """By SciPy's densities: -2 log N(x; m, I) / N(x; 0, I + T), 500 where that is 0, and the leeway of the image."""
    net = fitted(folder, shrinkage=0.3, degradation_variance=2.0, simulated=2, simulated_steps=3)
    _, embedding, rows = outputs(net, folder)
    made = simulate_once(folder.pixels(np.flatnonzero(folder.labels == 1)), 2, 3, 0)
    pristine, copies = copied(net, [folder.pixels(slice(None)), *made])
    np.testing.assert_allclose(pristine[0], rows, atol=1e-4)
    within = Statistics.of(rows.astype(np.float32), folder.labels, 3)
    every = np.stack([*within.means, *(m.mean(axis=0) for m in pristine[1:])])
    covariance = within.covariance(0.3)
    inverse = np.linalg.inv(covariance)
    moments = []
    for group in (slice(0, 1), slice(1, 3)):
        changes = np.concatenate(copies[group]) - np.concatenate(pristine[group])
        moments.append(np.zeros((EXTENDED, EXTENDED)))
        for change in changes:
            length = np.sqrt(change @ inverse @ change / EXTENDED) + 0.05
            moments[-1] += np.outer(change, change) / length**2 / len(changes)
    turn = whitening(covariance + 2.0 * (moments[0] + moments[1]) / 2)
    middle = every.mean(axis=0)
    means = (every - middle) @ turn
    prior = MeansPrior.of(means, np.full(5, 40), spread=0.1, scale=0.3)
    spread = prior.times(lambda variance: variance, np.eye(EXTENDED))
    x = (rows - middle) @ turn
    background = multivariate_normal(np.zeros(EXTENDED), np.eye(EXTENDED) + spread).logpdf(x)
    own = np.stack([multivariate_normal(mean, 1.0).logpdf(x) for mean in means[:3]], axis=1)
    found = ((embedding[:, None] - templates(CONFIG, net.state_dict(), 3).numpy()) ** 2).sum(axis=2)
    with torch.inference_mode():
        leeway = (net.leeway * net.pristine(torch.from_numpy(rows).float())).numpy()
    np.testing.assert_allclose(found - 500**2 - leeway, -2 * (own - background[:, None]), rtol=2e-3, atol=0.5)


def test_degraded_images_have_leeway(folder: ImageFolder) -> None:
    """98 % of degraded copies lie no farther than 95 % of the images, once each has its own; by hand."""
    net = fitted(folder, shrinkage=0.3, degradation_epochs=60)
    pristine, copies = copied(net, [folder.pixels(slice(None))])
    library = templates(CONFIG, net.state_dict(), 3).numpy().astype(np.float64)
    distances, shares = [], []
    for rows in (pristine[0], copies[0]):
        with torch.inference_mode():
            embedding = net.embed(torch.from_numpy(rows).float()).double().numpy()
            shares.append(net.pristine(torch.from_numpy(rows).float())[:, 0].double().numpy())
        distances.append(((embedding[:, None] - library) ** 2).sum(axis=2).min(axis=1))
    leeway = float(net.leeway)
    assert leeway > 1
    assert shares[0].mean() > shares[1].mean() + 0.3
    limit = np.quantile(distances[0] - leeway * shares[0], 0.95) + leeway
    assert np.mean(distances[1] <= limit) == pytest.approx(0.98, abs=0.01)


def copied(net: BlockSpectraNet, images: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Standardised statistics of images, and of the degraded copies that the fit saw; in double precision."""
    degrade, rng = degradation(0), np.random.default_rng(0)
    found: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for group in images:
        copies = np.stack([degrade(image, rng) for image in group])
        for pixels, rows in zip((group, copies), found, strict=True):
            with torch.inference_mode():
                rows.append(net.standardised(net.statistics(torch.from_numpy(pixels))).double().numpy())
    return found


def test_the_template_of_a_new_class_is_drawn_to_known_and_simulated_ones(folder: ImageFolder) -> None:
    """By dense matrices: the template's coordinates are the posterior mean."""
    net = fitted(folder, shrinkage=0.3, simulated=2, simulated_steps=3)
    weights = net.state_dict()
    means, counts = weights["means"].double().numpy(), weights["counts"].numpy()
    near, every = (MeansPrior.of(means, counts, share, scale) for share, scale in ((0.2, 1.0), (0.1, 0.3)))
    few = np.random.default_rng(0).normal(size=(4, EXTENDED + 2))
    covariance, others = (prior.times(lambda variance: variance, np.eye(EXTENDED)) for prior in (near, every))
    root = sqrtm(others @ np.linalg.inv(np.eye(EXTENDED) + others)).real
    seen = np.linalg.solve(root, few[:, :EXTENDED].mean(axis=0))
    gain = np.linalg.solve(covariance + np.eye(EXTENDED) / 4, seen - near.centre)
    expected = np.linalg.solve(root, near.centre + covariance @ gain)
    found = template_for_new_class(CONFIG, weights, torch.from_numpy(few))
    np.testing.assert_allclose(found[:EXTENDED], expected, rtol=1e-3, atol=1e-3)


def test_a_class_of_a_few_images_gets_its_own(folder: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its template lies between the mean of the images and the classes that training knew."""
    two = tmp_path_factory.mktemp("two")
    for name in ("grid", "real"):
        shutil.copytree(folder.root / name, two / name)
    net = fitted(ImageFolder.read(two, folder.preprocessing), shrinkage=0.3)
    _, embedding, _ = outputs(net, folder)
    soft = np.flatnonzero(folder.labels == folder.classes.index("soft"))
    weights = net.state_dict()
    few = template_for_new_class(CONFIG, weights, torch.from_numpy(embedding[soft[:6]]).float()).numpy()
    many = template_for_new_class(CONFIG, weights, torch.from_numpy(embedding[soft]).float()).numpy()
    library = np.stack([*templates(CONFIG, weights, 2).numpy(), few])
    apart = ((embedding[soft[6:], None] - library) ** 2).sum(axis=2)
    assert np.mean(apart.argmin(axis=1) == 2) > 0.8
    assert np.linalg.norm(few[:EXTENDED]) < np.linalg.norm(many[:EXTENDED])


def test_a_class_far_out_is_drawn_in(folder: ImageFolder) -> None:
    net = fitted(folder, shrinkage=0.3)
    far = template_for_new_class(CONFIG, net.state_dict(), torch.full((10, EXTENDED + 2), 1e3)).numpy()
    assert np.isfinite(far).all()
    assert far[EXTENDED] == pytest.approx(0, abs=1)


OTHER = {
    "clip": 4.0,
    "short_change": 0.1,
    "pristine_inside": 0.9,
    "degraded_inside": 0.95,
    "unknown_variance": 0.5,
    "off_plane": 0.2,
    "new_class_off_plane": 0.4,
    "least_variance": 1e-3,
    "level": 300.0,
    "detector": {"members": 2, "hidden_units": 8, "batch": 64, "temperature": 2.0},
}
"""No constant at its default."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained with other constants."""
    root = tmp_path_factory.mktemp("other")
    (root / "data").mkdir()
    folder = folder_of(root / "data", {name: textures(12, seed) for seed, name in enumerate(("a", "b", "real"))})
    settings = {"size": 40, "simulated": 2, "simulated_steps": 3, "constants": OTHER}
    config = parse_config({"system": "block_spectra", **settings})
    train(config, folder.root, root / "a.pt", None, Console(quiet=True))
    return root / "a.pt"


def served(checkpoint: Checkpoint) -> list[np.ndarray]:
    """Log-odds and embeddings of some images, templates, and that of a new class."""
    images = np.concatenate([textures(4, 7), textures(4, 8) // 9])
    logits, embeddings = embed(checkpoint.model(), images)
    return [logits, embeddings, own_templates(checkpoint, {"new": embeddings[4:]}).vectors]


def test_a_checkpoint_comes_back_with_its_own_constants(other: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(other)
    constants = BlockSpectraConstants.model_validate(OTHER)
    assert loaded.config == BlockSpectraConfig(size=40, simulated=2, simulated_steps=3, constants=constants)
    assert constants.model_dump().items().isdisjoint(BlockSpectraConstants().model_dump().items())
    save_checkpoint(tmp_path / "b.pt", loaded)
    for one, again in zip(served(loaded), served(load_checkpoint(tmp_path / "b.pt")), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("clip", 8.0), ("unknown_variance", 0.3), ("off_plane", 0.1), ("new_class_off_plane", 0.2)),
        *(("least_variance", 10.0), ("level", 500.0)),
    ],
)
def test_scores_or_templates_follow_the_stored_constants(other: Path, tmp_path: Path, key: str, value: float) -> None:
    path = tmp_path / "b.pt"
    shutil.copyfile(other, path)
    store_config(path, replaced(stored_config(path), f"constants.{key}", value))
    before, after = served(load_checkpoint(other)), served(load_checkpoint(path))
    assert not all(np.allclose(one, another, rtol=1e-4) for one, another in zip(before, after, strict=True))


def test_a_detector_of_another_shape_is_refused(other: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.pt"
    shutil.copyfile(other, path)
    store_config(path, replaced(stored_config(path), "constants.detector.members", 3))
    with pytest.raises(CheckpointInvalid, match="size mismatch"):
        load_checkpoint(path)


class Shrunken:
    """The covariance that ``Statistics.covariance(0.3)`` is, of one class's rows."""

    def fit(self, rows: np.ndarray) -> "Shrunken":
        spread = np.cov(rows, rowvar=False, bias=True)
        self.covariance_ = 0.7 * spread + 0.3 * np.trace(spread) / len(spread) * np.eye(len(spread))
        return self


def test_there_is_no_binary_variant() -> None:
    with pytest.raises(BadConfig, match="scores of its classes give a logit"):
        parse_config({"system": "block_spectra", "size": 40, "binary": True})


def test_length_is_part_of_its_distances() -> None:
    with pytest.raises(BadConfig, match="l2_normalised is no variant"):
        parse_config({"system": "block_spectra", "size": 40, "l2_normalised": True})


def test_sides_must_be_whole_blocks() -> None:
    with pytest.raises(BadConfig, match="size must be a multiple of 8"):
        parse_config({"system": "block_spectra", "size": 44})


def test_a_handful_of_images_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a": textures(1, 0), "real": textures(1, 1)})
    with pytest.raises(BadConfig, match="2 images are too few for 2 classes"):
        fitted(folder)


def test_labels_are_as_the_folder_has_them(folder: ImageFolder) -> None:
    assert make_labels(folder, ["real"])[1] == Label(id=1, name="real", kind="real")
