"""Figures of one system beside another's, or beside its own of before."""

from typing import Any

import numpy as np
import pytest

from trainer.data.entries import REAL
from trainer.data.transforms import CLEAN
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import Estimate
from trainer.experiments.corpus import draw
from trainer.experiments.measures import Sample
from trainer.experiments.naming import make_namer
from trainer.experiments.recipe import Variant
from trainer.protocols import closed_set, few_shot
from trainer.protocols.few_shot import draw_seed, few_shot_pool

pytestmark = pytest.mark.slow


def test_errors_are_compared_on_the_same_photographs_whatever_the_number_of_backbones(make_study: Any) -> None:
    study = make_study({"protocol": "closed_set"}, resamples=50)
    classes = study.corpus.classes(study.generators.values(), "test")
    images = [image for some in classes.values() for image in some]
    scenes = np.array([image.scene for image in images])
    rng = np.random.default_rng(0)
    wrong = {"LDA": rng.random((3, 1, len(scenes))) < 0.2, "S1": rng.random((1, 1, len(scenes))) < 0.5}
    samples = {row: Sample.of(study, images, len(flags)) for row, flags in wrong.items()}
    errors = {row: {closed_set.TOP1: samples[row].mean(flags)} for row, flags in wrong.items()}
    found = closed_set._ratios(errors, "LDA", "S1")["LDA / S1", "clean"]

    expected = []
    cells = samples["LDA"].resamples.cells[:, :, 0]
    for taken, copies in zip(cells, samples["S1"].resamples.photographs, strict=True):
        files = np.repeat(np.arange(len(scenes)), copies[scenes].astype(int))
        lda = np.mean([wrong["LDA"][seed, 0, files].mean() for seed in np.repeat(np.arange(3), taken.astype(int))])
        expected.append(lda / wrong["S1"][0, 0, files].mean())
    assert found.value == pytest.approx(expected[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected[1:], [0.025, 0.975])))


def test_no_ratio_is_told_where_the_reference_makes_no_errors() -> None:
    none, some = (Estimate(np.full(3, error)) for error in (0.0, 0.1))
    assert closed_set._ratios({"a": {closed_set.TOP1: some}, "b": {closed_set.TOP1: none}}, "a", "b") == {}


def test_what_others_lose_is_of_the_same_backbones_and_draws(make_study: Any) -> None:
    """By hand: which images were named rightly as long as there was one template less."""
    study = make_study({"protocol": "few_shot"}, seeds=2, draws=2)
    variant = Variant.model_validate({"system": "s1"})
    family, *known = study.generators.values()
    backbones = few_shot.backbones_without(study, variant, family)
    before = few_shot._before(study, variant, backbones, family, [CLEAN])["clean"]
    found = few_shot._test(study, before, few_shot._learn(study, variant, backbones, {family: 2}), family)

    rest = [p for some in study.corpus.classes(known, "test").values() for p in some]
    lost = np.empty((2, 2, len(rest)))
    for seed, (net, train) in enumerate(backbones):
        for number in range(2):
            one = draw_seed(seed, number)
            new = {family: draw(few_shot_pool(study, family), 2, one)}
            without, with_it = (make_namer(study, variant, net, train, some, one) for some in (None, new))
            lost[seed, number] = without.right(rest).astype(int) - with_it.right(rest)
            assert set(with_it.library.labels) - set(without.library.labels) == {family}
            assert REAL in without.library.labels
    sample = Sample.of(study, rest, 2, 2)
    expected = bootstrap.mean(lost, sample.photograph, sample.resamples)
    np.testing.assert_allclose(found.lost.found, expected.found, atol=1e-12)
