"""What an epoch has, and that batches get it."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.trainer.conftest import MakeFolder
from trainer.data.enlarged import Enlarged
from trainer.data.folder import ImageFolder
from trainer.training.batches import Batches
from trainer.training.config import TrainConfig
from trainer.training.device import World

CONFIG = TrainConfig.model_validate({"system": "s1", "size": 32, "batch": 5})


@pytest.fixture(params=[0, 4096])
def enlarged(make_folder: MakeFolder, request: pytest.FixtureRequest) -> Enlarged:
    folder = ImageFolder.read(make_folder(images=3), CONFIG.preprocessing, cache_mib=request.param)
    further = [np.full((count, 32, 32, 3), count, np.uint8) for count in (2, 4)]
    return Enlarged.of(folder, further, np.where(folder.labels == 0, 2, 1))


def test_images_and_labels(enlarged: Enlarged) -> None:
    folder, classes = enlarged.folder, len(enlarged.folder.classes)
    counts = [2 * 3, *[3] * (classes - 1), 2, 4]
    assert np.bincount(enlarged.labels).tolist() == counts
    assert len(enlarged) == sum(counts)
    assert sorted(enlarged.shuffled(np.random.default_rng(0))) == list(range(len(enlarged)))
    pixels = enlarged.pixels(range(len(enlarged)))
    np.testing.assert_array_equal(pixels[:6:2], folder.pixels(np.flatnonzero(folder.labels == 0)))
    np.testing.assert_array_equal(pixels[1:6:2], pixels[:6:2])
    np.testing.assert_array_equal(pixels[6:-6], folder.pixels(np.flatnonzero(folder.labels > 0)))
    assert pixels[-6:, 0, 0, 0].tolist() == [2, 2, 4, 4, 4, 4]


def test_batches_go_through_all_of_it(enlarged: Enlarged) -> None:
    batches = Batches(CONFIG, enlarged, None, World(0, 1, torch.device("cpu")))
    seen: Counter[int] = Counter()
    for images, labels in batches.epoch(0):
        assert images.shape == (5, 32, 32, 3)
        assert labels.shape == (5,)
        seen.update(labels.tolist())
    assert sum(seen.values()) == len(enlarged) // 5 * 5
