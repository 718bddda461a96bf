"""AUROC of one generator at several input sizes, for several networks (S1, Table II).

As in the paper, images are resized to the input. A size above that of the stored images, real or generated, is left
out: enlarging adds no evidence, and if it enlarges one kind only, it gives that kind away.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict

from bundle.preprocess import decode
from trainer.experiments.floors import binary_floors
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    sizes: tuple[int, ...]
    """Sides of the input, in pixels."""


def run(study: Study) -> Findings:
    """Table ``auroc``."""
    settings: Settings = study.settings(Settings)
    (generator,) = list(study.generators.values())[:1]
    images = study.both_kinds([generator])
    test = study.corpus.classes([generator], "test", study.scale.test)
    stored, smallest = min((min(decode(some[0].extent.read()).image.size), label) for label, some in test.items())
    usable = [size for size in settings.sizes if size <= stored]
    found: dict[tuple[str, str], Measured] = {}
    for row, variant in settings.variants.items():
        sample = Sample.of(study, images, len(study.seeds_of(variant)))
        train, val = study.training_classes(variant, [generator])
        for size in usable:
            nets = study.train_seeds(variant, train, val, size=size, fit="resize")
            logits = np.stack([study.outputs(net, images).logits for net in nets])[:, None]
            found[row, f"{size}x{size}"] = percent_of(sample.auroc(logits))
    for size in usable:  # floors take the images as stored: the same at every size
        for floor, value in binary_floors(study, (generator,)).items():
            found[floor, f"{size}x{size}"] = value
    left_out = [f"{size}" for size in settings.sizes if size not in usable]
    remark = f"Images of {smallest} have {stored} pixels: {', '.join(left_out)} would only be enlarged."
    tables = (study.recipe.published("auroc").beside(found),)
    return Findings(tables=tables, remarks=(remark,) if left_out else ())
