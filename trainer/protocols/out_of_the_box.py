"""A detector on what it was not made for: a newer generator, images from the web, with and without resizing (S3).

*Resized* is what the publication does to 1,024-pixel photographs: the shorter side to 256, then the centre. Where the
corpus is already as small as the input, a transform that shrinks and enlarges stands for it. The floor of metadata
stands beside images as stored alone: those that are coded or resized in memory are in no file.
"""

from collections.abc import Sequence

import numpy as np

from bundle.manifest import Preprocessing, Resize
from trainer.arrays import Scores
from trainer.data.transforms import Transform
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import Picture
from trainer.experiments.floors import AS_STORED, Floor, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study, Trained
from trainer.protocols.generalisation import OneNetwork, tested, trained_on


class Settings(OneNetwork):
    """What is tried."""

    before: str = "clean"
    """What all images go through first; the web's JPEG coding, where the corpus has none."""
    shorter: int | None = None
    """Resize the shorter side to so many pixels before the crop."""
    shrunk: str | None = None
    """Or this transform, in place of ``before``."""


def run(study: Study) -> Findings:
    """Table ``figures``: accuracy at a probability of 1/2, and AP; rows for each set, as stored and resized."""
    settings: Settings = study.settings(Settings)
    nets, _ = trained_on(study, settings.variant, settings.train_on)
    floors = floors_of(study, (study.generators[settings.train_on],))
    (plain,) = changes_of([settings.before])
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        found |= _rows(study, nets, floors, name, f"{name}, as stored", plain)
        if settings.shorter is not None:
            resize = Resize(mode="shorter", size=settings.shorter)
            found |= _rows(study, nets, floors, name, f"{name}, resized", plain, resize)
        elif settings.shrunk is not None:
            found |= _rows(study, nets, floors, name, f"{name}, resized", changes_of([settings.shrunk])[0])
    return Findings(tables=(study.recipe.published("figures").beside(found),))


def _rows(
    study: Study,
    nets: Sequence[Trained],
    floors: Sequence[Floor],
    name: str,
    row: str,
    change: Transform,
    resize: Resize = AS_STORED,
) -> dict[tuple[str, str], Measured]:
    """The networks', and one for each floor that sees such images."""
    view = nets[0].config.preprocessing.views[0]
    cut = None if resize == AS_STORED else Preprocessing(views=(view.model_copy(update={"resize": resize}),))
    pictures = tested(study, name)
    found = _figures(study, pictures, row, np.stack([study.outputs(net, pictures, change, cut).logits for net in nets]))
    for floor in floors:
        if floor.sees(change, resize):
            logits = floor.judge(pictures, change, resize).logits
            found |= _figures(study, pictures, f"{row}, {floor.row}", logits[None])
    return found


def _figures(study: Study, pictures: Sequence[Picture], row: str, logits: Scores) -> dict[tuple[str, str], Measured]:
    """Of ``float[S, N]``."""
    sample = Sample.of(study, pictures, len(logits))
    return {
        (row, "accuracy"): percent_of(sample.mean((logits[:, None] > 0) == sample.generated)),
        (row, "AP"): percent_of(sample.average_precision(logits[:, None])),
    }
