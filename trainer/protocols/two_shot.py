"""Accuracy uncalibrated, at the best threshold, and after calibration on one real and one fake image (S3, Table 5).

Accuracy depends on the pair of images, so there are several draws of it; the publication has one.
"""

import numpy as np

from bundle.preprocess import decode
from trainer.arrays import Floats, Images, Pixels
from trainer.evaluation import bootstrap
from trainer.evaluation.metrics import oracle
from trainer.evaluation.reliability import two_shot_bias
from trainer.experiments.corpus import CorpusImage, draw_one
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study, Trained, percent
from trainer.protocols.generalisation import OneNetwork, tested, trained_on
from trainer.training.embedding import embed


class Settings(OneNetwork):
    """The network, and its calibration."""

    crops: int = 128
    """Random crops of each of the two images."""


def run(study: Study) -> Findings:
    """Table ``accuracy``, with rows for uncalibrated, oracle, two-shot, and the uncalibrated floors."""
    settings: Settings = study.settings(Settings)
    net = trained_on(study, settings.variant, settings.train_on)[0][0]
    draws = len(study.draws_of(settings.variant))
    floors = floors_of(study, (study.generators[settings.train_on],))
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        images = tested(study, name)
        sample = Sample.of(study, images, 1, draws)
        logits = study.outputs(net, images).logits
        generated = sample.generated
        biases = np.array([_bias(net, images, settings.crops, seed) for seed in range(draws)])
        shifted = (logits[None] + biases[:, None] > 0) == generated
        plain = np.repeat(((logits > 0) == generated)[None], draws, axis=0)
        for row, right in (("uncalibrated", plain), ("two-shot", shifted)):
            found[row, name] = percent_of(bootstrap.mean(right[None], sample.photograph, sample.resamples))
        found["oracle", name] = percent(oracle(logits, generated).accuracy)
        for floor in floors:
            found[floor.row, name] = percent(float(np.mean((floor.predict(images).logits > 0) == generated)))
    remark = f"Means of {draws} draws of the pair; the oracle's threshold is chosen on the test images."
    return Findings(tables=(study.recipe.published("accuracy").beside(found),), remarks=(remark,))


def random_crops(image: Pixels, side: int, count: int, rng: np.random.Generator) -> Images:
    """Random crops ``uint8[count, side, side, 3]`` of ``uint8[H, W, 3]``; a small image is mirrored at its border."""
    height, width = image.shape[:2]
    missing = max(0, side + 1 - height), max(0, side + 1 - width)
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
    rows = rng.integers(0, image.shape[0] - side, count, endpoint=True)
    columns = rng.integers(0, image.shape[1] - side, count, endpoint=True)
    return np.stack([image[y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True)])


def _bias(net: Trained, images: tuple[CorpusImage, ...], crops: int, seed: int) -> float:
    """The bias from two of the test images, as published."""

    def logits(*, generated: bool) -> Floats:
        (drawn,) = draw_one([p for p in images if p.generated == generated], seed)
        pixels = np.asarray(decode(drawn.extent.read()).image)
        return embed(net.model, random_crops(pixels, net.config.size, crops, np.random.default_rng(seed)))[0]

    return two_shot_bias(logits(generated=False), logits(generated=True))
