"""Images ranked by a detector's log-odds of *generated* (S3, Fig. 6), at five percentiles from 0 to 100.

The publication asks whether images that look worse to people score higher, and shows only images. We show images, and
add their log-odds.
"""

import numpy as np

from bundle.preprocess import decode
from trainer.arrays import Floats, Pixels
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.plots import image_grid
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study
from trainer.protocols.generalisation import OneNetwork, tested, trained_on

PERCENTILES = (0, 25, 50, 75, 100)


def run(study: Study) -> Findings:
    """Table ``logits``, with the logit at each percentile, and the images there."""
    settings: OneNetwork = study.settings(OneNetwork)
    net = trained_on(study, settings.variant, settings.train_on)[0][0]
    columns = [f"{p}th percentile" for p in PERCENTILES]
    shown: dict[str, list[Pixels]] = {}
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        images = tested(study, name)
        logits = study.outputs(net, images).logits
        for generated in (False, True):
            chosen = np.array([image.generated == generated for image in images])
            row = f"{name}, {'generated' if generated else 'real'}"
            own = [image for image in images if image.generated == generated]
            places = at_percentiles(logits[chosen])
            shown[row] = [_pixels(own[place]) for place in places]
            for column, place in zip(columns, places, strict=True):
                found[row, column] = Measured(value=float(logits[chosen][place]))
    figure = Figure(
        title="Ranked images (S3, Fig. 6)",
        image=image_grid(shown, columns),
        caption="Left: taken for real; right: taken for generated.",
    )
    return Findings(tables=(study.recipe.published("logits").beside(found),), figures=(figure,))


def at_percentiles(scores: Floats) -> list[int]:
    """The indices of the scores ``float32[N]`` at the percentiles."""
    order = np.argsort(scores, kind="stable")
    return [int(order[round(p / 100 * (len(order) - 1))]) for p in PERCENTILES]


def _pixels(image: CorpusImage) -> Pixels:
    return np.asarray(decode(image.extent.read()).image)
