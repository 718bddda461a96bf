"""Random generators: every design keeps an image's shape, the same seed gives the same pixels."""

import numpy as np
import pytest
import torch

from trainer.synthesis.random_upsamplers import MULTIPLE, Design, simulate, simulate_once

pytestmark = pytest.mark.slow


def photographs(count: int = 8, size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (count, 4, 4, 3)).astype(np.float64)
    smooth = np.kron(coarse, np.ones((1, size // 4, size // 4, 1)))
    return np.rint(smooth + rng.normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_every_design_keeps_the_shape(seed: int) -> None:
    design = Design.draw(np.random.default_rng(seed))
    images = torch.zeros(2, 3, 4 * MULTIPLE, 3 * MULTIPLE)
    assert design.build()(images).shape == images.shape


def test_designs_differ() -> None:
    rng = np.random.default_rng(0)
    assert len({Design.draw(rng) for _ in range(50)}) > 45


def test_generators_learn_differ_and_come_again() -> None:
    real = photographs()
    told: list[tuple[int, int]] = []
    state = torch.random.get_rng_state()
    made = simulate(real, 2, 60, seed=3, progress=lambda done, total: told.append((done, total)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert told == [(1, 2), (2, 2)]
    for images in made:
        assert images.shape == real.shape
        assert images.dtype == np.uint8
        assert np.abs(images.astype(int) - real).mean() < 14
    assert (made[0] != made[1]).any()
    again = simulate(real, 1, 60, seed=3)
    np.testing.assert_array_equal(again[0], made[0])  # and does not depend on how many are made


def test_once_for_the_same_photographs() -> None:
    real = photographs()
    told: list[int] = []
    first = simulate_once(real, 1, 2, 0, lambda done, _: told.append(done))
    assert simulate_once(real.copy(), 1, 2, 0, lambda done, _: told.append(done)) is first
    assert told == [1]
    assert simulate_once(real[1:], 1, 2, 0) is not first
    np.testing.assert_array_equal(first[0], simulate(real, 1, 2, 0)[0])
