from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from trainer.data.folder import ImageFolder
from trainer.models.srm_metric import S1Config
from trainer.training.batches import Batches
from trainer.training.device import World

MakeFolder = Callable[..., Path]
Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def folder(make_folder: MakeFolder, tiny: S1Config) -> ImageFolder:
    """Ten images, each of which can be told by its first pixels."""
    return ImageFolder.read(make_folder(images=5), tiny.preprocessing)


def world(rank: int, size: int) -> World:
    return World(rank, size, torch.device("cpu"))


def seen(batches: Batches, epoch: int, folder: ImageFolder) -> list[list[int]]:
    """Which images each batch held; their labels are checked."""
    known = {image.tobytes(): number for number, image in enumerate(folder.pixels(slice(None)))}
    found = []
    for images, labels in batches.epoch(epoch):
        assert images.dtype == torch.uint8
        numbers = [known[image.numpy().tobytes()] for image in images]
        assert labels.tolist() == folder.labels[numbers].tolist()
        found.append(numbers)
    return found


def test_every_image_comes_once_in_an_order_of_seed_and_epoch(folder: ImageFolder, tiny: S1Config) -> None:
    config = tiny.model_copy(update={"batch": 5})
    batches = Batches(config, folder, None, world(0, 1))
    first, second = seen(batches, 0, folder), seen(batches, 1, folder)
    assert len(batches) == len(first) == 2
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert seen(Batches(config, folder, None, world(0, 1)), 1, folder) == second
    assert seen(Batches(config.model_copy(update={"seed": 1}), folder, None, world(0, 1)), 0, folder) != first


def test_an_incomplete_batch_is_dropped_unless_it_is_the_only_one(folder: ImageFolder, tiny: S1Config) -> None:
    for batch, sizes in ((4, [4, 4]), (10, [10]), (64, [10])):
        batches = Batches(tiny.model_copy(update={"batch": batch}), folder, None, world(0, 1))
        assert [len(numbers) for numbers in seen(batches, 0, folder)] == sizes
        assert len(batches) == len(sizes)


def test_processes_share_the_batches_that_one_would_have(folder: ImageFolder, tiny: S1Config) -> None:
    config = tiny.model_copy(update={"batch": 4})
    whole = seen(Batches(config, folder, None, world(0, 1)), 3, folder)
    shares = [seen(Batches(config, folder, None, world(rank, 2)), 3, folder) for rank in (0, 1)]
    for batch, one, other in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(one + other)


def test_processes_have_as_many_batches_where_images_are_odd(folder: ImageFolder, tiny: S1Config) -> None:
    config = tiny.model_copy(update={"batch": 3})
    shares = [seen(Batches(config, folder, None, world(rank, 3)), 0, folder) for rank in range(3)]
    assert {len(share) for share in shares} == {4}  # 12 draws of 10 images
    assert {number for share in shares for batch in share for number in batch} == set(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_does_not_depend_on_who_decodes(folder: ImageFolder, tiny: S1Config, workers: int) -> None:
    def stamp(image: Pixels, rng: np.random.Generator) -> Pixels:
        stamped = image.copy()
        stamped[0, 0] = rng.integers(0, 256, 3)
        return stamped

    batches = Batches(tiny.model_copy(update={"batch": 5, "workers": workers, "seed": 7}), folder, stamp, world(0, 1))
    for epoch in (0, 1):
        corners = set()
        for images, _ in batches.epoch(epoch):
            corners |= {tuple(image[0, 0].tolist()) for image in images}
        wanted = {tuple(np.random.default_rng((7, epoch, index)).integers(0, 256, 3).tolist()) for index in range(10)}
        assert corners == wanted


def test_what_is_not_cached_comes_in_the_order_that_the_folder_likes(folder: ImageFolder, tiny: S1Config) -> None:
    streamed = replace(folder, cached=None)
    batches = Batches(tiny.model_copy(update={"batch": 10, "seed": 2}), streamed, None, world(0, 1))
    for epoch in (0, 1):
        wanted = streamed.shuffled(np.random.default_rng((2, epoch))).tolist()
        assert seen(batches, epoch, folder) == [wanted]
