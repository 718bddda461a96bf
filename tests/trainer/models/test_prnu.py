"""The noise filter, fingerprint and scores against naive ones: PyWavelets, NumPy's FFT, plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pywt
import torch
from PIL import Image
from rich.console import Console

from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig
from trainer.models.prnu import Prnu, PrnuConfig, WaveletNoise, share_of_noise
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import class_scores, embed
from trainer.training.loop import train
from trainer.training.systems import read_config

Plane = np.ndarray[Any, Any]
SIZE = 32
short_for_four_levels = pytest.mark.filterwarnings("ignore:Level value")  # PyWavelets would stop at two
GREY = (0.29893602, 0.58704307, 0.11402090)


def naive_damp(values: Plane, variance: float) -> Plane:
    height, width = values.shape
    out = np.empty_like(values)
    for y in range(height):
        for x in range(width):
            local = []
            for window in (3, 5, 7, 9):
                reach, power = window // 2, 0.0
                for v in range(y - reach, y + reach + 1):
                    for u in range(x - reach, x + reach + 1):
                        if 0 <= v < height and 0 <= u < width:
                            power += values[v, u] ** 2
                local.append(max(0.0, power / window**2 - variance))
            out[y, x] = values[y, x] * variance / (min(local) + variance)
    return out


def naive_noise(plane: Plane) -> Plane:
    approximation, *details = pywt.wavedec2(plane, "db4", mode="periodization", level=4)
    damped = [tuple(naive_damp(band, 25.0) for band in level) for level in details]
    return np.asarray(pywt.waverec2([np.zeros_like(approximation), *damped], "db4", mode="periodization"))


def naive_pattern(planes: Plane) -> Plane:
    """From three channels: grey, zero rows and columns, Wiener filter in the Fourier domain, mean 0, length 1."""
    grey = sum(weight * plane for weight, plane in zip(GREY, planes, strict=True))
    grey = grey - grey.mean(axis=1, keepdims=True)
    grey = grey - grey.mean(axis=0, keepdims=True)
    spectrum = np.fft.fft2(grey)
    magnitude = np.abs(spectrum) / np.sqrt(grey.size)
    damped = naive_damp(magnitude, grey.std(ddof=1) ** 2)
    share = np.divide(damped, magnitude, out=np.zeros_like(grey), where=magnitude > 1e-12)
    clean = np.fft.ifft2(spectrum * share).real
    clean = clean - clean.mean()
    return np.asarray(clean / np.linalg.norm(clean))


def images_of(count: int, pattern: Plane | float, seed: int = 0) -> Plane:
    """Smooth content, noise, and a pattern that is multiplied in."""
    rng = np.random.default_rng(seed)
    content = rng.uniform(60, 200, (count, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    noisy = content * (1 + np.asarray(pattern)) + rng.normal(0, 2, content.shape)
    whole: Plane = noisy.round().clip(0, 255).astype(np.uint8)
    return whole


def folder_of(root: Path, classes: dict[str, Plane]) -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:03}.png")
    return root


def patterns() -> dict[str, Plane]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(0, 0.02, (SIZE, SIZE, 1)) for name in ("camera", "one", "two")}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, ImageFolder]:
    root = tmp_path_factory.mktemp("prnu")
    data = folder_of(root / "train", {n: images_of(6, p, seed) for seed, (n, p) in enumerate(patterns().items())})
    config = PrnuConfig(size=SIZE, real=("camera",))
    checkpoint = train(config, data, root / "prnu.pt", None, Console(quiet=True))
    return checkpoint, ImageFolder.read(data, config.preprocessing)


@pytest.mark.parametrize("variance", [25.0, 1.0])
def test_damping_is_that_of_plain_loops(variance: float) -> None:
    values = np.random.default_rng(0).normal(0, 6, (2, 3, 8, 11))
    found = values * share_of_noise(torch.from_numpy(values), variance).numpy()
    for image, wanted in zip(found.reshape(-1, 8, 11), values.reshape(-1, 8, 11), strict=True):
        np.testing.assert_allclose(image, naive_damp(wanted, variance), rtol=1e-10)


@short_for_four_levels
def test_noise_is_that_of_pywavelets() -> None:
    image = images_of(1, 0.0)[0].astype(float).transpose(2, 0, 1)
    found = WaveletNoise(SIZE, 4, 5.0)(torch.from_numpy(image).float()).numpy()
    for plane, channel in zip(found, image, strict=True):
        np.testing.assert_allclose(plane, naive_noise(channel), atol=2e-4)


def test_noise_of_small_amplitude_is_kept_and_a_flat_image_has_none() -> None:
    rng = np.random.default_rng(0)
    weak = rng.normal(0, 0.5, (1, SIZE, SIZE))
    filtered = WaveletNoise(SIZE, 4, 5.0)
    kept = filtered(torch.from_numpy(weak).float()).numpy()
    assert np.corrcoef(kept.ravel(), weak.ravel())[0, 1] > 0.99
    assert np.abs(filtered(torch.full((1, SIZE, SIZE), 200.0)).numpy()).max() < 1e-3


@short_for_four_levels
def test_fingerprints_embeddings_and_scores_are_the_naive_ones(fitted: tuple[Checkpoint, ImageFolder]) -> None:
    checkpoint, folder = fitted
    net = checkpoint.network()
    assert isinstance(net, Prnu)
    images = images_of(2, patterns()["two"], seed=99)
    scores, embedding = (tensor.detach().numpy() for tensor in net(torch.from_numpy(images)))
    prints = []
    for number in range(3):
        known = folder.pixels(np.flatnonzero(folder.labels == number)).astype(float).transpose(0, 3, 1, 2)
        noise = np.array([[naive_noise(channel) for channel in image] for image in known])
        prints.append(naive_pattern((noise * known).sum(axis=0) / ((known**2).sum(axis=0) + 1)))
    for row, print_ in zip(net.fingerprints.detach().numpy(), prints, strict=True):
        np.testing.assert_allclose(row, print_.ravel(), atol=2e-5)
    for number, image in enumerate(images.astype(float).transpose(0, 3, 1, 2)):
        wanted = naive_pattern(np.array([naive_noise(channel) for channel in image]))
        np.testing.assert_allclose(embedding[number], wanted.ravel(), atol=2e-5)
        correlations = [np.corrcoef(wanted.ravel(), print_.ravel())[0, 1] for print_ in prints]
        np.testing.assert_allclose(scores[number], SIZE * np.array(correlations), atol=1e-3)


def test_peak_to_correlation_energy_is_that_of_numpy(fitted: tuple[Checkpoint, ImageFolder]) -> None:
    net = Prnu(PrnuConfig(size=SIZE, score="pce"), 3)
    net.load_state_dict(fitted[0].weights)
    scores, embedding = net.eval()(torch.from_numpy(images_of(2, patterns()["one"], seed=5)))
    for row, noise in zip(scores.detach().numpy(), embedding.detach().numpy(), strict=True):
        for score, print_ in zip(row, net.fingerprints.detach().numpy(), strict=True):
            a, b = noise.reshape(SIZE, SIZE), print_.reshape(SIZE, SIZE)
            surface = np.array([[(a * np.roll(b, (y, x), (0, 1))).sum() for x in range(SIZE)] for y in range(SIZE)])
            away = [min(step, SIZE - step) > 5 for step in range(SIZE)]
            background = np.mean(surface[np.add.outer(away, away)] ** 2)
            peak = surface[0, 0]
            assert score == pytest.approx(np.sign(peak) * peak**2 / background, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("score", ["ncc", "pce"])
def test_images_are_named_by_the_pattern_that_they_carry(fitted: tuple[Checkpoint, ImageFolder], score: Any) -> None:
    net = Prnu(PrnuConfig(size=SIZE, score=score), 3)
    net.load_state_dict(fitted[0].weights)
    for number, pattern in enumerate(patterns().values()):
        scores, _ = net(torch.from_numpy(images_of(8, pattern, seed=50 + number)))
        assert (scores.argmax(1) == number).all()


def test_the_nearest_template_of_length_1_correlates_most(fitted: tuple[Checkpoint, ImageFolder]) -> None:
    checkpoint, folder = fitted
    net = checkpoint.network()
    scores = class_scores(net, folder)
    _, embeddings = embed(checkpoint.model(), folder.pixels(slice(None)))
    prints = checkpoint.weights["fingerprints"].numpy()
    distances = np.linalg.norm(embeddings[:, None] - prints, axis=2)
    np.testing.assert_array_equal(distances.argsort(axis=1), (-scores).argsort(axis=1))
    np.testing.assert_allclose(distances, np.sqrt(2 - 2 * scores / SIZE), atol=1e-4)


def test_with_one_output_all_generators_share_a_fingerprint(tmp_path: Path) -> None:
    classes = {name: images_of(4, pattern, seed) for seed, (name, pattern) in enumerate(patterns().items())}
    data = folder_of(tmp_path / "train", classes)
    config = PrnuConfig(size=SIZE, real=("camera",), binary=True)
    checkpoint = train(config, data, tmp_path / "prnu.pt", None, Console(quiet=True))
    logits, _ = embed(checkpoint.model(), images_of(5, patterns()["two"], seed=60))
    assert (logits > 0).all()
    logits, _ = embed(checkpoint.model(), images_of(5, patterns()["camera"], seed=61))
    assert (logits < 0).all()


def test_what_cannot_be_halved_or_trained_is_refused() -> None:
    with pytest.raises(BadConfig, match="size must be a multiple of 16 for 4 levels, got 72"):
        read_config(None, {"system": "prnu", "size": 72})
    with pytest.raises(BadConfig, match="epochs"):
        read_config(None, {"system": "prnu", "epochs": 1})
