import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import trim_mean

from bundle.manifest import Calibration, OperatingPoint, Thresholds
from bundle.scores import (
    aggregate_embeddings,
    aggregate_logits,
    band,
    conformal_p_value,
    log_odds,
    probability,
    sigmoid,
    views_disagree,
)

CALIBRATION = Calibration(scale=0.5, bias=-1.0, prior_generated=0.25, count_real=30, count_generated=10)


def thresholds(low: float, high: float) -> Thresholds:
    def point(value: float, error: Literal["false_positive_rate", "false_negative_rate"]) -> OperatingPoint:
        return OperatingPoint(threshold=value, error=error, target=0, observed=0, interval_95=(0, 1), count=1)

    return Thresholds(low=point(low, "false_negative_rate"), high=point(high, "false_positive_rate"))


@pytest.mark.parametrize("views", [1, 2, 4, 5, 9, 10, 17])
def test_logits_over_views(views: int) -> None:
    logits = np.random.default_rng(views).normal(0, 9, views).astype(np.float32)
    assert aggregate_logits(logits, "mean") == pytest.approx(sum(map(float, logits)) / views)
    assert aggregate_logits(logits, "max") == max(map(float, logits))
    assert aggregate_logits(logits, "trimmed") == pytest.approx(trim_mean(logits.astype(float), 0.2))


def test_a_trimmed_mean_forgets_the_extremes() -> None:
    assert aggregate_logits(np.array([1, 2, 3, 4, 1000], np.float32), "trimmed") == 3


def test_embeddings_over_views() -> None:
    views = np.array([[3, 0], [1, 6]], np.float32)
    assert aggregate_embeddings(views, l2_normalised=False).tolist() == [2, 3]
    unit = aggregate_embeddings(views, l2_normalised=True)
    assert unit.dtype == np.float32
    assert unit == pytest.approx([2 / math.sqrt(13), 3 / math.sqrt(13)])
    assert aggregate_embeddings(np.array([[1, 0], [-1, 0]], np.float32), l2_normalised=True).tolist() == [0, 0]


@given(st.floats(-1e4, 1e4))
def test_sigmoid(x: float) -> None:
    assert sigmoid(x) == pytest.approx(float(expit(x)), rel=1e-12)


@given(st.floats(1e-9, 1 - 1e-9))
def test_log_odds(share: float) -> None:
    assert log_odds(share) == pytest.approx(float(logit(share)), rel=1e-9, abs=1e-12)


def test_probability_at_the_bundle_s_prior() -> None:
    assert probability(3.0, CALIBRATION) == pytest.approx(float(expit(0.5 * 3 - 1)))
    assert probability(3.0, CALIBRATION, 0.25) == probability(3.0, CALIBRATION)


@given(st.floats(-20, 20), st.floats(0.001, 0.999))
def test_another_prior_follows_bayes(raw: float, prior: float) -> None:
    at_bundle = probability(raw, CALIBRATION)
    generated, real = at_bundle / 0.25 * prior, (1 - at_bundle) / 0.75 * (1 - prior)
    assert probability(raw, CALIBRATION, prior) == pytest.approx(generated / (generated + real), rel=1e-9)


def test_bands_touch_without_overlap() -> None:
    limits = thresholds(0.2, 0.8)
    found = [band(value, limits) for value in (0, np.nextafter(0.2, 0), 0.2, np.nextafter(0.8, 0), 0.8, 1)]
    assert found == ["low", "low", "middle", "middle", "high", "high"]
    assert [band(value, thresholds(0.5, 0.5)) for value in (0.4999, 0.5)] == ["low", "high"]


@pytest.mark.parametrize(
    ("logits", "disagree"), [([9, -9], True), ([9, 2], False), ([2, -9], False), ([9, 2, -9], True), ([9], False)]
)
def test_views_disagree_across_both_thresholds(logits: list[float], *, disagree: bool) -> None:
    assert views_disagree(np.array(logits, np.float32), CALIBRATION, thresholds(0.2, 0.8)) is disagree


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 9))
def test_a_conformal_p_value_counts_the_image_itself_among_the_calibration_images(own: list[int], value: int) -> None:
    """It is the share of all images, the new one among them, that are at least as extreme as the new one."""
    as_extreme = sum(other >= value for other in own)
    together = [*own, value]
    expected = sum(other >= value for other in together) / len(together)
    assert conformal_p_value(as_extreme, len(own)) == expected
    assert conformal_p_value(np.array([as_extreme]), len(own)).tolist() == [expected]
