"""Statistics against plain NumPy and SciPy; the fit against scikit-learn's discriminant."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bundle.manifest import Label
from trainer.data import ImageFolder, make_labels
from trainer.errors import BadConfig
from trainer.models.block_spectra import LAGS, STATISTICS, BlockSpectra, BlockSpectraConfig, BlockSpectraNet, fit
from trainer.systems import make_network, parse_config


def textures(count: int, seed: int, size: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.normal(128, 30, (count, size, size, 3))).clip(0, 255).astype(np.uint8)


def plain(image: np.ndarray) -> np.ndarray:
    """By loops, as the description says."""
    pixels = image.astype(np.float64)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, red - green, blue - green, green]

    def magnitudes(plane: np.ndarray) -> np.ndarray:
        blocks = [plane[y : y + 8, x : x + 8] for y in range(0, len(plane), 8) for x in range(0, len(plane), 8)]
        return np.abs([dctn(block, norm="ortho") for block in blocks]).reshape(-1, 64)

    on_grid = [magnitudes(plane) for plane in planes]
    shifted = [magnitudes(plane[4:-4, 4:-4]) for plane in planes]
    residuals = []
    for plane in planes[:3]:
        p = np.empty((len(plane) - 2, len(plane) - 2))
        for y in range(len(p)):
            for x in range(len(p)):
                p[y, x] = (plane[y : y + 3, x : x + 3] * np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])).sum()
        residuals.append(p)
    powers = [(r**2).mean() + 1 for r in residuals]
    lagged = []
    for residual, power in zip(residuals, powers, strict=True):
        for down, right in LAGS:
            height, width = residual.shape
            products = [
                residual[y, x] * residual[y - down, x - right]
                for y in range(down, height)
                for x in range(width)
                if 0 <= x - right < width
            ]
            lagged.append(np.mean(products) / power)
    grids = (len(luma) - 3) // 4
    places = np.array(
        [
            np.mean([abs(residuals[0][1 + 4 * i + y, 1 + 4 * j + x]) for i in range(grids) for j in range(grids)])
            for y in range(4)
            for x in range(4)
        ]
    )
    by_place = np.log(places + 0.3)
    cross = [(residuals[i] * residuals[j]).mean() / np.sqrt(powers[i] * powers[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    peaked = np.log((np.sqrt((on_grid[0] ** 2).mean(axis=0)) + 0.1) / (on_grid[0].mean(axis=0) + 0.1))
    dark, light = (pixels <= 1).mean(axis=(0, 1)), (pixels >= 254).mean(axis=(0, 1))
    return np.concatenate(
        [
            *(np.log(m.mean(axis=0) + 0.1) for m in on_grid),
            peaked,
            *(np.log(m.mean(axis=0) + 0.1) for m in shifted),
            lagged,
            by_place - by_place.mean(),
            cross,
            np.sqrt([*dark, *light]),
        ]
    )


def test_the_statistics_are_what_the_description_says() -> None:
    images = textures(3, seed=1)
    images[1, :20] = 255
    images[2] = images[2] // 16
    found = BlockSpectra()(torch.from_numpy(images)).numpy()
    assert found.shape == (3, STATISTICS)
    np.testing.assert_allclose(found, [plain(image) for image in images], rtol=2e-4, atol=2e-4)


def folder_of(root: Path, classes: dict[str, np.ndarray]) -> ImageFolder:
    for name, images in classes.items():
        (root / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:03}.png")
    return ImageFolder.read(root, BlockSpectraConfig(size=40).preprocessing)


def fitted(folder: ImageFolder, **values: object) -> BlockSpectraNet:
    config = parse_config({"system": "block_spectra", "size": 40, "simulated": 0, **values})
    assert isinstance(config, BlockSpectraConfig)
    labels = make_labels(folder, config.real)
    net = make_network(config, labels)
    assert isinstance(net, BlockSpectraNet)
    fit(config, net, folder, folder.labels, lambda *_: None)
    return net.eval()


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    """Photographs, and two generators that leave a grid and a blur."""
    classes = {"real": textures(40, 1), "grid": textures(40, 2), "soft": textures(40, 3)}
    classes["grid"][:, ::2, ::2] = (classes["grid"][:, ::2, ::2] * 0.97).astype(np.uint8)
    soft = classes["soft"].astype(np.float64)
    classes["soft"] = np.rint(0.9 * soft + 0.1 * np.roll(soft, 1, axis=1)).astype(np.uint8)
    return folder_of(tmp_path, classes)


def test_distances_and_scores_are_those_of_the_discriminant(folder: ImageFolder) -> None:
    net = fitted(folder, shrinkage=0.3, directions=0)
    pixels = torch.from_numpy(folder.pixels(slice(None)))
    with torch.inference_mode():
        scores, embedding = net(pixels)
        rows = net.standardised(net.statistics(pixels)).numpy().astype(np.float64)
    means = np.stack([embedding.numpy()[folder.labels == i].mean(axis=0) for i in range(3)])
    distances = ((embedding.numpy()[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), scores.argmax(dim=1).numpy())
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunken(), priors=[1 / 3] * 3)
    decided = oracle.fit(rows, folder.labels).decision_function(rows)
    ours = scores.numpy().astype(np.float64)
    np.testing.assert_allclose(ours - ours[:, :1], decided - decided[:, :1], rtol=1e-2, atol=0.05)


class Shrunken:
    """The covariance that ``Statistics.covariance(0.3)`` is, of one class's rows."""

    def fit(self, rows: np.ndarray) -> "Shrunken":
        spread = np.cov(rows, rowvar=False, bias=True)
        self.covariance_ = 0.7 * spread + 0.3 * np.trace(spread) / len(spread) * np.eye(len(spread))
        return self


def test_few_directions_keep_what_separates(folder: ImageFolder) -> None:
    net = fitted(folder, directions=5)
    with torch.inference_mode():
        scores, embedding = net(torch.from_numpy(folder.pixels(slice(None))))
    assert (scores.argmax(dim=1).numpy() == folder.labels).mean() > 0.95
    assert (embedding[:, :2].std(dim=0) > 0.5).all()
    assert (embedding[:, 2:] == 0).all()  # three classes differ in two directions


def test_simulated_generators_add_directions_and_no_class(folder: ImageFolder) -> None:
    net = fitted(folder, directions=5, simulated=2, simulated_steps=3)
    with torch.inference_mode():
        scores, embedding = net(torch.from_numpy(folder.pixels(slice(None))))
    assert scores.shape[1] == 3
    assert (embedding[:, :4].std(dim=0) > 0).all()
    assert (embedding[:, 4:] == 0).all()


def test_there_is_no_binary_variant() -> None:
    with pytest.raises(BadConfig, match="scores of its classes give a logit"):
        parse_config({"system": "block_spectra", "size": 40, "binary": True})


def test_sides_must_be_whole_blocks() -> None:
    with pytest.raises(BadConfig, match="size must be a multiple of 8"):
        parse_config({"system": "block_spectra", "size": 44})


def test_a_handful_of_images_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a": textures(1, 0), "real": textures(1, 1)})
    with pytest.raises(BadConfig, match="2 images are too few for 2 classes"):
        fitted(folder)


def test_labels_are_as_the_folder_has_them(folder: ImageFolder) -> None:
    assert make_labels(folder, ["real"])[1] == Label(id=1, name="real", kind="real")
