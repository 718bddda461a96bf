"""Training images of some content categories of a data set only (S3, Table 2: 2, 4, 8, 16 of 20 LSUN classes)."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from sklearn.cluster import KMeans

from bundle.preprocess import decode
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.study import Classes

CLUSTERS = 20
"""As many as S3's data set has content classes."""

Selection = Callable[[Sequence[CorpusImage]], tuple[CorpusImage, ...]]
"""Takes images, and returns those of the chosen categories."""


def some_categories(classes: Classes, count: int) -> tuple[Selection, str]:
    """A selection of the first ``count`` content categories of ``classes``, and a remark on what these are.

    If the data set has no categories, clusters stand for them: k-means on 8x8 thumbnails of the photographs, the
    largest cluster first; every image belongs to the nearest cluster.
    """
    images = [image for some in classes.values() for image in some]
    named = sorted({image.category for image in images})
    if len(named) > 1:
        chosen = set(named[:count])
        return lambda some: tuple(p for p in some if p.category in chosen), ""
    photographs = _thumbnails([image for image in images if not image.generated])
    clusters = KMeans(min(CLUSTERS, len(photographs)), random_state=0, n_init=1).fit(photographs)
    largest = np.argsort(-np.bincount(clusters.labels_), kind="stable")[:count]

    def kept(some: Sequence[CorpusImage]) -> tuple[CorpusImage, ...]:
        nearest = clusters.predict(_thumbnails(some))
        return tuple(p for p, cluster in zip(some, nearest, strict=True) if cluster in largest)

    return kept, f"The corpus does not say what its images show: {CLUSTERS} clusters of thumbnails stand for that."


def _thumbnails(images: Sequence[CorpusImage]) -> np.ndarray:
    small = [decode(p.extent.read()).image.resize((8, 8), Image.Resampling.BOX) for p in images]
    return np.stack([np.asarray(image, np.float64).ravel() for image in small])
