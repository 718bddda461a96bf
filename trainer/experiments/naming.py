"""Naming test images by the nearest template, as a bundle does, and learning new types from a few images of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bundle.templates import TemplateLibrary
from trainer.arrays import Flags, Floats
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.templates import make_templates, own_templates
from trainer.experiments.corpus import Picture, draw_one, spread
from trainer.experiments.recipe import Variant
from trainer.experiments.study import Classes, Study, Trained


@dataclass(frozen=True, eq=False)
class Namer:
    """A network, and templates in the space of its embeddings."""

    study: Study
    trained: Trained
    library: TemplateLibrary

    def embed(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> Floats:
        """``float32[N, D]``."""
        return self.study.outputs(self.trained, pictures, change).embeddings

    def distances(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> Floats:
        """To each label of the library: ``float32[N, L]``."""
        return self.library.distances(self.embed(pictures, change))

    def name(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> tuple[str, ...]:
        """The nearest label of each image."""
        nearest = self.distances(pictures, change).argmin(axis=1)
        return tuple(self.library.labels[number] for number in nearest)

    def right(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> Flags:
        """Which images are named as they should be: ``bool[N]``."""
        return np.array([a == p.label for a, p in zip(self.name(pictures, change), pictures, strict=True)])


def make_namer(
    study: Study, variant: Variant, trained: Trained, known: Classes, new: Classes | None = None, seed: int = 0
) -> Namer:
    """A network with templates of all types, after it has learnt those of ``new``.

    Args:
        study: whose networks.
        variant: says how a type becomes a template (``template``) and how new ones are learnt (``adapt``): not at all,
            their template is enough; or by S1's fine-tuning.
        trained: the network.
        known: the images that it was trained on.
        new: the few images of each new type.
        seed: of the choice of single templates and of the fine-tuning.
    """
    fresh = new or {}
    if fresh and variant.adapt == "triplet":
        replayed = {name: spread(pictures, variant.replay) for name, pictures in known.items()}
        trained = study.fine_tune(trained, fresh, replayed, seed)
    if variant.template == "own":
        embedded = {name: study.outputs(trained, pictures).embeddings for name, pictures in fresh.items()}
        return Namer(study, trained, own_templates(trained.checkpoint, embedded))
    of_known = {name: draw_one(p, seed) if variant.template == "one" else p for name, p in known.items()}
    # The published method draws one image of a new type as well; where it has a few we let it use them all alike.
    of_new = {name: draw_one(p, seed) if variant.template == "one" else p for name, p in fresh.items()}
    return Namer(study, trained, _means(study, trained, {**of_known, **of_new}))


def confusion_of(named: Sequence[str], pictures: Sequence[Picture], labels: Sequence[str]) -> list[list[int]]:
    """Rows: truth; columns: name given."""
    found: dict[tuple[str, str], int] = {}
    for name, picture in zip(named, pictures, strict=True):
        found[picture.label, name] = found.get((picture.label, name), 0) + 1
    return [[found.get((truth, name), 0) for name in labels] for truth in labels]


def _means(study: Study, trained: Trained, classes: Mapping[str, Sequence[Picture]]) -> TemplateLibrary:
    embeddings = [study.outputs(trained, pictures).embeddings for pictures in classes.values()]
    numbers = np.repeat(np.arange(len(classes)), [len(rows) for rows in embeddings])
    return make_templates(np.concatenate(embeddings), numbers, tuple(classes), "mean", 0)
