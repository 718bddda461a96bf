"""Against files repeated one by one and scikit-learn; coverage on simulated experiments."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from trainer.arrays import Floats64, Numbers
from trainer.errors import TooFewClasses
from trainer.evaluation import metrics
from trainer.evaluation.bootstrap import (
    Estimate,
    Resamples,
    auroc,
    average,
    average_precision,
    coverage_at,
    mean,
    oscr,
    quantile_of_draws,
    tnr_at_tpr,
    tpr_at_fpr,
    worst,
)

BACKBONES, DRAWS, PHOTOGRAPHS = 2, 3, 8
PHOTOGRAPH = np.array([0, 1, 2, 3, 4, 5, 6, 7] * 2 + [0, 3, 3, 7])
"""Every photograph has two files or more, so unequal numbers of them."""


@pytest.fixture(scope="module")
def resamples() -> Resamples:
    return Resamples.draw(BACKBONES, DRAWS, PHOTOGRAPHS, seed=0, count=30)


def cells_of(resamples: Resamples, row: int) -> list[tuple[int, int]]:
    """Each drawn cell, as often as it was drawn."""
    every = product(range(BACKBONES), range(DRAWS))
    return [cell for cell in every for _ in range(int(resamples.cells[row][cell]))]


def files_of(resamples: Resamples, row: int) -> Numbers:
    """Each file, as often as its photograph was drawn."""
    taken = [i for i, photo in enumerate(PHOTOGRAPH) for _ in range(int(resamples.photographs[row, photo]))]
    return np.array(taken)


def drawn(seed: int, *, rounded: bool = True) -> Floats64:
    values = np.random.default_rng(seed).normal(size=(BACKBONES, DRAWS, len(PHOTOGRAPH)))
    return np.round(values) if rounded else values


def test_a_resample_has_as_many_things_as_the_sample(resamples: Resamples) -> None:
    assert (resamples.cells[0] == 1).all()
    assert (resamples.photographs[0] == 1).all()
    assert (resamples.photographs.sum(axis=1) == PHOTOGRAPHS).all()
    of_backbones = resamples.cells.sum(axis=2)
    assert (of_backbones % DRAWS == 0).all()  # a backbone taken twice has twice as many draws
    assert (of_backbones.sum(axis=1) == BACKBONES * DRAWS).all()
    assert (of_backbones == 0).any()


def test_the_same_seed_gives_the_same_resamples(resamples: Resamples) -> None:
    again, other = (Resamples.draw(BACKBONES, DRAWS, PHOTOGRAPHS, seed, 30) for seed in (0, 1))
    np.testing.assert_array_equal(again.cells, resamples.cells)
    np.testing.assert_array_equal(again.photographs, resamples.photographs)
    assert (other.photographs != resamples.photographs).any()


def test_photographs_are_the_same_for_any_number_of_backbones_and_draws(resamples: Resamples) -> None:
    fewer = Resamples.draw(1, 1, PHOTOGRAPHS, seed=0, count=30)
    np.testing.assert_array_equal(fewer.photographs, resamples.photographs)


def test_the_mean_repeats_cells_and_photographs(resamples: Resamples) -> None:
    values = drawn(1)
    found = mean(values, PHOTOGRAPH, resamples).found
    for row in range(31):
        files = files_of(resamples, row)
        expected = np.mean([values[cell][files].mean() for cell in cells_of(resamples, row)])
        assert found[row] == pytest.approx(expected)


def test_flags_have_a_mean_too(resamples: Resamples) -> None:
    right = drawn(1) > 0
    np.testing.assert_array_equal(
        mean(right, PHOTOGRAPH, resamples).found, mean(right * 1.0, PHOTOGRAPH, resamples).found
    )


@pytest.mark.parametrize("q", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_a_quantile_of_draws_is_one_of_the_repeated_cells(resamples: Resamples, q: float) -> None:
    values = drawn(2)
    found = quantile_of_draws(values, PHOTOGRAPH, resamples, q).found
    for row in range(31):
        files = files_of(resamples, row)
        means = [values[cell][files].mean() for cell in cells_of(resamples, row)]
        assert found[row] == pytest.approx(np.quantile(means, q, method="inverted_cdf"))


def test_the_auroc_is_scikit_learns_on_repeated_files(resamples: Resamples) -> None:
    scores, positive = drawn(3), np.arange(len(PHOTOGRAPH)) >= PHOTOGRAPHS
    found = auroc(scores, positive, PHOTOGRAPH, resamples).found
    for row in range(31):
        files = files_of(resamples, row)
        expected = np.mean([roc_auc_score(positive[files], scores[cell][files]) for cell in cells_of(resamples, row)])
        assert found[row] == pytest.approx(expected)


def test_the_oscr_is_that_of_repeated_files(resamples: Resamples) -> None:
    scores, right, known = drawn(4), drawn(5) > -0.5, np.arange(len(PHOTOGRAPH)) % 3 > 0
    found = oscr(scores, known, right, PHOTOGRAPH, resamples).found
    for row in range(31):
        files = files_of(resamples, row)
        inside, outside = files[known[files]], files[~known[files]]
        each = [
            metrics.oscr(scores[cell][inside], right[cell][inside], scores[cell][outside])
            for cell in cells_of(resamples, row)
        ]
        assert found[row] == pytest.approx(np.mean(each))


def test_the_average_precision_is_scikit_learns_on_repeated_files(resamples: Resamples) -> None:
    scores, positive = drawn(8), np.arange(len(PHOTOGRAPH)) >= PHOTOGRAPHS
    found = average_precision(scores, positive, PHOTOGRAPH, resamples).found
    for row in range(31):
        files = files_of(resamples, row)
        each = [average_precision_score(positive[files], scores[cell][files]) for cell in cells_of(resamples, row)]
        assert found[row] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("limit", [0.0, 0.25, 0.6, 1.0])
def test_rates_at_a_limit_are_those_of_repeated_files(resamples: Resamples, limit: float) -> None:
    scores, positive = drawn(9), np.arange(len(PHOTOGRAPH)) >= PHOTOGRAPHS
    tprs = tpr_at_fpr(scores, positive, PHOTOGRAPH, resamples, limit).found
    tnrs = tnr_at_tpr(scores, positive, PHOTOGRAPH, resamples, limit).found
    for row in range(31):
        files = files_of(resamples, row)
        points = [
            roc_curve(positive[files], scores[cell][files], drop_intermediate=False)[:2]
            for cell in cells_of(resamples, row)
        ]
        assert tprs[row] == pytest.approx(np.mean([tpr[fpr <= limit].max() for fpr, tpr in points]))
        assert tnrs[row] == pytest.approx(np.mean([1 - fpr[tpr >= limit].min() for fpr, tpr in points]))


def test_a_limit_that_is_a_whole_number_of_files_is_not_missed_by_rounding() -> None:
    scores = np.arange(600, dtype=np.float32)
    positive = scores >= 300
    scores[:9] += 1000  # nine of 300 negatives are above every positive
    itself = Resamples.draw(1, 1, 600, seed=0, count=1)
    ranked, photograph = scores[None, None], np.arange(600)
    assert tpr_at_fpr(ranked, positive, photograph, itself, 9 / 300).found[0] == 1
    assert tpr_at_fpr(ranked, positive, photograph, itself, 8 / 300).found[0] == 0
    assert tnr_at_tpr(-ranked, ~positive, photograph, itself, 1 - 9 / 300).found[0] == 1


@pytest.mark.parametrize("risk", [0.0, 0.2, 0.5, 1.0])
def test_the_coverage_at_a_risk_is_that_of_repeated_files(resamples: Resamples, risk: float) -> None:
    scores, wrong = drawn(10), drawn(11) > 0.5
    found = coverage_at(scores, wrong, PHOTOGRAPH, resamples, risk).found
    for row in range(31):
        files = files_of(resamples, row)
        each = []
        for cell in cells_of(resamples, row):
            sure, errors = scores[cell][files], wrong[cell][files]
            decided = [sure >= threshold for threshold in np.unique(sure)]
            each.append(max((some.mean() for some in decided if errors[some].mean() <= risk), default=0))
        assert found[row] == pytest.approx(np.mean(each))


def test_a_ratio_to_nothing_is_infinite_and_counts_for_its_bound() -> None:
    one, other = Estimate(np.array([0.01, 0.01, 0.03, 0.0])), Estimate(np.array([0.02, 0.0, 0.01, 0.0]))
    ratio = one / other
    assert ratio.found[0] == 0.5
    assert ratio.interval().high == np.inf
    assert np.isnan(ratio.found[3])


def test_more_resamples_than_a_chunk_holds() -> None:
    many = Resamples.draw(1, 1, PHOTOGRAPHS, seed=0, count=250)
    scores, positive = drawn(7)[:1, :1], np.arange(len(PHOTOGRAPH)) >= PHOTOGRAPHS
    last = Resamples(many.cells[-3:], many.photographs[-3:])
    whole, part = (auroc(scores, positive, PHOTOGRAPH, some).found for some in (many, last))
    np.testing.assert_array_equal(whole[-3:], part)


def test_a_resample_without_one_of_the_kinds_does_not_count() -> None:
    """Three files of their own photographs: many resamples miss the only positive."""
    three = Resamples.draw(1, 1, 3, seed=0, count=200)
    found = auroc(np.array([[[0.0, 2.0, 1.0]]]), np.array([False, False, True]), np.arange(3), three)
    assert np.isnan(found.found).any()
    interval = found.interval()
    assert (interval.value, interval.low, interval.high) == (0.5, 0, 1)


def test_one_kind_alone_has_no_auroc(resamples: Resamples) -> None:
    with pytest.raises(TooFewClasses, match="two kinds"):
        auroc(drawn(0), np.ones(len(PHOTOGRAPH), np.bool_), PHOTOGRAPH, resamples)


def test_intervals_are_percentiles_of_the_resamples_alone() -> None:
    found = Estimate(np.array([7.0, *range(101)])).interval(0.9)
    assert (found.value, found.low, found.high) == pytest.approx((7, 5, 95))


def test_figures_of_the_same_resamples_are_compared_one_by_one() -> None:
    first, second = Estimate(np.array([3.0, 1.0, 5.0])), Estimate(np.array([2.0, 4.0, 1.0]))
    np.testing.assert_array_equal((first - second).found, [1, -3, 4])
    np.testing.assert_array_equal((first / second).found, [1.5, 0.25, 5])
    np.testing.assert_array_equal(average([first, second]).found, [2.5, 2.5, 3])
    np.testing.assert_array_equal(worst([first, second]).found, [2, 1, 1])


def test_two_systems_are_compared_on_the_same_photographs() -> None:
    """Hard photographs are hard for both: the difference is far surer than either."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=100)
    first, second = (hard + shift + rng.normal(0, 0.1, (3, 1, 100)) for shift in (0.1, 0.0))
    some = Resamples.draw(3, 1, 100, seed=0, count=500)

    a, b = (mean(values, np.arange(100), some) for values in (first, second))
    difference = (a - b).interval()
    assert difference.low > 0
    assert difference.high - difference.low < (a.interval().high - a.interval().low) / 4


@pytest.mark.parametrize(
    ("backbones", "draws", "spread", "files"),
    [
        (3, 1, (0.0, 0.0, 1.0), 1),  # photographs alone
        (3, 1, (0.0, 0.0, 1.0), 4),  # four files of each: not four times as many photographs
        (8, 5, (0.3, 0.5, 1.0), 1),  # everything varies
    ],
)
def test_intervals_cover_the_truth_as_often_as_promised(
    backbones: int, draws: int, spread: tuple[float, float, float], files: int
) -> None:
    rng = np.random.default_rng(0)
    of_backbone, of_draw, of_photograph = spread
    photographs, trials, covered = 50, 300, 0
    for trial in range(trials):
        values = (
            rng.normal(0, of_backbone, (backbones, 1, 1, 1))
            + rng.normal(0, of_draw, (backbones, draws, 1, 1))
            + rng.normal(0, of_photograph, (1, 1, photographs, 1))
            + rng.normal(0, 0.1, (backbones, draws, photographs, files))
        )
        some = Resamples.draw(backbones, draws, photographs, trial, 200)
        bounds = mean(values.reshape(backbones, draws, -1), np.repeat(np.arange(photographs), files), some).interval()
        covered += bounds.low <= 0 <= bounds.high
    assert 0.91 <= covered / trials <= 0.99
