"""Training images of only some of the things that a data set shows (S3, Table 2: 2, 4, 8, 16 of 20 LSUN classes)."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from sklearn.cluster import KMeans

from bundle.preprocess import decode
from trainer.experiments.corpus import Picture
from trainer.experiments.study import Classes

CLUSTERS = 20
"""As many as S3's data set has classes."""


Selection = Callable[[Sequence[Picture]], tuple[Picture, ...]]
"""Keeps those of some images that show one of the chosen things."""


def some_categories(classes: Classes, count: int) -> tuple[Selection, str]:
    """What keeps images of the first ``count`` categories of ``classes``, and a remark on what these are.

    Where the data set does not say what its images show, clusters of them stand for it: k-means on 8x8 thumbnails of
    the photographs, the largest first; every image belongs to the nearest cluster.
    """
    pictures = [picture for some in classes.values() for picture in some]
    named = sorted({picture.category for picture in pictures})
    if len(named) > 1:
        chosen = set(named[:count])
        return lambda some: tuple(p for p in some if p.category in chosen), ""
    photographs = _thumbnails([picture for picture in pictures if not picture.generated])
    clusters = KMeans(min(CLUSTERS, len(photographs)), random_state=0, n_init=1).fit(photographs)
    largest = np.argsort(-np.bincount(clusters.labels_), kind="stable")[:count]

    def kept(some: Sequence[Picture]) -> tuple[Picture, ...]:
        nearest = clusters.predict(_thumbnails(some))
        return tuple(p for p, cluster in zip(some, nearest, strict=True) if cluster in largest)

    return kept, f"The corpus does not say what its images show: {CLUSTERS} clusters of thumbnails stand for that."


def _thumbnails(pictures: Sequence[Picture]) -> np.ndarray:
    small = [decode(p.extent.read()).image.resize((8, 8), Image.Resampling.BOX) for p in pictures]
    return np.stack([np.asarray(image, np.float64).ravel() for image in small])
