"""A detector on what it was not made for: a newer generator, images from the web, with and without resizing (S3).

*Resized* is what the publication does to 1,024-pixel photographs: the shorter side to 256, then the centre. Where the
corpus is already as small as the input, a transform that shrinks and enlarges stands for it.
"""

import numpy as np

from bundle.manifest import Preprocessing, Resize, View
from trainer.protocols.changes import changes_of
from trainer.protocols.generalisation import OneNetwork, tested, trained_on
from trainer.protocols.measures import Sample, percent_of
from trainer.protocols.section import Measured
from trainer.protocols.study import Findings, Study, Trained
from trainer.transforms import Transform


class Settings(OneNetwork):
    """What is tried."""

    before: str = "clean"
    """What all images go through first; the web's JPEG coding, where the corpus has none."""
    shorter: int | None = None
    """Resize the shorter side to so many pixels before the crop."""
    shrunk: str | None = None
    """Or this transform, in place of ``before``."""


def run(study: Study) -> Findings:
    """Table ``figures``: accuracy at a probability of 1/2, and AP; a row for each set, as stored and resized."""
    settings: Settings = study.settings(Settings)
    nets, _ = trained_on(study, settings.variant, settings.train_on)
    (plain,) = changes_of([settings.before])
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        _add(found, study, nets, name, f"{name}, as stored", plain, None)
        if settings.shorter is not None:
            view = nets[0].config.preprocessing.views[0]
            cut = Preprocessing(views=(_resized(view, settings.shorter),))
            _add(found, study, nets, name, f"{name}, resized", plain, cut)
        elif settings.shrunk is not None:
            _add(found, study, nets, name, f"{name}, resized", changes_of([settings.shrunk])[0], None)
    return Findings(tables=(study.recipe.published("figures").beside(found),))


def _resized(view: View, shorter: int) -> View:
    return view.model_copy(update={"resize": Resize(mode="shorter", size=shorter)})


def _add(
    found: dict[tuple[str, str], Measured],
    study: Study,
    nets: list[Trained],
    name: str,
    row: str,
    change: Transform,
    cut: Preprocessing | None,
) -> None:
    pictures = tested(study, name)
    sample = Sample.of(study, pictures, len(nets))
    logits = np.stack([study.outputs(net, pictures, change, cut).logits for net in nets])[:, None]
    found[row, "accuracy"] = percent_of(sample.mean((logits > 0) == sample.generated))
    found[row, "AP"] = percent_of(sample.average_precision(logits))
