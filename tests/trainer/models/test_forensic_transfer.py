"""Residuals against plain loops, the objective against its formula, adaptation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bundle.manifest import Label
from tests.trainer.conftest import MakeFolder
from trainer.errors import BadConfig
from trainer.models.forensic_transfer import (
    ForensicTransferConfig,
    ForensicTransferNet,
    ForensicTransferObjective,
    Residual,
)
from trainer.models.srm_metric import S1Config
from trainer.training.loop import train
from trainer.training.systems import system

LABELS = (
    Label(id=0, name="a", kind="generator"),
    Label(id=1, name="real", kind="real"),
    Label(id=2, name="z", kind="generator"),
)
TINY = ForensicTransferConfig(size=32, width=1, epochs=1, batch=4)


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(100, 130, (count, size, size, 3), np.uint8))


def test_residuals_are_third_derivatives_of_each_channel() -> None:
    image = np.random.default_rng(0).integers(100, 112, (7, 9, 3), np.uint8)
    found = Residual()(torch.from_numpy(image[None]))[0].numpy()
    wide = np.pad(image.astype(float), ((1, 2), (1, 2), (0, 0)), mode="reflect")
    for channel in range(3):
        for y in range(7):
            for x in range(9):
                row, column = wide[y + 1, x : x + 4, channel], wide[y : y + 4, x + 1, channel]
                across = (row * [1, -3, 3, -1]).sum() / 32
                down = (column * [1, -3, 3, -1]).sum() / 32
                assert found[channel, y, x] == pytest.approx(np.clip(across, -1, 1), abs=1e-5)
                assert found[3 + channel, y, x] == pytest.approx(np.clip(down, -1, 1), abs=1e-5)


def test_the_latent_falls_into_equal_parts() -> None:
    for outputs, maps in ((1, 128), (2, 128), (3, 126), (8, 128)):
        net = ForensicTransferNet(ForensicTransferConfig(size=32), outputs)
        _, latent = net.encode(images(2))
        assert latent.shape == (2, maps, 2, 2)
        assert (latent >= 0).all()
    with pytest.raises(BadConfig, match="width: 1 gives fewer latent maps than the 17 labels need"):
        ForensicTransferNet(TINY, 17)


@pytest.mark.parametrize("binary", [True, False])
def test_the_stronger_part_decides(*, binary: bool) -> None:
    net = ForensicTransferNet(TINY, 1 if binary else 4)
    latent = torch.zeros(2, 16, 2, 2)
    latent[0, :2], latent[1, -2:] = 3.0, 3.0
    scores, activations = net.score(latent)
    if binary:
        np.testing.assert_allclose(scores.numpy()[:, 0], [-10 * 3 * 2 / 8, 10 * 3 * 2 / 8], rtol=1e-6)
    else:
        assert scores.argmax(1).tolist() == [0, 3]
    np.testing.assert_allclose(activations.numpy(), latent.mean((2, 3)).numpy())


def test_only_the_right_part_reaches_the_decoder() -> None:
    torch.manual_seed(0)
    net = ForensicTransferNet(TINY, 1).eval()
    latent = torch.rand(2, 16, 2, 2)
    parts = torch.tensor([0, 1])
    other = latent.clone()
    other[0, 8:], other[1, :8] = 9.0, 9.0
    assert torch.equal(net.decode(latent, parts), net.decode(other, parts))
    assert not torch.equal(net.decode(latent, parts), net.decode(latent, 1 - parts))


@pytest.mark.parametrize("binary", [True, False])
def test_the_objective_is_activation_plus_a_tenth_of_reconstruction(*, binary: bool) -> None:
    torch.manual_seed(0)
    config = ForensicTransferConfig(size=32, width=2, binary=binary)
    net = ForensicTransferNet(config, 1 if binary else 3).eval()
    labels = torch.tensor([2, 1, 0])
    losses = ForensicTransferObjective(config, LABELS)(net, images(3), labels)
    residual, latent = net.encode(images(3))
    parts = [1, 0, 1] if binary else labels.tolist()
    count = 2 if binary else 3
    activation, error = 0.0, 0.0
    for number, part in enumerate(parts):
        pieces = np.split(latent[number].detach().numpy(), count)
        for k, piece in enumerate(pieces):
            activation += abs(np.abs(piece).mean() - (k == part)) / 3
        kept = np.concatenate([piece * (k == part) for k, piece in enumerate(pieces)])
        back = net.decoder(torch.from_numpy(kept)[None])[0].detach()
        error += float((back - residual[number]).abs().mean()) / 3
    assert losses.parts["activation"].item() == pytest.approx(activation, rel=1e-4)
    assert losses.parts["reconstruction"].item() == pytest.approx(error, rel=1e-4)
    assert losses.total.item() == pytest.approx(activation + 0.1 * error, rel=1e-4)


def test_a_few_images_of_another_generator_adapt_a_trained_network(make_folder: MakeFolder, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    first = train(TINY, make_folder("one", ("grid", "real")), tmp_path / "one.pt", None, quiet)
    source = TINY.model_copy(update={"source": tmp_path / "one.pt", "epochs": 0})
    kept = train(source, make_folder("two", ("other", "real")), tmp_path / "two.pt", None, quiet)
    assert all(torch.equal(first.weights[name], kept.weights[name]) for name in first.weights)
    train(source.model_copy(update={"epochs": 1}), tmp_path / "two", tmp_path / "three.pt", None, quiet)
    wider = source.model_copy(update={"width": 2})
    with pytest.raises(BadConfig, match=r"source: .*one\.pt has another width or number of labels"):
        train(wider, tmp_path / "two", tmp_path / "four.pt", None, quiet)
    train(S1Config(size=32, fit="crop", epochs=0, embedding=4), tmp_path / "two", tmp_path / "s1.pt", None, quiet)
    wrong = source.model_copy(update={"source": tmp_path / "s1.pt"})
    with pytest.raises(BadConfig, match="is of s1, expected forensic_transfer"):
        train(wrong, tmp_path / "two", tmp_path / "four.pt", None, quiet)


def test_it_stops_where_accuracy_no_longer_rises() -> None:
    config = ForensicTransferConfig(size=32, patience=3)
    assert config.needs_val
    assert not ForensicTransferConfig().needs_val
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = system("forensic_transfer").schedule(config, optimiser, 1)
    assert [schedule.after_epoch(accuracy) for accuracy in (0.5, 0.6, 0.6, 0.55, 0.6)] == [
        True,
        True,
        True,
        True,
        False,
    ]
