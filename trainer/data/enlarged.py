"""A training set with more in it than its files: further classes, and images that an epoch has several times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from trainer.arrays import Images
from trainer.data.folder import ImageFolder


@dataclass(frozen=True, eq=False)
class Enlarged:
    """What an epoch goes through, in the order of ``numbers``; to ``Batches`` it is what a folder is.

    Attributes:
        folder: the files.
        further: ``uint8[M, size, size, 3]``, images of classes that are only there to learn from.
        numbers: ``int64[N]``, of an image of the folder, or of a further one after those.
        labels: ``int64[N]``; further classes come after the folder's.
    """

    folder: ImageFolder
    further: Images
    numbers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, folder: ImageFolder, further: Sequence[Images], times: npt.NDArray[np.int64]) -> Self:
        """Each of the folder's images so many ``times`` (``int64[N]``), each of the further classes' once."""
        after = len(folder.classes) + np.arange(len(further))
        labels = np.concatenate([folder.labels, np.repeat(after, [len(images) for images in further])])
        added = np.concatenate([folder.pixels([0])[:0], *further])
        numbers = np.repeat(np.arange(len(labels)), np.concatenate([times, np.ones(len(added), np.int64)]))
        return cls(folder, added, numbers, labels[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def cached(self) -> Images | None:
        """As the folder's: None where its files are decoded anew each epoch."""
        return self.folder.cached

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Images:
        """Some images, ``uint8[n, size, size, 3]``."""
        numbers = self.numbers[indices]
        own = numbers < len(self.folder)
        found = np.empty((len(numbers), *self.further.shape[1:]), np.uint8)
        if own.any():
            found[own] = self.folder.pixels(numbers[own])
        found[~own] = self.further[numbers[~own] - len(self.folder)]
        return found

    def shuffled(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """All indices in a random order, ``int64[N]``; shards are not read from front to back."""
        return rng.permutation(len(self))
