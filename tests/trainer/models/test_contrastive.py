"""The network's parts against plain convolutions, and what training and fitting leave behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.signal import correlate2d

from tests.trainer.conftest import MakeFolder
from trainer.evaluate import embed
from trainer.loop import train
from trainer.models.contrastive import ContrastiveConfig, ContrastiveNet, Residuals
from trainer.models.srm_metric import SQUARE3, SQUARE5
from trainer.systems import parse_config

SMALL = {"system": "contrastive", "size": 32, "widths": [4, 4, 8, 8, 8], "directions": 4, "epochs": 3, "batch": 8}


def test_residuals_are_bent_srm_filters_of_each_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    found = Residuals()(torch.from_numpy(image[None]))[0].numpy()
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


def test_features_are_means_and_deviations_of_the_stages() -> None:
    config = parse_config(SMALL)
    assert isinstance(config, ContrastiveConfig)
    net = ContrastiveNet(config, 2).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8))
    with torch.inference_mode():
        features = net.features(images)
        first = net.stages[0](net.residuals(images)).double()
    scale = 1 / np.sqrt(1 + net.norm.eps)  # batch norm has seen nothing yet
    np.testing.assert_allclose(features[:, :4], first.mean(dim=(2, 3)) * scale, atol=1e-4)
    deviation = (first.var(dim=(2, 3), correction=0) + 1e-4).sqrt()
    np.testing.assert_allclose(features[:, 4:8], deviation * scale, atol=1e-4)
    assert features.shape == (3, 2 * (4 + 8 + 8 + 8))


@pytest.mark.parametrize("binary", [False, True])
def test_a_run_ends_with_an_embedding_in_which_classes_differ(
    make_folder: MakeFolder, tmp_path: Path, *, binary: bool
) -> None:
    data = make_folder(classes=("coarse", "grid", "real"), images=12)
    config = parse_config({**SMALL, "binary": binary})
    checkpoint = train(config, data, tmp_path / "c.pt", None, Console(quiet=True))
    assert {"cross_entropy", "contrast"} <= checkpoint.history[-1].parts.keys()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    _, embeddings = embed(checkpoint.model(), images)
    assert embeddings.shape == (5, 4)
    assert (embeddings[:, :2].std(axis=0) > 0).all()
    assert (embeddings[:, 2:] == 0).all()  # three classes differ in two directions
