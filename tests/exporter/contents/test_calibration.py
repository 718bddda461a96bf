import warnings

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.special import logit
from scipy.stats import beta

from bundle.manifest import Calibration
from bundle.scores import probability
from exporter.contents.calibration import choose_thresholds, fit_platt

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

IDENTITY = Calibration(scale=1, bias=0, prior_generated=0.5, count_real=1, count_generated=1)


def sample(real: tuple[float, float, int], generated: tuple[float, float, int], seed: int = 0) -> tuple[Floats, Flags]:
    """Normal logits: mean, deviation and count of each kind."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate([rng.normal(*real), rng.normal(*generated)]).astype(np.float32)
    return logits, np.arange(len(logits)) >= real[2]


def platt_by_scipy(logits: Floats, generated: Flags) -> tuple[float, float]:
    """Minimise the stated cross-entropy itself: soft targets, both kinds of one total weight."""
    positive, negative = int(generated.sum()), int((~generated).sum())
    target = np.where(generated, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weight = np.where(generated, 0.5 / positive, 0.5 / negative)
    centre, spread = logits.mean(dtype=float), logits.std(dtype=float)
    scaled = (logits - centre) / spread

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        z = parameters[0] * scaled + parameters[1]
        return float(np.sum(weight * (target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z))))

    slope, intercept = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    return slope / spread, intercept - slope * centre / spread


@pytest.mark.parametrize(
    ("real", "generated"),
    [
        ((-1, 2, 80), (1, 2, 80)),
        ((-1, 2, 20), (1, 2, 300)),
        ((-8, 1, 50), (8, 1, 70)),
        ((-800, 300, 60), (500, 300, 60)),
        ((90, 2, 60), (96, 2, 60)),
        ((-0.01, 0.01, 60), (0.01, 0.01, 60)),
    ],
    ids=["overlapping", "unbalanced", "separable", "large", "off centre", "small"],
)
def test_platt_is_the_optimum_of_the_stated_likelihood(
    real: tuple[float, float, int], generated: tuple[float, float, int]
) -> None:
    logits, flags = sample(real, generated)
    found = fit_platt(logits, flags)
    scale, bias = platt_by_scipy(logits, flags)
    assert (found.count_real, found.count_generated, found.prior_generated) == (real[2], generated[2], 0.5)
    expected = [1 / (1 + np.exp(-np.clip(scale * value + bias, -500, 500))) for value in logits.astype(float)]
    assert [probability(float(value), found) for value in logits] == pytest.approx(expected, abs=2e-3)


def test_separable_kinds_stay_finite_and_modest() -> None:
    """Platt's targets: with ten images of a kind nothing is called more than 11/12 sure."""
    logits, flags = sample((-50, 1, 10), (50, 1, 10))
    calibration = fit_platt(logits, flags)
    assert max(probability(float(value), calibration) for value in logits) < 0.95


def test_a_detector_worse_than_chance_says_about_a_half() -> None:
    logits, flags = sample((103, 1, 40), (97, 1, 40))
    calibration = fit_platt(logits, flags)
    assert calibration.scale > 0
    assert [probability(float(value), calibration) for value in logits] == pytest.approx([0.5] * 80, abs=0.01)


class TestThresholds:
    @staticmethod
    def logits(*chances: float) -> Floats:
        return np.asarray(logit(chances), np.float32)

    def test_separable_kinds_need_no_band(self) -> None:
        logits, flags = self.logits(0.1, 0.2, 0.8, 0.9), np.array([False, False, True, True])
        found = choose_thresholds(logits, flags, IDENTITY, target=0)
        assert (found.low.threshold, found.high.threshold) == (0.5, 0.5)
        assert (found.low.observed, found.high.observed) == (0, 0)

    def test_overlapping_kinds_leave_a_band(self) -> None:
        reals, fakes = (0.1, 0.3, 0.4, 0.7), (0.2, 0.6, 0.8, 0.9, 0.95)
        flags = np.array([False] * 4 + [True] * 5)
        strict = choose_thresholds(self.logits(*reals, *fakes), flags, IDENTITY, target=0)
        assert strict.high.threshold == pytest.approx(0.7)
        assert strict.low.threshold == pytest.approx(0.2)
        assert (strict.high.observed, strict.low.observed) == (0, 0)
        lenient = choose_thresholds(self.logits(*reals, *fakes), flags, IDENTITY, target=0.25)
        assert (lenient.high.threshold, lenient.low.threshold) == (0.5, 0.5)
        assert (lenient.high.observed, lenient.low.observed) == (1 / 4, 1 / 5)
        assert (lenient.high.error, lenient.low.error) == ("false_positive_rate", "false_negative_rate")

    @pytest.mark.parametrize("target", [0, 0.01, 0.05, 0.1, 0.3])
    @pytest.mark.parametrize("seed", range(4))
    def test_no_narrower_band_keeps_both_errors(self, target: float, seed: int) -> None:
        """By brute force over every threshold that the images can tell apart; with ties."""
        logits, flags = sample((-1, 2, 60), (1, 2, 45), seed)
        logits = np.round(logits, 1)
        found = choose_thresholds(logits, flags, IDENTITY, target)
        chances = np.array([probability(float(value), IDENTITY) for value in logits])
        reals, fakes = chances[~flags], chances[flags]
        assert found.high.observed == np.mean(reals >= found.high.threshold) <= target
        assert found.low.observed == np.mean(fakes < found.low.threshold) <= target
        lower = [t for t in chances if 0.5 <= t < found.high.threshold]
        assert all(np.mean(reals >= t) > target for t in lower)
        higher = [t for t in chances if found.low.threshold < t <= 0.5]
        assert all(np.mean(fakes < t) > target for t in higher)

    def test_intervals_are_clopper_and_pearson_s(self) -> None:
        chances = np.linspace(0.01, 0.99, 50)
        flags = np.arange(50) % 2 == 0
        point = choose_thresholds(self.logits(*chances), flags, IDENTITY, target=0.2).high
        wrong = round(point.observed * point.count)
        assert 0 < wrong < point.count == 25
        expected = (beta.ppf(0.025, wrong, 25 - wrong + 1), beta.ppf(0.975, wrong + 1, 25 - wrong))
        assert point.interval_95 == pytest.approx(expected)


def test_fitting_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_platt(*sample((-2000, 900, 60), (3000, 900, 60)))
