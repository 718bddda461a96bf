from typing import Any

import numpy as np
import pytest
import torch

from trainer.synthesis.autoencoders import reproduce
from trainer.synthesis.autogan import GAN_UPSAMPLINGS, GanConfig, Simulator, _Pool, train_simulator

pytestmark = pytest.mark.slow

TINY = GanConfig(width=4, blocks=1, critic_layers=2, steps=60, lr=5e-3, batch=2, error_weight=10, pool=3)


def real(count: int, size: int = 32) -> Any:
    squares = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return squares.repeat(size // 4, 1).repeat(size // 4, 2)


@pytest.mark.parametrize("upsampling", GAN_UPSAMPLINGS)
def test_it_learns_to_reproduce_and_is_the_same_twice(upsampling: Any) -> None:
    errors: list[float] = []
    images = real(6)
    model = train_simulator(upsampling, images, TINY, seed=1, progress=lambda _, error: errors.append(error))
    made = reproduce(model, images)
    assert made.shape == images.shape
    assert np.mean(errors[-8:]) < 0.8 * np.mean(errors[:4])
    again = reproduce(train_simulator(upsampling, images, TINY, seed=1), images)
    np.testing.assert_array_equal(made, again)


def test_the_generator_is_cyclegans() -> None:
    torch.manual_seed(0)
    net = Simulator("transposed", 64, 9)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    maps = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
    assert maps[:3] == [(3, 64, 7, 1), (64, 128, 3, 2), (128, 256, 3, 2)]
    assert maps[3:21] == [(256, 256, 3, 1)] * 18
    assert maps[21:] == [(256, 128, 3, 2), (128, 64, 3, 2), (64, 3, 7, 1)]
    assert sum(p.numel() for p in net.parameters()) == 11_378_179  # as counted for CycleGAN's with nine blocks
    assert all(0.018 < float(m.weight.detach().std()) < 0.022 for m in convolutions)


@pytest.mark.parametrize("upsampling", GAN_UPSAMPLINGS)
def test_sides_stay_and_values_lie_in_0_to_1(upsampling: Any) -> None:
    made = Simulator(upsampling, 2, 1)(torch.rand(2, 3, 32, 48))
    assert made.shape == (2, 3, 32, 48)
    assert 0 <= float(made.detach().min()) <= float(made.detach().max()) <= 1


def test_the_pool_gives_earlier_fakes_every_other_time() -> None:
    torch.manual_seed(0)
    pool = _Pool(4)
    given = [pool.exchange(torch.full((1, 1), float(number))).item() for number in range(400)]
    assert given[:4] == [0, 1, 2, 3]
    fresh = sum(number == shown for number, shown in enumerate(given[4:], start=4)) / 396
    assert 0.4 < fresh < 0.6
    assert _Pool(0).exchange(torch.ones(2, 1)).tolist() == [[1.0], [1.0]]
