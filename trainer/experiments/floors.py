"""The two floors beside a result (``trainer.evaluation.floors``): what files alone and hand-made statistics reach.

What is done to pixels in memory changes nothing in a file: beside changed images there is no metadata floor.
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
from trainer.data.entries import REAL
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation.floors import Features, Judge, Judged, Kind, fit_metadata, fit_statistics
from trainer.evaluation.metrics import auroc, average_precision
from trainer.evaluation.traces import measure
from trainer.experiments.corpus import Picture
from trainer.experiments.section import Measured
from trainer.experiments.study import Classes, Study, load_views, percent
from trainer.inspection.metadata import read_metadata, tabulate

KINDS: tuple[Kind, ...] = ("metadata", "statistics")
SIDE = 128
"""Of the central crop that statistics are taken of, in pixels, where the scale says nothing of ``size``."""
AS_STORED = Resize()


@dataclass(frozen=True, eq=False)
class Floor:
    """One of the two, trained on some classes."""

    study: Study
    kind: Kind
    train: Classes

    @property
    def row(self) -> str:
        """What tables call it."""
        return f"floor: {self.kind}"

    def sees(self, change: Transform, resize: Resize = AS_STORED) -> bool:
        """Whether it has anything to say of images that went through this."""
        return self.kind == "statistics" or (change is CLEAN and resize == AS_STORED)

    def judge(self, pictures: Sequence[Picture], change: Transform = CLEAN, resize: Resize = AS_STORED) -> Judged:
        """What it says of N images that it sees, worked out now or before; numbers are those of ``train``'s classes."""
        inputs = {
            "what": f"{self.kind} of {len(pictures)} images, {change.name}",
            "kind": self.kind,
            "train": [[name, self.study.corpus.digest(some)] for name, some in self.train.items()],
            "pictures": self.study.corpus.digest(pictures),
            "change": change.name,
            "preprocessing": self._cut(resize).digest,
        }

        def make(out: Path) -> None:
            judged = self._fitted.judge(self._features(pictures, change, resize))
            np.savez(out, predicted=judged.predicted, logits=judged.logits, confidence=judged.confidence)

        with np.load(self.study.steps.file("floor", inputs, "npz", make)) as arrays:
            return Judged(arrays["predicted"], arrays["logits"], arrays["confidence"])

    def right(self, pictures: Sequence[Picture], change: Transform = CLEAN) -> npt.NDArray[np.bool_]:
        """Which images are named as they should be, as of one backbone and draw: ``bool[1, 1, N]``."""
        names = list(self.train)
        named = [names[number] for number in self.judge(pictures, change).predicted]
        return np.array([[[a == p.label for a, p in zip(named, pictures, strict=True)]]])

    @cached_property
    def _fitted(self) -> Judge:
        kinds = {name: "real" if name == REAL else "generator" for name in self.train}
        labels = [Label.model_validate({"id": i, "name": name, "kind": kinds[name]}) for i, name in enumerate(kinds)]
        numbers = np.repeat(np.arange(len(self.train)), [len(some) for some in self.train.values()])
        fit = {"metadata": fit_metadata, "statistics": fit_statistics}[self.kind]
        return fit(self._features([picture for some in self.train.values() for picture in some]), numbers, labels)

    def _features(self, pictures: Sequence[Picture], change: Transform = CLEAN, resize: Resize = AS_STORED) -> Features:
        """A step for each label, so that floors with other labels share them."""
        assert self.sees(change, resize)
        runs = (tuple(run) for _, run in groupby(pictures, key=lambda picture: picture.label))
        of_label = self._metadata if self.kind == "metadata" else self._statistics
        return np.concatenate([of_label(run, change, self._cut(resize)) for run in runs])

    def _metadata(self, pictures: Sequence[Picture], _change: Transform, _cut: Preprocessing) -> Features:
        inputs = {"what": _what(pictures, CLEAN), "pictures": self.study.corpus.digest(pictures)}

        def make(out: Path) -> None:
            np.save(out, tabulate([read_metadata(picture.extent.read()) for picture in pictures]).values)

        found: Features = np.load(self.study.steps.file("metadata", inputs, "npy", make))
        return found

    def _statistics(self, pictures: Sequence[Picture], change: Transform, cut: Preprocessing) -> Features:
        inputs = {
            "what": _what(pictures, change),
            "pictures": self.study.corpus.digest(pictures),
            "change": change.name,
            "preprocessing": cut.digest,
        }

        def make(out: Path) -> None:
            np.save(out, np.concatenate([measure(views) for views in load_views(pictures, cut, change)]))

        found: Features = np.load(self.study.steps.file("statistics", inputs, "npy", make))
        return found

    def _cut(self, resize: Resize) -> Preprocessing:
        side = self.study.scale.common.get("size", SIDE)
        return Preprocessing(views=(View(resize=resize, crop=Crop(mode="centre", size=side)),))


def floors_of(study: Study, generators: Sequence[str], few: Classes | None = None) -> list[Floor]:
    """Both, trained on the training images of these generators and photographs, and on the few of other labels."""
    train = {**study.corpus.classes(generators, "train", study.scale.train), **(few or {})}
    return [Floor(study, kind, train) for kind in KINDS]


def binary_floors(
    study: Study,
    generators: Sequence[str],
    tested: Sequence[str] | None = None,
    figure: Literal["AUROC", "AP"] = "AUROC",
) -> dict[str, Measured]:
    """Of *generated* against real, trained on ``generators`` and tested on ``tested`` (the same ones if not given)."""
    pictures = study.both_kinds(tested or generators)
    generated = np.array([picture.generated for picture in pictures])
    statistic = {"AUROC": auroc, "AP": average_precision}[figure]
    return {
        floor.row: percent(statistic(floor.judge(pictures).logits, generated)) for floor in floors_of(study, generators)
    }


def _what(pictures: Sequence[Picture], change: Transform) -> str:
    return f"of {len(pictures)} images of {pictures[0].label}, {change.name}"
