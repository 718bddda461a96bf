"""The two trivial baselines (*floors*, ``trainer.evaluation.floors``) beside the results of a study.

Images that are changed in memory are in no file, so there is no metadata floor for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bundle.manifest import Crop, Label, Preprocessing, Resize, View
from trainer.arrays import Features
from trainer.data.entries import REAL
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.floors import (
    FloorClassifier,
    FloorKind,
    FloorPrediction,
    fit_metadata,
    fit_statistics,
)
from trainer.evaluation.metrics import auroc, average_precision
from trainer.evaluation.traces import measure
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.section import Measured
from trainer.experiments.study import Classes, Study, load_views, percent
from trainer.inspection.metadata import read_metadata, tabulate

FLOOR_KINDS: tuple[FloorKind, ...] = ("metadata", "statistics")
SIDE = 128
"""Side in pixels of the central crop that statistics are taken of, unless the scale sets ``size``."""
AS_STORED = Resize()


@dataclass(frozen=True, eq=False)
class StudyFloor:
    """One of the two floors, trained on some classes of a study's corpus."""

    study: Study
    kind: FloorKind
    train: Classes

    @property
    def row(self) -> str:
        """Its row in tables."""
        return f"floor: {self.kind}"

    def sees(self, change: Transform, resize: Resize = AS_STORED) -> bool:
        """Whether it can predict anything for images after this change and resize."""
        return self.kind == "statistics" or (change is CLEAN and resize == AS_STORED)

    def predict(
        self, images: Sequence[CorpusImage], change: Transform = CLEAN, resize: Resize = AS_STORED
    ) -> FloorPrediction:
        """Predictions for N images that it ``sees``, computed or from an earlier run; label ids index ``train``."""
        inputs = {
            "what": f"{self.kind} of {len(images)} images, {change.name}",
            "kind": self.kind,
            "train": [[name, self.study.corpus.digest(some)] for name, some in self.train.items()],
            "images": self.study.corpus.digest(images),
            "change": change.name,
            "preprocessing": self._cut(resize).digest,
        }

        def make(out: Path) -> None:
            prediction = self._fitted.predict(self._features(images, change, resize))
            np.savez(out, predicted=prediction.predicted, logits=prediction.logits, confidence=prediction.confidence)

        with np.load(self.study.steps.file("floor", inputs, "npz", make)) as arrays:
            return FloorPrediction(arrays["predicted"], arrays["logits"], arrays["confidence"])

    def right(self, images: Sequence[CorpusImage], change: Transform = CLEAN) -> npt.NDArray[np.bool_]:
        """Which images get their own label, in the shape of one backbone and draw: ``bool[1, 1, N]``."""
        names = list(self.train)
        named = [names[number] for number in self.predict(images, change).predicted]
        return np.array([[[a == p.label for a, p in zip(named, images, strict=True)]]])

    @cached_property
    def _fitted(self) -> FloorClassifier:
        kinds = {name: "real" if name == REAL else "generator" for name in self.train}
        labels = [Label.model_validate({"id": i, "name": name, "kind": kinds[name]}) for i, name in enumerate(kinds)]
        label_ids = np.repeat(np.arange(len(self.train)), [len(some) for some in self.train.values()])
        fit = {"metadata": fit_metadata, "statistics": fit_statistics}[self.kind]
        return fit(self._features([image for some in self.train.values() for image in some]), label_ids, labels)

    def _features(
        self, images: Sequence[CorpusImage], change: Transform = CLEAN, resize: Resize = AS_STORED
    ) -> Features:
        """Features ``float32[N, F]``, in one step for each label, so that floors with other labels share them."""
        assert self.sees(change, resize)
        runs = (tuple(run) for _, run in groupby(images, key=lambda image: image.label))
        of_label = self._metadata if self.kind == "metadata" else self._statistics
        return np.concatenate([of_label(run, change, self._cut(resize)) for run in runs])

    def _metadata(self, images: Sequence[CorpusImage], _change: Transform, _cut: Preprocessing) -> Features:
        inputs = {"what": _what(images, CLEAN), "images": self.study.corpus.digest(images)}

        def make(out: Path) -> None:
            np.save(out, tabulate([read_metadata(image.extent.read()) for image in images]).values)

        found: Features = np.load(self.study.steps.file("metadata", inputs, "npy", make))
        return found

    def _statistics(self, images: Sequence[CorpusImage], change: Transform, cut: Preprocessing) -> Features:
        inputs = {
            "what": _what(images, change),
            "images": self.study.corpus.digest(images),
            "change": change.name,
            "preprocessing": cut.digest,
        }

        def make(out: Path) -> None:
            np.save(out, np.concatenate([measure(views) for views in load_views(images, cut, change)]))

        found: Features = np.load(self.study.steps.file("statistics", inputs, "npy", make))
        return found

    def _cut(self, resize: Resize) -> Preprocessing:
        side = self.study.scale.common.get("size", SIDE)
        return Preprocessing(views=(View(resize=resize, crop=Crop(mode="centre", size=side)),))


def floors_of(study: Study, generators: Sequence[str], few: Classes | None = None) -> list[StudyFloor]:
    """Both floors, trained on images of photographs and these generators, and on the ``few`` images of other labels."""
    train = {**study.corpus.classes(generators, "train", study.scale.train), **(few or {})}
    return [StudyFloor(study, kind, train) for kind in FLOOR_KINDS]


def binary_floors(
    study: Study,
    generators: Sequence[str],
    tested: Sequence[str] | None = None,
    figure: Literal["AUROC", "AP"] = "AUROC",
) -> dict[str, Measured]:
    """Row -> figure of real against generated: trained on ``generators``, tested on ``tested`` (default: the same)."""
    images = study.both_kinds(tested or generators)
    generated = np.array([image.generated for image in images])
    statistic = {"AUROC": auroc, "AP": average_precision}[figure]
    return {
        floor.row: percent(statistic(floor.predict(images).logits, generated)) for floor in floors_of(study, generators)
    }


def _what(images: Sequence[CorpusImage], change: Transform) -> str:
    return f"of {len(images)} images of {images[0].label}, {change.name}"
