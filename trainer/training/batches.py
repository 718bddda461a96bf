"""Batches of training images: their order, their augmentation, and the share of each process."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.data.enlarged import Enlarged
from trainer.data.folder import ImageFolder
from trainer.training.config import TrainConfig
from trainer.training.device import World
from trainer.training.systems import AugmentImage


class Batches:
    """This process's share of every batch of an epoch: ``uint8[N, size, size, 3]``, ``int64[N]``."""

    def __init__(
        self, config: TrainConfig, folder: ImageFolder | Enlarged, augment: AugmentImage | None, world: World
    ) -> None:
        self._order = _Order(folder, config.batch // world.size, world, config.seed)
        self._images = _Gathered(folder, augment, config.seed)
        self._loader = DataLoader(
            self._images,
            batch_size=None,  # a batch is read at once, without a tensor an image
            sampler=self._order,
            num_workers=config.workers,
            pin_memory=world.device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the epoch ``number``, from 0; processes that decode are started anew, and so know of it."""
        self._order.epoch = self._images.epoch = number
        return iter(self._loader)


class _Order(Sampler[list[int]]):
    """Indices of the images of each batch, which depend on seed and epoch alone.

    All processes have as many: a few images are drawn twice where they cannot be shared evenly. The last, incomplete
    batch of an epoch is dropped (batch norm suffers from a small one), unless it is the only one.
    """

    def __init__(self, folder: ImageFolder | Enlarged, batch: int, world: World, seed: int) -> None:
        self._folder, self._world, self._seed = folder, world, seed
        self._share = -(-len(folder) // world.size)
        self._batch = min(batch, self._share)
        self.epoch = 0

    def __len__(self) -> int:
        return self._share // self._batch

    def __iter__(self) -> Iterator[list[int]]:
        if self._folder.cached is None:
            order = self._folder.shuffled(np.random.default_rng((self._seed, self.epoch)))  # shards front to back
        else:
            generator = torch.Generator().manual_seed(self._seed + self.epoch)
            order = torch.randperm(len(self._folder), generator=generator).numpy()
        own = np.resize(order, self._share * self._world.size)[self._world.rank :: self._world.size]
        for index in range(len(self)):
            yield own[index * self._batch : (index + 1) * self._batch].tolist()


class _Gathered(Dataset[tuple[Tensor, Tensor]]):
    """Images of a batch, read at once; the augmentation of each depends on seed, epoch and its index alone."""

    def __init__(self, folder: ImageFolder | Enlarged, augment: AugmentImage | None, seed: int) -> None:
        self._folder, self._augment, self._seed = folder, augment, seed
        self.epoch = 0

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        pixels = self._folder.pixels(indices)
        if self._augment is not None:
            draws = (np.random.default_rng((self._seed, self.epoch, index)) for index in indices)
            pixels = np.stack([self._augment(image, rng) for image, rng in zip(pixels, draws, strict=True)])
        return torch.from_numpy(pixels), torch.from_numpy(self._folder.labels[indices])
