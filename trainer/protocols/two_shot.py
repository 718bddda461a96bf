"""Accuracy as trained, at the best threshold, and after calibration on one real and one fake (S3, Table 5).

Which pair is drawn matters, so there are several draws; the publication has one.
"""

import numpy as np

from bundle.preprocess import decode
from trainer.arrays import Floats, Pixels
from trainer.evaluation import bootstrap
from trainer.evaluation.metrics import oracle
from trainer.evaluation.reliability import two_shot_bias
from trainer.experiments.corpus import Picture, draw_one
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study, Trained, percent
from trainer.protocols.generalisation import OneNetwork, tested, trained_on
from trainer.training.embedding import embed


class Settings(OneNetwork):
    """How it is calibrated."""

    crops: int = 128
    """Random crops of each of the two images."""


def run(study: Study) -> Findings:
    """Table ``accuracy``, a row each: uncalibrated, oracle, two-shot; the floors, uncalibrated."""
    settings: Settings = study.settings(Settings)
    net = trained_on(study, settings.variant, settings.train_on)[0][0]
    draws = len(study.draws_of(settings.variant))
    floors = floors_of(study, (study.generators[settings.train_on],))
    found: dict[tuple[str, str], Measured] = {}
    for name in study.tested:
        pictures = tested(study, name)
        sample = Sample.of(study, pictures, 1, draws)
        logits = study.outputs(net, pictures).logits
        generated = sample.generated
        biases = np.array([_bias(net, pictures, settings.crops, seed) for seed in range(draws)])
        shifted = (logits[None] + biases[:, None] > 0) == generated
        plain = np.repeat(((logits > 0) == generated)[None], draws, axis=0)
        for row, right in (("uncalibrated", plain), ("two-shot", shifted)):
            found[row, name] = percent_of(bootstrap.mean(right[None], sample.photograph, sample.resamples))
        found["oracle", name] = percent(oracle(logits, generated).accuracy)
        for floor in floors:
            found[floor.row, name] = percent(float(np.mean((floor.judge(pictures).logits > 0) == generated)))
    remark = f"Means of {draws} draws of the pair; the oracle's threshold is chosen on the test images."
    return Findings(tables=(study.recipe.published("accuracy").beside(found),), remarks=(remark,))


def random_crops(image: Pixels, side: int, count: int, rng: np.random.Generator) -> Pixels:
    """``uint8[count, side, side, 3]`` at random places of ``uint8[H, W, 3]``; a small one is mirrored at its border."""
    height, width = image.shape[:2]
    missing = max(0, side + 1 - height), max(0, side + 1 - width)
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
    rows = rng.integers(0, image.shape[0] - side, count, endpoint=True)
    columns = rng.integers(0, image.shape[1] - side, count, endpoint=True)
    return np.stack([image[y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True)])


def _bias(net: Trained, pictures: tuple[Picture, ...], crops: int, seed: int) -> float:
    """From two of the test images, as published."""

    def logits(*, generated: bool) -> Floats:
        (picture,) = draw_one([p for p in pictures if p.generated == generated], seed)
        image = np.asarray(decode(picture.extent.read()).image)
        return embed(net.model, random_crops(image, net.config.size, crops, np.random.default_rng(seed)))[0]

    return two_shot_bias(logits(generated=False), logits(generated=True))
