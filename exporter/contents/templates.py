"""The template library of a bundle: a template for each label, and how far its own images lie from it."""

from collections.abc import Callable

import numpy as np

from bundle.manifest import Label
from bundle.templates import TemplateLibrary
from bundle.views import Views
from exporter.contents.splits import ids_in
from exporter.errors import BadOptions
from exporter.source import ExportSource
from trainer.arrays import Floats
from trainer.choices import TemplateMethod
from trainer.data.folder import ImageFolder
from trainer.evaluation.templates import make_templates


def choose_method(source: ExportSource, requested: TemplateMethod | None) -> TemplateMethod:
    """The requested method, or by default training's own templates where there are some, else class means.

    Raises:
        BadOptions: training made no templates.
    """
    if requested == "own" and source.own_templates is None:
        raise BadOptions(f"--template own: {source.name} has no templates made by training; pass one or mean")
    return requested or ("mean" if source.own_templates is None else "own")


def make_library(
    source: ExportSource,
    labels: tuple[Label, ...],
    train: ImageFolder,
    embed: Callable[[Views | ImageFolder], Floats],
    method: TemplateMethod,
    seed: int,
) -> TemplateLibrary:
    """One template a label, without calibration distances.

    Args:
        source: whose labels come first.
        labels: of the bundle; those that the source does not know were added.
        train: images of all labels.
        embed: gives ``float32[n, D]`` of images.
        method: see ``choose_method``.
        seed: chooses the image with ``one``.
    """
    ids = ids_in(train, labels)
    if method == "own":
        assert source.own_templates is not None
        added = labels[len(source.labels) :]
        images = {label.name: train.pixels(np.flatnonzero(ids == label.id)) for label in added}
        return source.own_templates({name: embed(pixels) for name, pixels in images.items()})
    return make_templates(embed(train), ids, tuple(label.name for label in labels), method, seed)
