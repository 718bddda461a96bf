"""A training set with more than its files: further classes, and images that an epoch has several times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from trainer.arrays import Images
from trainer.data.folder import ImageFolder


@dataclass(frozen=True, eq=False)
class Enlarged:
    """Images of an epoch, in the order of ``indices``; ``Batches`` takes it like a folder.

    Attributes:
        folder: images in files.
        further: ``uint8[M, size, size, 3]``, images of classes that exist in training only.
        indices: ``int64[N]``, of images of the folder, or of further ones, which come after those.
        labels: ``int64[N]``; further classes come after the folder's.
    """

    folder: ImageFolder
    further: Images
    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, folder: ImageFolder, further: Sequence[Images], times: npt.NDArray[np.int64]) -> Self:
        """Take each of the folder's images so many ``times`` (``int64[N]``), each of the further classes' once."""
        after = len(folder.classes) + np.arange(len(further))
        labels = np.concatenate([folder.labels, np.repeat(after, [len(images) for images in further])])
        added = np.concatenate([folder.pixels([0])[:0], *further])
        indices = np.repeat(np.arange(len(labels)), np.concatenate([times, np.ones(len(added), np.int64)]))
        return cls(folder, added, indices, labels[indices])

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def cached(self) -> Images | None:
        """Cache of the folder; None where its files are decoded anew each epoch."""
        return self.folder.cached

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Images:
        """Pixels of some images, ``uint8[n, size, size, 3]``."""
        chosen = self.indices[indices]
        own = chosen < len(self.folder)
        found = np.empty((len(chosen), *self.further.shape[1:]), np.uint8)
        if own.any():
            found[own] = self.folder.pixels(chosen[own])
        found[~own] = self.further[chosen[~own] - len(self.folder)]
        return found

    def shuffled(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """All indices in a random order, ``int64[N]``; shards are not read from front to back."""
        return rng.permutation(len(self))
