"""The two floors beside a result (``trainer.floors``): what files alone and hand-made statistics reach."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bundle.manifest import Crop, Label, Preprocessing, View
from trainer.floors import Features, Judged, Kind, fit_metadata, fit_statistics
from trainer.metadata import read_metadata, tabulate
from trainer.metrics import auroc, average_precision
from trainer.protocols.corpus import REAL, Picture
from trainer.protocols.section import Measured
from trainer.protocols.study import Classes, Study, load_views, percent
from trainer.traces import measure

KINDS: tuple[Kind, ...] = ("metadata", "statistics")
SIDE = 128
"""Of the central crop that statistics are taken of, in pixels, where the scale says nothing of ``size``."""


def closed_set_floors(study: Study, generators: Sequence[str]) -> dict[str, Measured]:
    """Top-1 of each floor, trained and tested on these generators and photographs."""
    test = study.corpus.classes(generators, "test", study.scale.test)
    pictures = [picture for some in test.values() for picture in some]
    train = study.corpus.classes(generators, "train", study.scale.train)
    truth = np.array([list(train).index(picture.label) for picture in pictures])
    return {
        f"floor: {kind}": percent(float(np.mean(_judged(study, kind, train, pictures).predicted == truth)))
        for kind in KINDS
    }


def binary_floors(
    study: Study,
    generators: Sequence[str],
    tested: Sequence[str] | None = None,
    figure: Literal["AUROC", "AP"] = "AUROC",
) -> dict[str, Measured]:
    """Of *generated* against real, trained on ``generators`` and tested on ``tested`` (the same ones if not given)."""
    train = study.corpus.classes(generators, "train", study.scale.train)
    test = study.corpus.classes(tested or generators, "test", study.scale.test)
    pictures = [picture for some in test.values() for picture in some]
    generated = np.array([picture.generated for picture in pictures])
    statistic = {"AUROC": auroc, "AP": average_precision}[figure]
    return {
        f"floor: {kind}": percent(statistic(_judged(study, kind, train, pictures).logits, generated)) for kind in KINDS
    }


def _judged(study: Study, kind: Kind, train: Classes, pictures: Sequence[Picture]) -> Judged:
    labels = [Label(id=i, name=name, kind="real" if name == REAL else "generator") for i, name in enumerate(train)]
    numbers = np.repeat(np.arange(len(train)), [len(some) for some in train.values()])
    known = [picture for some in train.values() for picture in some]
    if kind == "metadata":  # columns depend on what there is, so both are tabulated together
        table = tabulate([read_metadata(picture.extent.read()) for picture in (*known, *pictures)]).values
        return fit_metadata(table[: len(known)], numbers, labels).judge(table[len(known) :])
    return fit_statistics(_statistics(study, known), numbers, labels).judge(_statistics(study, pictures))


def _statistics(study: Study, pictures: Sequence[Picture]) -> Features:
    cut = Preprocessing(views=(View(crop=Crop(mode="centre", size=study.scale.common.get("size", SIDE))),))
    inputs = {
        "what": f"of {len(pictures)} images",
        "pictures": study.corpus.digest(pictures),
        "preprocessing": cut.digest,
    }

    def make(out: Path) -> None:
        np.save(out, np.concatenate([measure(views) for views in load_views(pictures, cut)]))

    found: Features = np.load(study.steps.file("statistics", inputs, "npy", make))
    return found
