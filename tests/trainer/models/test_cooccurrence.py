"""Matrices against plain loops and scikit-image."""

import numpy as np
import pytest
import torch
from skimage.feature import graycomatrix

from trainer.models.cooccurrence import Cooccurrence, CooccurrenceConfig, CooccurrenceNet


def test_matrices_are_those_of_scikit_image_scaled_to_mean_1() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 20, 3), np.uint8)
    found = Cooccurrence(256)(torch.from_numpy(images)).numpy()
    for image, matrices in zip(images, found, strict=True):
        for channel in range(3):
            wanted = graycomatrix(image[..., channel], [1], [0], levels=256)[..., 0, 0]  # type: ignore[no-untyped-call]
            np.testing.assert_allclose(matrices[channel], wanted * (256**2 / (24 * 19)), rtol=1e-6)
    np.testing.assert_allclose(found.mean(axis=(2, 3)), 1, rtol=1e-5)


def test_with_fewer_levels_neighbouring_grey_levels_are_one() -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    found = Cooccurrence(16)(torch.from_numpy(image[None]))[0].numpy()
    wanted = np.zeros((3, 16, 16))
    for y in range(9):
        for x in range(6):
            for channel in range(3):
                wanted[channel, image[y, x, channel] // 16, image[y, x + 1, channel] // 16] += 256 / 54
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    logs = Cooccurrence(16, "log")(torch.from_numpy(image[None]))[0].numpy()
    np.testing.assert_allclose(logs, np.log(1 + wanted), rtol=1e-5)


def test_layers_are_the_papers() -> None:
    net = CooccurrenceNet(CooccurrenceConfig(), 1)
    convolutions = [m for m in net.features if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0]) for m in convolutions] == [
        (32, 3), (32, 5), (64, 3), (64, 5), (128, 3), (128, 5),
    ]  # fmt: skip
    assert net.dense[0].in_features == 128 * 32 * 32
    assert net.head.in_features == 256


@pytest.mark.parametrize("size", [32, 48])
def test_the_network_does_not_depend_on_the_images_size(size: int) -> None:
    net = CooccurrenceNet(CooccurrenceConfig(size=size, levels=16, width=2, dense=8), 3)
    scores, features = net(torch.zeros(2, size, size, 3, dtype=torch.uint8))
    assert scores.shape == (2, 3)
    assert features.shape == (2, 8)
