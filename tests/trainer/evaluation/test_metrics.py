"""Figures of merit against hand-made cases and plain loops."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from trainer.arrays import Flags, Floats
from trainer.errors import TooFewClasses
from trainer.evaluation.metrics import (
    auroc,
    average_precision,
    binary,
    closed_set,
    detection_rates,
    oracle,
    oscr,
    proportion,
    threshold_at_fpr,
)


@pytest.fixture(params=[0, 1, 2])
def drawn(request: pytest.FixtureRequest) -> tuple[Floats, Flags]:
    """Overlapping scores of 120 reals and 80 fakes; rounded, so that many are equal."""
    rng = np.random.default_rng(request.param)
    generated = rng.permutation(np.arange(200) < 80)
    scores = np.round(rng.normal(generated * 1.5, 1.0), 1).astype(np.float32)
    return scores, generated


def test_binary_figures_of_a_hand_made_ranking() -> None:
    logits = np.array([-2.0, -1.0, 0.5, 1.0, 3.0], np.float32)
    generated = np.array([False, True, False, True, True])
    found = binary(logits, generated)

    pairs = [(fake > real) for fake in logits[generated] for real in logits[~generated]]
    precisions = [1 / 1, 2 / 2, 3 / 4]  # walking down the ranking, at each generated image
    assert found is not None
    assert (found.real, found.generated) == (2, 3)
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert found.average_precision == pytest.approx(np.mean(precisions))
    assert found.accuracy_at_zero == pytest.approx(3 / 5)


@pytest.mark.parametrize("generated", [[True, True], [False, False]])
def test_one_kind_alone_has_no_ranking(generated: list[bool]) -> None:
    flags = np.array(generated)
    assert binary(np.zeros(2, np.float32), flags) is None
    for figure in (auroc, average_precision, oracle):
        with pytest.raises(TooFewClasses, match="two kinds"):
            figure(np.zeros(2, np.float32), flags)


def test_confusion_rows_are_the_truth() -> None:
    found = closed_set(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2]), ("a", "b", "c", "absent"))
    assert found.confusion == ((1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 2, 0), (0, 0, 0, 0))
    assert found.top1 == pytest.approx(4 / 6)
    assert found.recall == {"a": 0.5, "b": 1.0, "c": pytest.approx(2 / 3)}


def test_auroc_counts_ties_half(drawn: tuple[Floats, Flags]) -> None:
    scores, generated = drawn
    wins = [(f > r) + 0.5 * (f == r) for f in scores[generated] for r in scores[~generated]]
    assert auroc(scores, generated) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.025, 0.3, 1.0])
def test_a_threshold_lets_no_more_than_its_share_of_calibration_reals_through(limit: float) -> None:
    reals = np.random.default_rng(0).normal(size=200).astype(np.float32)
    threshold = threshold_at_fpr(reals, limit)

    assert (reals >= threshold).mean() == limit
    assert np.mean(reals >= np.nextafter(np.float32(threshold), np.float32(-np.inf))) > limit or limit == 1


def test_equal_reals_are_all_below_the_threshold_or_all_above_it() -> None:
    assert not (np.ones(10, np.float32) >= threshold_at_fpr(np.ones(10, np.float32), 0.5)).any()


def test_an_operating_point_counts_both_kinds() -> None:
    found = detection_rates(1.0, np.array([0.0, 1.0, 2.0, 0.5, 1.5]), np.array([False, False, True, True, True]))
    assert (found.detected.hits, found.detected.count) == (2, 3)
    assert (found.false_alarms.hits, found.false_alarms.count) == (1, 2)


def test_the_oracle_is_the_best_of_all_thresholds(drawn: tuple[Floats, Flags]) -> None:
    scores, generated = drawn
    found = oracle(scores, generated)

    every = [-100.0, *(np.unique(scores) + 0.05)]
    assert found.accuracy == pytest.approx(max(np.mean((scores > t) == generated) for t in every))
    assert np.mean((scores > found.threshold) == generated) == pytest.approx(found.accuracy)


def test_an_oracle_may_call_everything_one_kind() -> None:
    generated = np.array([True, False, False])
    assert oracle(np.array([0.0, 1.0, 2.0]), generated).accuracy == pytest.approx(2 / 3)


def test_oscr_is_the_area_under_its_curve() -> None:
    rng = np.random.default_rng(1)
    known, unknown = np.round(rng.normal(1, 1, 60), 1), np.round(rng.normal(0, 1, 40), 1)
    right = rng.random(60) < 0.8

    curve = [(0.0, 0.0)]
    for threshold in sorted({*known, *unknown}, reverse=True):
        accepted_and_right = sum(k >= threshold and bool(r) for k, r in zip(known, right, strict=True)) / 60
        curve.append((sum(u >= threshold for u in unknown) / 40, accepted_and_right))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(curve))

    assert oscr(known, right, unknown) == pytest.approx(area)


def test_oscr_of_perfect_rejection_is_the_share_of_right_names() -> None:
    right = np.array([True, True, False, True])
    assert oscr(np.array([3.0, 4.0, 5.0, 6.0]), right, np.array([0.0, 1.0])) == pytest.approx(0.75)
    assert oscr(np.ones(4), np.zeros(4, np.bool_), np.zeros(2)) == 0


def test_exact_intervals_leave_a_fortieth_on_either_side() -> None:
    """The definition of Clopper and Pearson: at its ends the interval makes the finding that unlikely."""
    found = proportion(3, 20)

    def at_most(hits: int, chance: float) -> float:
        return sum(comb(20, k) * chance**k * (1 - chance) ** (20 - k) for k in range(hits + 1))

    assert found.rate == 3 / 20
    assert at_most(3, found.high) == pytest.approx(0.025)
    assert 1 - at_most(2, found.low) == pytest.approx(0.025)
    assert (proportion(0, 20).low, proportion(20, 20).high) == (0, 1)
