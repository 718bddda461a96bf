"""The template of each label: one random image, the mean of all images, or what training itself made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from bundle.templates import TemplateLibrary
from trainer.arrays import Floats, Numbers
from trainer.choices import TemplateMethod
from trainer.data.folder import ImageFolder, label_ids
from trainer.errors import BadConfig
from trainer.training.checkpoint import Checkpoint
from trainer.training.systems import system


def default_template_method(checkpoint: Checkpoint, otherwise: TemplateMethod = "mean") -> TemplateMethod:
    """``own`` if the checkpoint's system has templates of its own, else ``otherwise``; its binary variant has none."""
    has_none = checkpoint.config.binary or system(checkpoint.config.system).templates is None
    return otherwise if has_none else "own"


def templates_of(
    checkpoint: Checkpoint,
    folder: ImageFolder,
    embeddings: Callable[[ImageFolder], Floats],
    method: TemplateMethod,
    seed: int,
) -> TemplateLibrary:
    """One template for each label, without calibration distances.

    Args:
        checkpoint: a trained network, and its labels.
        folder: images of these labels.
        embeddings: gives ``float32[N, D]`` of the folder's images; not called for the method ``own``.
        method: see ``TemplateMethod``.
        seed: draws the image of the method ``one``.

    Raises:
        BadConfig: see ``own_templates``.
        UnknownClass: the folder has a class that is no label.
    """
    ids = label_ids(folder, checkpoint.labels)
    if method == "own":
        return own_templates(checkpoint)
    return make_templates(embeddings(folder), ids, tuple(label.name for label in checkpoint.labels), method, seed)


def own_templates(checkpoint: Checkpoint, new: Mapping[str, Floats] | None = None) -> TemplateLibrary:
    """The template that training made of each label, without calibration distances.

    Args:
        checkpoint: a trained network, and its labels.
        new: embeddings ``float32[n, D]`` of further classes, which training did not know: their templates follow.

    Raises:
        BadConfig: the system has no templates of its own, or the variant, or not of all labels.
    """
    names = tuple(label.name for label in checkpoint.labels)
    kind = system(checkpoint.config.system)
    if kind.templates is None or checkpoint.config.binary:
        variant = " in its binary variant" if checkpoint.config.binary else ""
        raise BadConfig(f"template: {checkpoint.config.system} has none of its own{variant}; choose one or mean")
    found = kind.templates(checkpoint.config, checkpoint.weights, len(names))
    if len(found) < len(names):
        raise BadConfig(
            f"template: {checkpoint.config.system} has {len(found)} of its own for {len(names)} labels; "
            "choose one or mean"
        )
    vectors, counts = [*found.numpy()], [checkpoint.origin.images[name] for name in names]
    for embeddings in (new or {}).values():
        rows = torch.from_numpy(embeddings)
        mean = rows.mean(dim=0)
        if kind.template_for_new_class is not None:
            mean = kind.template_for_new_class(checkpoint.config, checkpoint.weights, rows)
        elif checkpoint.config.l2_normalised:  # as its own are
            mean = nn.functional.normalize(mean, dim=0)
        vectors.append(mean.numpy())
        counts.append(len(rows))
    return _library((*names, *(new or {})), vectors, counts)


def make_templates(
    embeddings: Floats, label_ids: Numbers, names: tuple[str, ...], method: Literal["one", "mean"], seed: int
) -> TemplateLibrary:
    """One template for each label that has images, without calibration distances.

    Args:
        embeddings: ``float32[N, D]``.
        label_ids: ``int64[N]``, indices into ``names``.
        names: the labels.
        method: the mean of a label's embeddings, or one of them drawn by ``seed``.
        seed: see ``method``.
    """
    rng = np.random.default_rng(seed)
    vectors, counts, present = [], [], []
    for label_id, name in enumerate(names):
        own = embeddings[label_ids == label_id]
        if len(own) == 0:
            continue
        chosen = own if method == "mean" else own[[rng.integers(len(own))]]
        vectors.append(chosen.mean(axis=0, dtype=np.float64).astype(np.float32))
        counts.append(len(chosen))
        present.append(name)
    return _library(tuple(present), vectors, counts)


def _library(labels: tuple[str, ...], vectors: Sequence[Floats], counts: Sequence[int]) -> TemplateLibrary:
    """A library with one template for each label."""
    return TemplateLibrary(
        labels=labels,
        vectors=np.stack(vectors),
        label_of=np.arange(len(labels)),
        counts=np.array(counts, np.int64),
        calibration=(np.empty(0, np.float32),) * len(labels),
    )
