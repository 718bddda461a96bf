"""How good a checkpoint is on images that it has not seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Console, Group
from rich.table import Table
from torch import Tensor, nn

from bundle.manifest import Label
from bundle.templates import TemplateLibrary
from trainer.augment import handled_copy
from trainer.checkpoint import Checkpoint
from trainer.data import ImageFolder, Images, label_numbers
from trainer.errors import BadConfig
from trainer.metrics import Binary, ClosedSet, Floats, Numbers, binary, closed_set
from trainer.systems import system

How = Literal["one", "mean", "own"]
"""A label's template: one random training image (S1's), the mean of all, or what training itself made (``System``)."""


def usual(checkpoint: Checkpoint, otherwise: How = "mean") -> How:
    """Its system's own templates where it has some; the binary variant has none."""
    has_none = checkpoint.config.binary or system(checkpoint.config.system).templates is None
    return otherwise if has_none else "own"


def calibrates_on_copies(checkpoint: Checkpoint, asked: bool | None = None) -> bool:
    """Whether calibration sees handled copies as well: as asked, or else where the system is trained on such copies."""
    return system(checkpoint.config.system).handled if asked is None else asked


def handled_copies(folder: ImageFolder, batch: int = 256) -> Iterator[Images]:
    """A handled copy of each image, in order; a folder beyond its cache is decoded as it goes."""
    for start in range(0, len(folder), batch):
        yield np.stack([handled_copy(image) for image in folder.pixels(slice(start, start + batch))])


class Evaluation(BaseModel):
    """What ``trainer evaluate`` found; ``--json`` prints it."""

    model_config = ConfigDict(frozen=True)

    images: int
    fingerprint: str
    """Of the evaluated images."""
    template: How
    seed: int
    """Which image became the template (``one``)."""
    closed_set: ClosedSet
    binary: Binary | None


def evaluate(checkpoint: Checkpoint, test: ImageFolder, templates: ImageFolder, how: How, seed: int) -> Evaluation:
    """Closed-set attribution by templates, and the binary decision by the logit.

    Args:
        checkpoint: the network.
        test: images that it was not trained on.
        templates: images to take the templates from: the training folder.
        how: see ``How``.
        seed: of the choice of ``one``.

    Raises:
        BadConfig: the system has no templates of its own.
    """
    model = checkpoint.model()
    names = tuple(label.name for label in checkpoint.labels)
    generated = np.array([label.kind == "generator" for label in checkpoint.labels])
    library = templates_of(checkpoint, templates, lambda images: embed(model, images)[1], how, seed)
    logits, embeddings = embed(model, test)
    truth = label_numbers(test, checkpoint.labels)
    nearest = np.array([names.index(name) for name in library.labels])[library.distances(embeddings).argmin(axis=1)]
    return Evaluation(
        images=len(test),
        fingerprint=test.fingerprint,
        template=how,
        seed=seed,
        closed_set=closed_set(truth, nearest, names),
        binary=binary(logits, generated[truth]),
    )


def embed(model: nn.Module, images: Images | ImageFolder, batch: int = 256) -> tuple[Floats, Floats]:
    """Logits ``float32[N]`` and embeddings ``float32[N, D]`` of ``uint8[N, H, W, 3]`` or a folder, in float32."""
    logits, embeddings = in_batches(model, images, _device_of(model), batch)
    return logits, embeddings


def class_scores(net: nn.Module, folder: ImageFolder, batch: int = 256) -> Floats:
    """Scores ``float32[N, outputs]`` of a network in training; its mode is put back."""
    training = net.training
    scores, _ = in_batches(net.eval(), folder, _device_of(net), batch)
    net.train(training)
    return scores


def templates_of(
    checkpoint: Checkpoint,
    folder: ImageFolder,
    embeddings: Callable[[Images | ImageFolder], Floats],
    how: How,
    seed: int,
    added: Sequence[Label] = (),
) -> TemplateLibrary:
    """One template a label, without calibration distances.

    Args:
        checkpoint: whose labels.
        folder: images of these labels, and of the added ones.
        embeddings: gives ``float32[n, D]`` of images; where templates are from training, those of added labels alone.
        how: see ``How``.
        seed: of the choice of ``one``.
        added: generators that training did not know.

    Raises:
        BadConfig: see ``own_templates``.
        UnknownClass: the folder has a class that is no label.
    """
    labels = (*checkpoint.labels, *added)
    numbers = label_numbers(folder, labels)
    if how == "own":
        few = {label.name: folder.pixels(np.flatnonzero(numbers == label.id)) for label in added}
        return own_templates(checkpoint, {name: embeddings(images) for name, images in few.items()})
    return make_templates(embeddings(folder), numbers, tuple(label.name for label in labels), how, seed)


def own_templates(checkpoint: Checkpoint, new: Mapping[str, Floats] | None = None) -> TemplateLibrary:
    """The template that training made of each label, without calibration distances.

    Args:
        checkpoint: whose labels.
        new: embeddings ``float32[n, D]`` of further classes, which training did not know: their templates follow.

    Raises:
        BadConfig: the system has no templates of its own, or the variant, or not of all labels.
    """
    names = tuple(label.name for label in checkpoint.labels)
    kind = system(checkpoint.config.system)
    if kind.templates is None or checkpoint.config.binary:
        variant = " in its binary variant" if checkpoint.config.binary else ""
        raise BadConfig(f"template: {checkpoint.config.system} has none of its own{variant}; say one or mean")
    found = kind.templates(checkpoint.weights, len(names))
    if len(found) < len(names):
        raise BadConfig(
            f"template: {checkpoint.config.system} has {len(found)} of its own for {len(names)} labels; say one or mean"
        )
    vectors, counts = [*found.numpy()], [checkpoint.origin.images[name] for name in names]
    for embeddings in (new or {}).values():
        rows = torch.from_numpy(embeddings)
        mean = rows.mean(dim=0)
        if kind.place is not None:
            mean = kind.place(checkpoint.weights, rows)
        elif checkpoint.config.l2_normalised:  # as its own are
            mean = nn.functional.normalize(mean, dim=0)
        vectors.append(mean.numpy())
        counts.append(len(rows))
    return _library((*names, *(new or {})), vectors, counts)


def make_templates(
    embeddings: Floats, numbers: Numbers, names: tuple[str, ...], how: Literal["one", "mean"], seed: int
) -> TemplateLibrary:
    """One template a label that has images, without calibration distances.

    Args:
        embeddings: ``float32[N, D]``.
        numbers: ``int64[N]``, index into ``names``.
        names: of the labels.
        how: the mean of a label's embeddings, or one of them drawn by ``seed``.
        seed: see ``how``.
    """
    rng = np.random.default_rng(seed)
    vectors, counts, present = [], [], []
    for number, name in enumerate(names):
        own = embeddings[numbers == number]
        if len(own) == 0:
            continue
        chosen = own if how == "mean" else own[[rng.integers(len(own))]]
        vectors.append(chosen.mean(axis=0, dtype=np.float64).astype(np.float32))
        counts.append(len(chosen))
        present.append(name)
    return _library(tuple(present), vectors, counts)


def _library(labels: tuple[str, ...], vectors: Sequence[Floats], counts: Sequence[int]) -> TemplateLibrary:
    """One template each."""
    return TemplateLibrary(
        labels=labels,
        vectors=np.stack(vectors),
        label_of=np.arange(len(labels)),
        counts=np.array(counts, np.int64),
        calibration=(np.empty(0, np.float32),) * len(labels),
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


@torch.inference_mode()
def in_batches(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    images: Images | ImageFolder,
    device: torch.device,
    batch: int = 256,
) -> tuple[Floats, ...]:
    """What a function makes of ``uint8[N, H, W, 3]``, in float32; a folder beyond its cache is decoded as it goes."""
    found = []
    for start in range(0, len(images), batch):
        chosen = slice(start, start + batch)
        pixels = images.pixels(chosen) if isinstance(images, ImageFolder) else images[chosen]
        outputs = function(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
        found.append([output.float().cpu().numpy() for output in outputs])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _device_of(model: nn.Module) -> torch.device:
    return next(chain(model.parameters(), model.buffers())).device
