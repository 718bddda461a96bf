"""Blur and noise in training, tested on unseen generators (S2, Table 1); *positive* is a real image there.

Published gains are in accuracy at one threshold, which a model can also gain by calling more images generated. AUROC
and TNR at TPR 95 % do not depend on the threshold. Differences to the first variant are paired over photographs.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.arrays import Scores
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.floors import binary_floors
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Measured
from trainer.experiments.study import Findings, Study


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant] = Field(min_length=1)
    """Gains are differences to the first."""
    train_on: tuple[str, ...] = Field(min_length=1)
    """Generators, by their names in the publication; each has a network of its own, which is tested on all others."""


FIGURES = ("ACC", "TPR", "TNR", "AUROC", "TNR at TPR 95")


def run(study: Study) -> Findings:
    """Tables ``figures`` (a row for each test set and variant) and ``gain`` (means over unseen generators)."""
    settings: Settings = study.settings(Settings)
    figures: dict[tuple[str, str], Measured] = {}
    sources = [name for name in settings.train_on if name in study.generators]
    unseen: dict[str, list[dict[str, Estimate]]] = {name: [] for name in settings.variants}
    for source in sources:
        prefix = "" if len(sources) == 1 else f"{source} -> "
        for row, variant in settings.variants.items():
            for target, estimates in _tested(study, variant, source).items():
                figures |= {(f"{prefix}{target}, {row}", name): percent_of(one) for name, one in estimates.items()}
                unseen[row] += [estimates] if target != source else []
        for target, generator in study.tested.items():
            floors = binary_floors(study, (study.generators[source],), (generator,))
            figures |= {(f"{prefix}{target}, {floor}", "AUROC"): value for floor, value in floors.items()}
    gains = _gains({row: _means(found) for row, found in unseen.items() if found})
    tables = (study.recipe.published("figures").beside(figures), study.recipe.published("gain").beside(gains))
    return Findings(tables=tables)


def _means(found: list[dict[str, Estimate]]) -> dict[str, Estimate]:
    return {name: bootstrap.average([estimates[name] for estimates in found]) for name in FIGURES}


def _gains(means: dict[str, dict[str, Estimate]]) -> dict[tuple[str, str], Measured]:
    """Figures of each variant, and its gains over the first."""
    found: dict[tuple[str, str], Measured] = {}
    first = next(iter(means), "")
    for row, estimates in means.items():
        for name, estimate in estimates.items():
            found[row, name] = percent_of(estimate)
            if row != first:
                found[f"{row} - {first}", name] = percent_of(estimate - means[first][name])
    return found


def _tested(study: Study, variant: Variant, source: str) -> dict[str, dict[str, Estimate]]:
    nets = study.train_seeds(variant, *study.training_classes(variant, [study.generators[source]]))
    found = {}
    for target, family in study.tested.items():
        images = study.both_kinds([family])
        logits = np.stack([study.outputs(net, images).logits for net in nets])[:, None]
        found[target] = _figures(Sample.of(study, images, len(nets)), logits)
    return found


def _figures(sample: Sample, logits: Scores) -> dict[str, Estimate]:
    called_real = logits <= 0
    generated = sample.generated
    # Reals and fakes count the same, as in the paper, whose sets are equally large.
    tpr = sample.among(~generated).mean(called_real[:, :, ~generated])
    tnr = sample.among(generated).mean(~called_real[:, :, generated])
    return {
        "ACC": bootstrap.average([tpr, tnr]),
        "TPR": tpr,
        "TNR": tnr,
        "AUROC": sample.auroc(logits),
        "TNR at TPR 95": sample.tnr_at_tpr(logits, 0.95),
    }
