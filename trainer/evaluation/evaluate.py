"""How good a checkpoint is on images that it has not seen."""

from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console, Group
from rich.table import Table

from trainer.arrays import Images
from trainer.choices import TemplateMethod
from trainer.data.augment import degraded_copy
from trainer.data.folder import ImageFolder, label_ids
from trainer.evaluation.metrics import Binary, ClosedSet, binary, closed_set
from trainer.evaluation.templates import templates_of
from trainer.training.checkpoint import Checkpoint
from trainer.training.embedding import embed
from trainer.training.systems import system


def calibrates_on_degraded(checkpoint: Checkpoint, asked: bool | None = None) -> bool:
    """Whether calibration sees degraded copies too: as asked, or else where the system is trained on such copies."""
    return system(checkpoint.config.system).trained_on_degraded if asked is None else asked


def degraded_copies(folder: ImageFolder, batch: int = 256) -> Iterator[Images]:
    """A degraded copy of each image, in order; a folder beyond its cache is decoded as it goes."""
    for start in range(0, len(folder), batch):
        yield np.stack([degraded_copy(image) for image in folder.pixels(slice(start, start + batch))])


class Evaluation(BaseModel):
    """What ``trainer evaluate`` found; ``--json`` prints it."""

    model_config = ConfigDict(frozen=True)

    images: int
    fingerprint: str
    """Of the evaluated images."""
    template: TemplateMethod
    seed: int
    """Which image became the template (``one``)."""
    closed_set: ClosedSet
    binary: Binary | None


def evaluate(
    checkpoint: Checkpoint, test: ImageFolder, templates: ImageFolder, how: TemplateMethod, seed: int
) -> Evaluation:
    """Closed-set attribution by templates, and the binary decision by the logit.

    Args:
        checkpoint: the network.
        test: images that it was not trained on.
        templates: images to take the templates from: the training folder.
        how: see ``TemplateMethod``.
        seed: of the choice of ``one``.

    Raises:
        BadConfig: the system has no templates of its own.
    """
    model = checkpoint.model()
    names = tuple(label.name for label in checkpoint.labels)
    generated = np.array([label.kind == "generator" for label in checkpoint.labels])
    library = templates_of(checkpoint, templates, lambda images: embed(model, images)[1], how, seed)
    logits, embeddings = embed(model, test)
    truth = label_ids(test, checkpoint.labels)
    nearest = np.array([names.index(name) for name in library.labels])[library.distances(embeddings).argmin(axis=1)]
    return Evaluation(
        images=len(test),
        fingerprint=test.fingerprint,
        template=how,
        seed=seed,
        closed_set=closed_set(truth, nearest, names),
        binary=binary(logits, generated[truth]),
    )


def show(evaluation: Evaluation, console: Console) -> None:
    """As tables for people."""
    closed, decision = evaluation.closed_set, evaluation.binary
    how = {"one": "one random image a class", "mean": "class means", "own": "from training"}[evaluation.template]
    confusion = Table("truth \\ nearest", *closed.labels, "recall", title=f"Nearest template ({how})")
    for name, row in zip(closed.labels, closed.confusion, strict=True):
        recall = f"{closed.recall[name]:.3f}" if name in closed.recall else "-"
        confusion.add_row(name, *(str(count) if count else "·" for count in row), recall)
    figures = Table("figure", "value", title=f"{evaluation.images} images")
    figures.add_row("top-1 by template", f"{closed.top1:.4f}")
    if decision is not None:
        figures.add_row("AUROC, generated against real", f"{decision.auroc:.4f}")
        figures.add_row("average precision", f"{decision.average_precision:.4f}")
        figures.add_row("accuracy at logit 0", f"{decision.accuracy_at_zero:.4f}")
    console.print(Group(confusion, figures))
