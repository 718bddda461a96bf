from typing import Any

import numpy as np
import pytest
import torch

from trainer.synthesis.deep_image_prior import Hourglass, PriorConfig, reconstruct

pytestmark = pytest.mark.slow

TINY = PriorConfig(width=8, levels=2, steps=30)


def noise(size: int = 32) -> Any:
    y, x = np.mgrid[:size, :size]
    waves = 128 + 60 * np.sin(x / 5)[..., None] + 40 * np.cos(y / 7)[..., None] * np.array([1, -1, 0.5])
    return waves.clip(0, 255).astype(np.uint8)


def test_the_published_steps_and_snapshots() -> None:
    config = PriorConfig()
    assert config.snapshots == (1000, 2000, 3000, 4000, 5000, 6000)
    assert (config.rates, config.steps, config.width, config.levels) == ((1e-2, 1e-3, 1e-4), 2000, 128, 5)


def test_reconstructions_come_closer_and_are_the_same_twice() -> None:
    image, steps = noise(), list[int]()
    made = reconstruct(image, TINY, seed=3, progress=steps.append)
    assert steps == list(range(1, 91))
    assert len(made) == 6
    errors = [np.abs(one.astype(int) - image).mean() for one in made]
    assert errors[-1] < errors[0]
    assert errors[-1] < 25
    for one, other in zip(made, reconstruct(image, TINY, seed=3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(made[-1], reconstruct(image, TINY, seed=4)[-1])


def test_the_learning_rate_falls_after_each_third(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    reconstruct(noise(), PriorConfig(width=2, levels=1, steps=4), seed=0)
    assert rates == [1e-2] * 4 + [1e-3] * 4 + [1e-4] * 4


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_an_hourglass_halves_as_often_as_it_doubles(upsampling: Any) -> None:
    net = Hourglass(PriorConfig(width=4, levels=3, upsampling=upsampling))
    strided = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    doubling = [m for m in net.modules() if isinstance(m, torch.nn.Upsample)]
    assert (len(strided), len(doubling)) == (3, 3)
    assert net(torch.rand(1, 32, 16, 32)).shape == (1, 3, 16, 32)
