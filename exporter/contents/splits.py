"""A split of the data set, with what the graph computes of its images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bundle.manifest import Label, Preprocessing
from exporter.onnx.runner import GraphOutputs, RunGraph
from trainer.arrays import Flags, Floats, Numbers
from trainer.data.folder import ImageFolder, label_ids
from trainer.errors import UnknownClass
from trainer.evaluation.evaluate import degraded_copies


@dataclass(frozen=True, eq=False)
class EmbeddedSplit:
    """Images of a data set and the graph's outputs for them.

    Attributes:
        folder: the images.
        labels: of the bundle.
        label_ids: ``int64[N]``, of each image; indices into ``labels``.
        outputs: N rows. After ``with_degraded_copies`` there are 2 N label ids and rows for N images.
    """

    folder: ImageFolder
    labels: tuple[Label, ...]
    label_ids: Numbers
    outputs: GraphOutputs

    @property
    def generated(self) -> Flags:
        """Which images carry the label of a generator, ``bool[N]``."""
        return np.array([label.kind == "generator" for label in self.labels])[self.label_ids]

    def known_to_detector(self) -> tuple[Floats, Flags]:
        """Logits ``float32[M]`` and ``generated`` (``bool[M]``) of the images whose labels the detector learnt."""
        known = np.array([label.in_detector for label in self.labels])[self.label_ids]
        return self.outputs.logit[known], self.generated[known]

    def embeddings(self) -> dict[str, Floats]:
        """Name of a label -> embeddings ``float32[n, D]`` of its images; n may be 0."""
        return {label.name: self.outputs.embedding[self.label_ids == label.id] for label in self.labels}

    def with_degraded_copies(self, run: RunGraph) -> "EmbeddedSplit":
        """The same images, followed by a degraded copy of each."""
        parts = [self.outputs, *map(run, degraded_copies(self.folder))]
        both = GraphOutputs(
            np.concatenate([part.logit for part in parts]), np.concatenate([part.embedding for part in parts])
        )
        return replace(self, label_ids=np.tile(self.label_ids, 2), outputs=both)


def read_split(
    data: Path, name: str, preprocessing: Preprocessing, report: Callable[[ImageFolder], None]
) -> ImageFolder:
    """Read the split of that name and report it.

    Raises:
        TrainerError: there is no such split, or no image in it.
    """
    folder = ImageFolder.read(data, preprocessing, split=name)
    report(folder)
    return folder


def embedded(folder: ImageFolder, labels: tuple[Label, ...], run: RunGraph) -> EmbeddedSplit:
    """Run the graph on all images of a folder.

    Raises:
        UnknownClass: see ``ids_in``.
    """
    return EmbeddedSplit(folder, labels, ids_in(folder, labels), run(folder))


def ids_in(folder: ImageFolder, labels: Sequence[Label]) -> Numbers:
    """The label id of each image, ``int64[N]``.

    Raises:
        UnknownClass: a class of the folder is none of the labels; says how to add it.
    """
    try:
        return label_ids(folder, labels)
    except UnknownClass as error:
        raise UnknownClass(f"{error}; `--add NAME` gives a generator a template without training") from error
