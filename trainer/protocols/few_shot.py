"""A new family of generators from a few of its images (S1, Table IV and Fig. 3): one family left out after another.

The publication has two columns for each family: *others*, the accuracy on all classes but the new one, and *new*, on
the new one alone. Beside the means we give the worst family, and the 10th percentile over draws of the few images.
Floors learn from the training images of the known classes and the few of the new one, drawn once.
*Others lose* is the accuracy on the other classes before the new one has a template, minus that after, with the same
backbones and draws.
If the recipe names no generators, those that the corpus keeps from training (``rec_*``) are learnt as well, by the
backbones that know all others; means and worst are over the families that were left out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.arrays import Flags
from trainer.data.transforms import CLEAN, Transform
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import CorpusImage, draw
from trainer.experiments.floors import StudyFloor, floors_of
from trainer.experiments.measures import Sample, percent_of
from trainer.experiments.naming import Namer, make_namer
from trainer.experiments.plots import panels
from trainer.experiments.recipe import Variant
from trainer.experiments.section import Figure, Measured
from trainer.experiments.study import Classes, Findings, Study, Trained

Backbone = tuple[Trained, Classes]
"""A network and the images that it was trained on."""
BEFORE = 0
"""The number of shots before the new class is learnt: a template of one image, and no training."""

FEWEST = 2
"""The fewest images from which a discriminant can learn a new class."""


class Settings(BaseModel):
    """The variants to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    shots: tuple[int, ...]
    """Numbers of images of the new class; 0 is before fine-tuning."""
    changes: tuple[str, ...] = ()
    """Post-processing of the test images, beside clean ones."""
    summary: bool = False
    """Also report worst families and unlucky draws."""


@dataclass(frozen=True, eq=False)
class Found:
    """Accuracies of one row and family, as shares on each resample."""

    new: Estimate
    others: Estimate
    lost: Estimate
    """Accuracy on the others before the new class has a template, minus ``others``."""
    unlucky: Estimate | None = None
    """Accuracy on the new class at the 10th percentile of the draws."""


@dataclass(frozen=True, eq=False)
class Figures:
    """The cells of the three tables: (row, column) -> figure."""

    new: dict[tuple[str, str], Measured] = field(default_factory=dict)
    others: dict[tuple[str, str], Measured] = field(default_factory=dict)
    summary: dict[tuple[str, str], Measured] = field(default_factory=dict)

    def add(self, row: str, found: Mapping[str, Found], over: Collection[str], change: Transform = CLEAN) -> None:
        """Add a row's figures for all families, on images after ``change``.

        The summary is ``over`` some families; only the summary has figures of changed images.
        """
        if change is CLEAN:
            self.new.update({(row, paper): percent_of(one.new) for paper, one in found.items()})
            self.others.update({(row, paper): percent_of(one.others) for paper, one in found.items()})
        summary = _summary([found[paper] for paper in over], change)
        self.summary.update({(row, column): percent_of(one) for column, one in summary.items()})


def run(study: Study) -> Findings:
    """Tables ``new`` and ``others``, a row for each variant and number of images; ``summary`` if set."""
    settings: Settings = study.settings(Settings)
    figures = Figures()
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in settings.variants}
    pool = min(len(few_shot_pool(study, family)) for family in study.tested.values())
    changes = (CLEAN, *changes_of(settings.changes))
    enough = [shots for shots in settings.shots if shots <= pool]
    families = {**study.tested, **_kept(study, max(enough, default=1))}
    remarks = [
        f"{shots} images are not tested: there are only {pool}." for shots in settings.shots if shots not in enough
    ]
    for name, variant in settings.variants.items():
        nets = {paper: backbones_without(study, variant, family) for paper, family in families.items()}
        before = {paper: _before(study, variant, nets[paper], f, changes) for paper, f in families.items()}
        for shots in enough:
            row = row_of(name, shots)
            learnt = {paper: _learn(study, variant, nets[paper], {f: shots}) for paper, f in families.items()}
            for change in changes:
                found = {
                    paper: _test(study, before[paper][change.name], learnt[paper], family, change)
                    for paper, family in families.items()
                }
                figures.add(row, found, study.tested, change)
            for paper in families:
                groups[name].setdefault(paper, []).append((shots, figures.new[row, paper].value))
    for shots in enough:
        for row, found in _floors(study, families, shots).items():
            figures.add(row, found, study.tested)
    shown = {"new": figures.new, "others": figures.others, **({"summary": figures.summary} if settings.summary else {})}
    tables = [study.recipe.published(name).beside(table) for name, table in shown.items()]
    image = panels(groups, x="images of the new class", y="accuracy on the new class, %", limits=(0, 102))
    figure = Figure(title="Accuracy by images of the new class (S1, Fig. 3)", image=image)
    return Findings(tables=tuple(tables), figures=(figure,), remarks=tuple(remarks))


def _kept(study: Study, shots: int) -> dict[str, str]:
    """Generators that are kept from training and have images to learn from; none if the recipe names generators."""
    return {} if study.recipe.names else {n: n for n in study.kept if len(few_shot_pool(study, n)) >= max(shots, 1)}


def backbones_without(study: Study, variant: Variant, family: str) -> list[Backbone]:
    """A network for each seed that has never seen ``family``, with the images that it was trained on."""
    known = [generator for generator in study.generators.values() if generator != family]
    train, val = study.training_classes(variant, known)
    return [(trained, train) for trained in study.train_seeds(variant, train, val)]


def namer_with(
    study: Study,
    variant: Variant,
    backbone: Backbone,
    families: Mapping[str, int],
    seed: int,
) -> Namer:
    """The backbone after learning families, each from a number of images drawn by ``seed``.

    A number of 0 gives the family a template of one image, without training.
    """
    trained, known = backbone
    fresh = {family: draw(few_shot_pool(study, family), shots or 1, seed) for family, shots in families.items()}
    if variant.adapt == "triplet" and not any(families.values()):
        variant = variant.model_copy(update={"adapt": "none"})
    return make_namer(study, variant, trained, known, fresh, seed)


def floors_with(study: Study, known: Sequence[str], families: Mapping[str, int]) -> list[StudyFloor]:
    """The floors after learning families, each from a number of images; none if one has fewer than ``FEWEST``."""
    if any(shots < FEWEST for shots in families.values()):
        return []
    few = {family: draw(few_shot_pool(study, family), shots, draw_seed(0, 0)) for family, shots in families.items()}
    return floors_of(study, known, few)


def few_shot_pool(study: Study, family: str) -> tuple[CorpusImage, ...]:
    """The images that the few are drawn from: training images, or calibration images of untrained generators."""
    return study.corpus.fakes(family, "train") or study.corpus.fakes(family, "calib")


def draw_seed(seed: int, number: int) -> int:
    """A seed of draws that differs for each backbone."""
    return 1000 * seed + number


def row_of(variant: str, shots: int) -> str:
    """The row of a variant in tables and recipes."""
    return f"{variant}, before" if shots == BEFORE else f"{variant}, {shots} images"


def _learn(
    study: Study, variant: Variant, backbones: Sequence[Backbone], families: Mapping[str, int]
) -> list[list[Namer]]:
    """A namer for each backbone and draw."""
    return [
        [namer_with(study, variant, one, families, draw_seed(seed, n)) for n in study.draws_of(variant)]
        for seed, one in enumerate(backbones)
    ]


def _before(
    study: Study, variant: Variant, backbones: Sequence[Backbone], family: str, changes: Sequence[Transform]
) -> dict[str, Flags]:
    """Change -> which images of the other classes get their own label without the family: ``bool[S, D, N]``."""
    namers = _learn(study, variant, backbones, {})
    _, rest = _test_images(study, family)
    return {change.name: _right(namers, rest, change) for change in changes}


def _test(
    study: Study, before: Flags, namers: Sequence[Sequence[Namer]], family: str, change: Transform = CLEAN
) -> Found:
    """Accuracies after the family is learnt; ``before`` is of the same backbones and draws (see ``_before``)."""
    own, rest = _test_images(study, family)
    sample, of_others = (Sample.of(study, some, len(namers), len(namers[0])) for some in (own, rest))
    new, others = _right(namers, own, change), of_others.mean(_right(namers, rest, change))
    return Found(
        new=sample.mean(new),
        others=others,
        lost=of_others.mean(before) - others,
        unlucky=bootstrap.quantile_of_draws(new, sample.photograph, sample.resamples, 0.1),
    )


def _right(namers: Sequence[Sequence[Namer]], images: Sequence[CorpusImage], change: Transform) -> Flags:
    """Which images get their own label: ``bool[S, D, N]``."""
    return np.array([[namer.right(images, change) for namer in row] for row in namers])


def _floors(study: Study, families: Mapping[str, str], shots: int) -> dict[str, dict[str, Found]]:
    """Row -> family -> the floors' accuracies."""
    rows: dict[str, dict[str, Found]] = {}
    for paper, family in families.items():
        own, rest = _test_images(study, family)
        known = [generator for generator in study.generators.values() if generator != family]
        sample, of_others = (Sample.of(study, some, 1) for some in (own, rest))
        before = {floor.kind: of_others.mean(floor.right(rest)) for floor in floors_of(study, known)}
        for floor in floors_with(study, known, {family: shots}):
            new, others = sample.mean(floor.right(own)), of_others.mean(floor.right(rest))
            found = Found(new, others, before[floor.kind] - others)
            rows.setdefault(row_of(floor.row, shots), {})[paper] = found
    return rows


def _test_images(study: Study, family: str) -> tuple[Sequence[CorpusImage], Sequence[CorpusImage]]:
    """Test images of the family, and of all other classes."""
    classes = study.test_classes({**study.generators, family: family}.values(), least=2)
    return classes[family], [p for name, images in classes.items() if name != family for p in images]


def _summary(found: Sequence[Found], change: Transform) -> dict[str, Estimate]:
    after = "" if change is CLEAN else f", {change.name}"
    columns = {
        f"worst family{after}": bootstrap.worst([one.new for one in found]),
        f"mean{after}": bootstrap.average([one.new for one in found]),
        f"others, mean{after}": bootstrap.average([one.others for one in found]),
        f"others lose{after}": bootstrap.average([one.lost for one in found]),
    }
    unlucky = [one.unlucky for one in found if one.unlucky is not None]
    if unlucky:
        columns[f"unlucky draw, worst family{after}"] = bootstrap.worst(unlucky)
    return columns
