"""Labelling test images by the nearest template, as a bundle does, and learning new classes from a few images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bundle.templates import TemplateLibrary
from trainer.arrays import Flags, Floats
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.templates import make_templates, own_templates
from trainer.experiments.corpus import CorpusImage, draw_one, spread
from trainer.experiments.recipe import Variant
from trainer.experiments.study import Classes, Study, Trained


@dataclass(frozen=True, eq=False)
class Namer:
    """A network, and templates in the space of its embeddings."""

    study: Study
    trained: Trained
    library: TemplateLibrary

    def embed(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> Floats:
        """Embeddings of the images: ``float32[N, D]``."""
        return self.study.outputs(self.trained, images, change).embeddings

    def distances(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> Floats:
        """Distances to each label of the library: ``float32[N, L]``."""
        return self.library.distances(self.embed(images, change))

    def name(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> tuple[str, ...]:
        """The nearest label of each image."""
        nearest = self.distances(images, change).argmin(axis=1)
        return tuple(self.library.labels[number] for number in nearest)

    def right(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> Flags:
        """Which images get their own label: ``bool[N]``."""
        return np.array([a == p.label for a, p in zip(self.name(images, change), images, strict=True)])


def make_namer(
    study: Study, variant: Variant, trained: Trained, known: Classes, new: Classes | None = None, seed: int = 0
) -> Namer:
    """A network with templates of all classes, after it has learnt those of ``new``.

    Args:
        study: the study that trains and runs networks.
        variant: how a class's template is made (``template``) and new classes are learnt (``adapt``): by a template
            alone, or by S1's fine-tuning.
        trained: the network.
        known: the images that it was trained on.
        new: the few images of each new class.
        seed: draws single templates, and seeds the fine-tuning.
    """
    fresh = new or {}
    if fresh and variant.adapt == "triplet":
        replayed = {name: spread(images, variant.replay) for name, images in known.items()}
        trained = study.fine_tune(trained, fresh, replayed, seed)
    if variant.template == "own":
        embedded = {name: study.outputs(trained, images).embeddings for name, images in fresh.items()}
        return Namer(study, trained, own_templates(trained.checkpoint, embedded))
    of_known = {name: draw_one(p, seed) if variant.template == "one" else p for name, p in known.items()}
    # With the published method (``one``), a new class too has one random image as its template; else all of its few.
    of_new = {name: draw_one(p, seed) if variant.template == "one" else p for name, p in fresh.items()}
    return Namer(study, trained, _means(study, trained, {**of_known, **of_new}))


def confusion_of(named: Sequence[str], images: Sequence[CorpusImage], labels: Sequence[str]) -> list[list[int]]:
    """Numbers of images: rows are true labels, columns predicted ones."""
    found: dict[tuple[str, str], int] = {}
    for name, image in zip(named, images, strict=True):
        found[image.label, name] = found.get((image.label, name), 0) + 1
    return [[found.get((truth, name), 0) for name in labels] for truth in labels]


def _means(study: Study, trained: Trained, classes: Mapping[str, Sequence[CorpusImage]]) -> TemplateLibrary:
    embeddings = [study.outputs(trained, images).embeddings for images in classes.values()]
    numbers = np.repeat(np.arange(len(classes)), [len(rows) for rows in embeddings])
    return make_templates(np.concatenate(embeddings), numbers, tuple(classes), "mean", 0)
