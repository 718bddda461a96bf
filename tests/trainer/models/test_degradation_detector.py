"""The detector on shifted noise, and against its own members by plain NumPy."""

import numpy as np
import pytest
import torch

from trainer.models.block_statistics import EXTENDED
from trainer.models.degradation_detector import DegradationDetector, DegradedPairs, DetectorConstants, train_detector

CONSTANTS = DetectorConstants(members=2, hidden_units=16, batch=200, temperature=2.0)


def pairs(count: int, seed: int, shift: float) -> DegradedPairs:
    """Noise, and copies of it that are shifted in 200 statistics."""
    pristine = np.random.default_rng(seed).normal(size=(count, EXTENDED)).astype(np.float32)
    degraded = pristine.copy()
    degraded[:, :200] += shift
    return DegradedPairs(pristine, degraded)


def trained(shift: float, constants: DetectorConstants = CONSTANTS, epochs: int = 40) -> DegradationDetector:
    detector = DegradationDetector(constants)
    whitening = np.eye(EXTENDED)
    train_detector(detector, [pairs(60, 0, shift), pairs(40, 1, shift)], whitening, constants, epochs=epochs, seed=0)
    return detector


@pytest.fixture(scope="module")
def detector() -> DegradationDetector:
    return trained(shift=3.0)


def log_odds(detector: DegradationDetector, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = detector(torch.from_numpy(rows))[:, 0].numpy()
    return found


def test_untrained_it_is_undecided() -> None:
    assert log_odds(DegradationDetector(CONSTANTS), pairs(5, 0, 1.0).pristine).tolist() == [0.0] * 5


def test_it_tells_degraded_images_from_pristine_ones(detector: DegradationDetector) -> None:
    fresh = pairs(50, 2, 3.0)
    assert np.mean(log_odds(detector, fresh.degraded) > 0) > 0.9
    assert np.mean(log_odds(detector, fresh.pristine) < 0) > 0.9


def test_where_copies_are_the_same_no_image_looks_degraded() -> None:
    assert np.abs(log_odds(trained(shift=0.0, epochs=5), pairs(50, 2, 0.0).pristine)).max() < 1


def test_log_odds_are_the_mean_of_the_members_over_the_temperature(detector: DegradationDetector) -> None:
    """A member's hidden units are sixteen in a row; twice the temperature halves the log-odds."""
    detector, rows = trained(shift=3.0), pairs(5, 2, 2.0).degraded
    hidden = np.maximum(rows @ detector.hidden.weight.detach().numpy().T + detector.hidden.bias.detach().numpy(), 0)
    assert hidden.shape == (5, 32)
    parts = [hidden[:, i : i + 16] @ detector.out.weight.detach().numpy()[0, i : i + 16] for i in (0, 16)]
    bias = float(detector.out.bias.detach())
    np.testing.assert_allclose(log_odds(detector, rows), parts[0] + parts[1] + bias, rtol=1e-3, atol=1e-4)
    colder = trained(shift=3.0, constants=CONSTANTS.model_copy(update={"temperature": 1.0}))
    np.testing.assert_allclose(log_odds(colder, rows), 2 * log_odds(detector, rows), rtol=1e-3, atol=1e-4)


def test_a_seed_gives_the_same_detector_and_leaves_the_global_generator_alone() -> None:
    first, second = DegradationDetector(CONSTANTS), DegradationDetector(CONSTANTS)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    for each in (first, second):
        train_detector(each, [pairs(40, 0, 2.0)], np.eye(EXTENDED), CONSTANTS, epochs=1, seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.hidden.weight, second.hidden.weight)


@pytest.mark.parametrize(("name", "value"), [("members", 0), ("temperature", 0.0), ("batch", 0), ("hidden_units", 0)])
def test_constants_are_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        DetectorConstants.model_validate({name: value})
