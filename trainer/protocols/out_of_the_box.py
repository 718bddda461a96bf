"""A detector on images that it was not made for: of a newer generator, or from the web, also resized (S3).

*Resized* is what the publication does to 1,024-pixel photographs: the shorter side to 256, then the centre. If the
corpus is already as small as the input, a transform that shrinks and enlarges stands for it. The metadata floor only
stands beside images as stored: those that are coded or resized in memory are in no file.
"""

from collections.abc import Sequence

import numpy as np

from bundle.manifest import Preprocessing, Resize
from trainer.arrays import Scores
from trainer.data.transforms import Transform
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import AS_STORED, StudyFloor, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study, Trained
from trainer.protocols.generalisation import OneNetwork, tested, trained_on


class Settings(OneNetwork):
    """The network, and the changes of its test images."""

    before: str = "clean"
    """The transform of all images; the web's JPEG coding, if the corpus has none."""
    shorter: int | None = None
    """Also test with the shorter side resized to this many pixels before the crop."""
    shrunk: str | None = None
    """Or test with this transform in place of ``before``."""


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
    floors: Sequence[StudyFloor],
    name: str,
    row: str,
    change: Transform,
    resize: Resize = AS_STORED,
) -> dict[tuple[str, str], Measured]:
    """A row of the networks, and one for each floor that sees such images."""
    view = nets[0].config.preprocessing.views[0]
    cut = None if resize == AS_STORED else Preprocessing(views=(view.model_copy(update={"resize": resize}),))
    images = tested(study, name)
    found = _figures(study, images, row, np.stack([study.outputs(net, images, change, cut).logits for net in nets]))
    for floor in floors:
        if floor.sees(change, resize):
            logits = floor.predict(images, change, resize).logits
            found |= _figures(study, images, f"{row}, {floor.row}", logits[None])
    return found


def _figures(study: Study, images: Sequence[CorpusImage], row: str, logits: Scores) -> dict[tuple[str, str], Measured]:
    """Accuracy and AP of logits ``float[S, N]``."""
    sample = Sample.of(study, images, len(logits))
    return {
        (row, "accuracy"): percent_of(sample.mean((logits[:, None] > 0) == sample.generated)),
        (row, "AP"): percent_of(sample.average_precision(logits[:, None])),
    }
