"""Images by how generated they look to a detector (S3, Fig. 6): at the 0th, 25th, 50th, 75th and 100th percentile.

The publication asks whether images that look worse to people score higher, and shows pictures only. We show them too,
and beside them how far apart reals and fakes lie.
"""

import numpy as np

from bundle.preprocess import decode
from trainer.arrays import Floats, Pixels
from trainer.experiments.corpus import Picture
from trainer.experiments.plots import images
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study
from trainer.protocols.generalisation import OneNetwork, tested, trained_on

PERCENTILES = (0, 25, 50, 75, 100)


def run(study: Study) -> Findings:
    """Table ``logits``, at each percentile, and the images there."""
    settings: OneNetwork = study.settings(OneNetwork)
    net = trained_on(study, settings.variant, settings.train_on)[0][0]
    columns = [f"{p}th percentile" for p in PERCENTILES]
    shown: dict[str, list[Pixels]] = {}
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        pictures = tested(study, name)
        logits = study.outputs(net, pictures).logits
        for generated in (False, True):
            chosen = np.array([picture.generated == generated for picture in pictures])
            row = f"{name}, {'generated' if generated else 'real'}"
            own = [picture for picture in pictures if picture.generated == generated]
            places = at_percentiles(logits[chosen])
            shown[row] = [_pixels(own[place]) for place in places]
            for column, place in zip(columns, places, strict=True):
                found[row, column] = Measured(value=float(logits[chosen][place]))
    figure = Figure(
        title="Ranked images (S3, Fig. 6)",
        image=images(shown, columns),
        caption="Left: taken for real; right: taken for generated.",
    )
    return Findings(tables=(study.recipe.published("logits").beside(found),), figures=(figure,))


def at_percentiles(scores: Floats) -> list[int]:
    """The places of the scores at the percentiles: of ``float32[N]``."""
    order = np.argsort(scores, kind="stable")
    return [int(order[round(p / 100 * (len(order) - 1))]) for p in PERCENTILES]


def _pixels(picture: Picture) -> Pixels:
    return np.asarray(decode(picture.extent.read()).image)
