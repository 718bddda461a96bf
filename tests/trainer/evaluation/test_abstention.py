"""Against plain loops over the definitions, and coverage on simulated images."""

import numpy as np
import pytest

from trainer.arrays import Flags, Floats
from trainer.errors import TooFewClasses
from trainer.evaluation.abstention import GENERATED, REAL, UNSURE, ConformalKinds, RiskCoverage


@pytest.fixture(scope="module")
def logits() -> tuple[Floats, Flags]:
    rng = np.random.default_rng(0)
    generated = rng.permutation(np.arange(300) < 180)
    return np.round(rng.normal(np.where(generated, 2.0, -2.0), 1.5), 2).astype(np.float32), generated


def test_p_values_of_kinds_are_their_definition(logits: tuple[Floats, Flags]) -> None:
    scores, generated = logits
    kinds = ConformalKinds.of(scores, generated)
    for x in np.array([-9.0, -2.0, 0.01, scores[0], 1.5, 9.0], np.float32):
        real = (1 + sum(s >= x for s in scores[~generated])) / 121
        fake = (1 + sum(s <= x for s in scores[generated])) / 181
        np.testing.assert_allclose(kinds.p_values(np.array([x])), [[real, fake]])


@pytest.mark.parametrize("alpha", [0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("shift", [0.0, 20.0])
def test_sets_are_two_thresholds(logits: tuple[Floats, Flags], alpha: float, shift: float) -> None:
    """With a large shift the kinds are far apart, and an image in between is in no set at all."""
    scores, generated = logits
    scores = scores + np.where(generated, np.float32(shift), np.float32(0))
    kinds = ConformalKinds.of(scores, generated)
    grid = np.sort(np.concatenate([scores, np.linspace(-15, 30, 900, dtype=np.float32)]))
    low, high = kinds.band(alpha)

    expected = []
    for real, fake in kinds.p_values(grid):
        members = [kind for kind, p in ((REAL, real), (GENERATED, fake)) if p > alpha]
        expected.append(members[0] if len(members) == 1 else UNSURE)
    assert kinds.decide(grid, alpha).tolist() == expected
    by_thresholds = [REAL if x < low else GENERATED if x > high else UNSURE for x in grid]
    assert by_thresholds == expected
    assert (UNSURE in expected) == (np.isinf(low) or low <= high)


def test_sets_miss_a_kind_in_at_most_alpha_of_its_own() -> None:
    rng = np.random.default_rng(0)
    generated = np.arange(200) < 100
    missed = []
    for _ in range(200):
        calib, test = (rng.normal(generated * 2.0).astype(np.float32) for _ in range(2))
        found = ConformalKinds.of(calib, generated).p_values(test)
        missed.append([np.mean(found[~generated, REAL] <= 0.1), np.mean(found[generated, GENERATED] <= 0.1)])
    np.testing.assert_allclose(np.mean(missed, axis=0), 0.1 - 0.5 / 101, atol=0.01)


def test_the_likelier_kind_is_the_one_that_survives_a_smaller_alpha(logits: tuple[Floats, Flags]) -> None:
    kinds = ConformalKinds.of(*logits)
    called, confidence = kinds.likelier(logits[0])
    for alpha in (0.01, 0.1):
        decided = kinds.decide(logits[0], alpha)
        sure = decided != UNSURE
        np.testing.assert_array_equal(decided[sure] == GENERATED, called[sure])
        assert (confidence[sure] >= 1 - alpha).all()


def test_one_kind_alone_cannot_calibrate() -> None:
    with pytest.raises(TooFewClasses, match="two kinds"):
        ConformalKinds.of(np.zeros(3, np.float32), np.zeros(3, np.bool_))


def test_risk_and_coverage_by_hand() -> None:
    confidence = np.array([0.9, 0.5, 0.8, 0.8, 0.1])
    wrong = np.array([False, True, True, False, True])
    curve = RiskCoverage.of(confidence, wrong)

    np.testing.assert_allclose(curve.coverage, [1 / 5, 3 / 5, 4 / 5, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 3, 2 / 4, 3 / 5])


def test_a_curve_is_the_risk_of_every_threshold() -> None:
    rng = np.random.default_rng(0)
    confidence, wrong = np.round(rng.random(80), 1), rng.random(80) < 0.3
    curve = RiskCoverage.of(confidence, wrong)
    for coverage, risk, least in zip(curve.coverage, curve.risk, sorted(set(confidence), reverse=True), strict=True):
        decided = confidence >= least
        assert coverage == pytest.approx(decided.mean())
        assert risk == pytest.approx(wrong[decided].mean())
