"""Kernels against literals typed from the literature; the graph against NumPy."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from bundle.manifest import Label
from trainer.models.srm_metric import SYSTEM, S1Config, S1Objective, SrmFilters, SrmMetricNet, srm_kernels

KV = (
    np.array(
        [
            [-1, 2, -2, 2, -1],
            [2, -6, 8, -6, 2],
            [-2, 8, -12, 8, -2],
            [2, -6, 8, -6, 2],
            [-1, 2, -2, 2, -1],
        ]
    )
    / 12
)
KB = np.array([[0, 0, 0, 0, 0], [0, -1, 2, -1, 0], [0, 2, -4, 2, 0], [0, -1, 2, -1, 0], [0, 0, 0, 0, 0]]) / 4
HORIZONTAL = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, -2, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]) / 2
THIRD_TO_THE_RIGHT = np.array([[0] * 5, [0] * 5, [0, 1, -3, 3, -1], [0] * 5, [0] * 5]) / 3
EDGE3_UP = np.array([[0] * 5, [0, -1, 2, -1, 0], [0, 2, -4, 2, 0], [0] * 5, [0] * 5]) / 4
EDGE5_UP = np.array([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [0] * 5, [0] * 5]) / 12


def has(kernels: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    return any(np.allclose(kernel, wanted) for kernel in kernels)


def test_the_three_kernels_of_rgbn() -> None:
    np.testing.assert_allclose(srm_kernels("rgbn3"), [KB, KV, HORIZONTAL])


@pytest.mark.parametrize("wanted", [KV, KB, HORIZONTAL, THIRD_TO_THE_RIGHT, EDGE3_UP, EDGE5_UP])
@pytest.mark.parametrize("turns", range(4))
def test_the_thirty_kernels_hold_the_known_ones_in_every_direction(wanted: np.ndarray[Any, Any], turns: int) -> None:
    assert has(srm_kernels("srm30"), np.rot90(wanted, turns))


def test_there_are_thirty_different_kernels() -> None:
    kernels = srm_kernels("srm30")
    assert kernels.shape == (30, 5, 5)
    assert len({kernel.tobytes() for kernel in np.round(kernels, 9) + 0.0}) == 30


@pytest.mark.parametrize("which", ["rgbn3", "srm30"])
def test_kernels_do_not_answer_to_flat_images(which: Literal["rgbn3", "srm30"]) -> None:
    np.testing.assert_allclose(srm_kernels(which).sum(axis=(1, 2)), 0, atol=1e-12)


def test_all_but_first_differences_and_edges_do_not_answer_to_ramps() -> None:
    y, x = np.mgrid[:5, :5]
    kernels = srm_kernels("srm30")
    straight = np.concatenate([kernels[8:20], kernels[28:]])  # second and third differences, SQUARE3x3, SQUARE5x5
    for ramp in (x, y, 3 * x - 2 * y + 7):
        np.testing.assert_allclose((straight * ramp).sum(axis=(1, 2)), 0, atol=1e-12)
    assert np.abs(kernels[:8] * x).sum() > 0


def test_kv_has_all_symmetries_of_the_square() -> None:
    for turns in range(4):
        np.testing.assert_array_equal(np.rot90(KV, turns), KV)
    np.testing.assert_array_equal(KV.T, KV)


@pytest.mark.parametrize("truncation", [None, 3.0])
def test_a_map_is_the_sum_over_the_channels_on_the_0_255_scale(truncation: float | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    maps = SrmFilters("rgbn3", truncation)(torch.from_numpy(image[None]))[0].numpy()

    padded = np.pad(image.astype(float), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    for number, kernel in enumerate([KB, KV, HORIZONTAL]):
        for y in range(9):
            for x in range(9):
                wanted = sum((padded[y : y + 5, x : x + 5, channel] * kernel).sum() for channel in range(3))
                if truncation is not None:
                    wanted = min(max(wanted, -truncation), truncation)
                assert maps[number, y, x] == pytest.approx(wanted, abs=1e-3)


def test_filters_are_fixed_and_travel_with_the_weights() -> None:
    net = SrmMetricNet(S1Config(size=32), 3)
    assert "srm.kernels" in net.state_dict()
    assert not any(name.startswith("srm") for name, _ in net.named_parameters())


def test_the_defaults_are_the_papers() -> None:
    config = S1Config()
    assert (config.size, config.embedding, config.epochs, config.batch, config.lr) == (128, 512, 10, 128, 1e-3)
    assert not config.l2_normalised


def test_centres_follow_their_images_after_the_step() -> None:
    config = S1Config(size=32, embedding=2, centre_weight=0.25, centre_rate=0.5)
    labels = [Label(id=0, name="a", kind="generator"), Label(id=1, name="real", kind="real")]
    objective, numbers = S1Objective(config, labels), torch.tensor([0, 0, 1])
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, -2.0]])
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    losses = objective(lambda _: (scores, features), torch.empty(3), numbers)
    cross_entropy = (np.log(1 + np.exp(-1)) + np.log(2) + np.log(1 + np.exp(2))) / 3
    centre = 0.5 * (1 + 13 + 4) / 3  # centres start at zero
    assert losses.parts["cross_entropy"].item() == pytest.approx(cross_entropy)
    assert losses.parts["centre"].item() == pytest.approx(centre)
    assert losses.total.item() == pytest.approx(cross_entropy + 0.25 * centre)
    assert not objective.centre.centres.any()
    objective.after_step(losses, numbers)
    np.testing.assert_allclose(objective.centre.centres, [[4 / 6, 2 / 6], [0, -0.5]], rtol=1e-6)


def test_the_binary_variant_has_the_cross_entropy_alone() -> None:
    labels = [Label(id=0, name="real", kind="real"), Label(id=1, name="gan", kind="generator")]
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    for binary, parts in ((True, {"cross_entropy"}), (False, {"cross_entropy", "centre"})):
        config = S1Config(size=32, embedding=8, binary=binary)
        net = SrmMetricNet(config, 1 if binary else 2)
        losses = SYSTEM.objective(config, labels)(net, images, torch.tensor([0, 1, 0, 1]))
        assert set(losses.parts) == parts
        if binary:
            assert losses.total == losses.parts["cross_entropy"]
