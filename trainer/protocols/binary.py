"""Real or generated: each generator alone, and all mixed (S1, Table I); clean and post-processed.

A variant with a single output is trained anew against each generator, as published; one with an output for each class
is trained once on all of them. *Mixed* trains on as many reals as fakes: an equal share of each generator's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.linear_model import LogisticRegression

from trainer.arrays import Floats
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.evaluation.reliability import Reliability, reliability
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage
from trainer.experiments.floors import floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.plots import precision_recall, reliability_diagram
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Findings, Study, Trained
from trainer.protocols.closed_set import summary

MIXED = "Mixed"


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    changes: tuple[str, ...] = ()
    """Post-processing of test images, beside clean ones; see ``trainer.experiments.changes``."""
    fpr: float | None = None
    """Also report the share of fakes found at this share of false alarms."""


def run(study: Study) -> Findings:
    """Tables ``auroc`` and, if set, ``tpr`` (columns: each generator, the worst, all mixed) and ``changes``."""
    settings: Settings = study.settings(Settings)
    columns = {**study.tested, MIXED: None}
    auroc: dict[str, dict[str, Estimate]] = defaultdict(dict)
    tpr: dict[str, dict[str, Estimate]] = defaultdict(dict)
    after: dict[tuple[str, str], Measured] = {}
    curves: dict[str, tuple[Floats, np.ndarray]] = {}
    trust: dict[str, Reliability] = {}
    for row, variant in settings.variants.items():
        nets = _trained(study, variant)
        for column, generator in columns.items():
            images = _test(study, generator)
            sample = Sample.of(study, images, len(study.seeds_of(variant)))
            logits = _logits(study, nets[column], images)
            auroc[row][column] = sample.auroc(logits)
            if settings.fpr is not None:
                tpr[row][column] = sample.tpr_at_fpr(logits, settings.fpr)
        curves[row] = (logits[0, 0], sample.generated)
        trust[row] = _reliability(study, nets[MIXED][0], logits[0, 0], sample.generated)
        changed = {c.name: sample.auroc(_logits(study, nets[MIXED], images, c)) for c in changes_of(settings.changes)}
        for column, found in {**summary(changed, changes_of(settings.changes)), **changed}.items():
            after[row, column] = percent_of(found)
    for column, generator in columns.items():
        images = _test(study, generator)
        alone = Sample.of(study, images, 1)
        for floor in floors_of(study, tuple(study.generators.values()) if generator is None else (generator,)):
            logits = floor.predict(images).logits[None, None]
            auroc[floor.row][column] = alone.auroc(logits)
            if settings.fpr is not None:
                tpr[floor.row][column] = alone.tpr_at_fpr(logits, settings.fpr)
    after |= _floors_after(study, changes_of(settings.changes))
    tables = [study.recipe.published("auroc").beside(_percent(auroc))]
    if settings.fpr is not None:
        tables.append(study.recipe.published("tpr").beside(_percent(tpr)))
    if after:
        tables.append(study.recipe.published("changes").beside(after, "Mixed test images, after the transform."))
    figures = (
        Figure(title="Precision and recall, mixed", image=precision_recall(curves)),
        Figure(
            title="Reliability, mixed",
            image=reliability_diagram(trust),
            caption="Probabilities by Platt scaling on calibration images of all generators.",
        ),
    )
    return Findings(tables=tuple(tables), figures=figures)


def _percent(found: Mapping[str, Mapping[str, Estimate]]) -> dict[tuple[str, str], Measured]:
    """(Row, column) -> per cent, from row -> column -> share, with a column for the worst generator."""
    cells: dict[tuple[str, str], Measured] = {}
    for row, columns in found.items():
        cells |= {(row, column): percent_of(share) for column, share in columns.items()}
        cells[row, "worst"] = percent_of(bootstrap.worst([columns[name] for name in columns if name != MIXED]))
    return cells


def _floors_after(study: Study, changes: Sequence[Transform]) -> dict[tuple[str, str], Measured]:
    """The floors' figures of table ``changes``."""
    images = _test(study, None)
    sample = Sample.of(study, images, 1)
    found: dict[tuple[str, str], Measured] = {}
    for floor in floors_of(study, tuple(study.generators.values())):
        seen = [change for change in changes if floor.sees(change)]
        changed = {c.name: sample.auroc(floor.predict(images, c).logits[None, None]) for c in seen}
        found |= {(floor.row, column): percent_of(one) for column, one in {**summary(changed, seen), **changed}.items()}
    return found


def _trained(study: Study, variant: Variant) -> Mapping[str, list[Trained]]:
    """Column -> a network for each seed."""
    every, count = tuple(study.generators.values()), study.least(variant)
    train, val = study.training_classes(variant, every)
    if not study.config(variant, seed=0).binary:
        return dict.fromkeys((*study.generators, MIXED), study.train_seeds(variant, train, val))
    nets = {
        column: study.train_seeds(variant, *study.training_classes(variant, [generator]))
        for column, generator in study.generators.items()
    }
    reals = study.corpus.photographs("train", None if count is None else count * len(every))
    share = max(1, len(reals) // len(every))
    mixed = {"real": reals, **{name: study.corpus.fakes(name, "train", share) for name in every}}
    return {**nets, MIXED: study.train_seeds(variant, mixed, val)}


def _names(study: Study, generator: str | None) -> tuple[str, ...]:
    return tuple(study.tested.values()) if generator is None else (generator,)


def _test(study: Study, generator: str | None) -> tuple[CorpusImage, ...]:
    return study.both_kinds(_names(study, generator))


def _logits(study: Study, nets: Sequence[Trained], images: Sequence[CorpusImage], change: Transform = CLEAN) -> Floats:
    """``float32[S, 1, N]``."""
    return np.stack([study.outputs(net, images, change).logits for net in nets])[:, None]


def _reliability(study: Study, net: Trained, logits: Floats, generated: np.ndarray) -> Reliability:
    """Reliability of the probabilities after a logistic regression on calibration images."""
    images = study.calibration(study.generators.values())
    known = study.outputs(net, images).logits
    fit = LogisticRegression(C=1e3).fit(known[:, None], [image.generated for image in images])
    return reliability(fit.predict_proba(logits[:, None])[:, 1], generated)
