"""Spectra against NumPy."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from bundle.manifest import Crop
from trainer.errors import BadConfig
from trainer.models.spectrum import LogSpectrum, SpectrumConfig, SpectrumNet
from trainer.training.systems import read_config, system


@pytest.mark.parametrize("size", [32, 45])
def test_a_channel_is_its_log_spectrum_between_two_percentiles(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    found = LogSpectrum(size)(torch.from_numpy(image[None]))[0].numpy()
    for channel in range(3):
        logs = np.log(np.abs(np.fft.fft2(image[..., channel] / 255)) + 1e-3)
        low, high = np.percentile(logs, 5), np.percentile(logs, 95)
        wanted = np.clip(2 * (logs - low) / (high - low) - 1, -1, 1)
        np.testing.assert_allclose(found[channel], wanted, atol=2e-4)


def test_a_flat_image_has_a_spectrum_too() -> None:
    assert LogSpectrum(32)(torch.full((1, 32, 32, 3), 128, dtype=torch.uint8)).isfinite().all()


def test_nearest_neighbour_upsampling_shows_at_once() -> None:
    small = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    enlarged = small.repeat(2, 0).repeat(2, 1)
    spectrum = LogSpectrum(32)(torch.from_numpy(enlarged[None]))[0].numpy()
    assert (spectrum[:, 16, :] == -1).all()  # the zero of the box filter at the highest frequency


def test_what_the_paper_leaves_open_is_as_in_its_code() -> None:
    config = SpectrumConfig()
    optimiser = system("spectrum").optimiser(config, torch.nn.Linear(1, 1))
    group = optimiser.param_groups[0]
    assert isinstance(optimiser, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["dampening"], group["weight_decay"]) == (0.01, 0.9, 0.9, 1e-4)
    assert (config.size, config.batch, config.epochs, config.backbone) == (224, 16, 20, "resnet34")


def test_training_images_are_crops_of_more() -> None:
    config = SpectrumConfig(size=32, load=40)
    assert config.training_preprocessing.views[0].crop == Crop(mode="centre", size=40)
    assert SpectrumConfig(size=32).training_preprocessing == SpectrumConfig(size=32).preprocessing
    augment = system("spectrum").augment_image(config)
    assert augment is not None
    image = np.arange(40 * 40 * 3, dtype=np.uint16).reshape(40, 40, 3).astype(np.uint8)
    crops = {augment(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(crops) > 10
    with pytest.raises(BadConfig, match="load must not be below size"):
        read_config(None, {"system": "spectrum", "size": 64, "load": 40})


def test_pretrained_weights_are_torchvisions_but_for_the_last_layer(tmp_path: Path) -> None:
    donor = torchvision.models.resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "resnet18.pth")
    config = SpectrumConfig(size=32, backbone="resnet18", pretrained=tmp_path / "resnet18.pth")
    net = SpectrumNet(config, 2)
    system("spectrum").start(config, net)
    assert torch.equal(net.resnet.conv1.weight, donor.conv1.weight)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    os.mkfifo(tmp_path / "fifo.pth")
    for name, message in (
        ("none.pth", "no weights here"),
        ("fifo.pth", "no weights here: not a regular file"),
        ("bad.pth", "not a torchvision state dict of resnet18"),
    ):
        with pytest.raises(BadConfig, match=f"{name}: {message}"):
            system("spectrum").start(config.model_copy(update={"pretrained": tmp_path / name}), net)
