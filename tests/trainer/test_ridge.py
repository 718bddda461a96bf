"""Against scikit-learn's ridge regression on weighted images."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from trainer.ridge import ClassMoments, Floats64, RandomFeatures, RidgeHead


@pytest.fixture(scope="module")
def features() -> dict[str, Floats64]:
    rng = np.random.default_rng(0)
    draw = RandomFeatures.draw(4, 12, seed=1)
    return {
        name: draw((rng.normal(size=(count, 4)) + rng.normal(size=4)).astype(np.float32))
        for name, count in {"real": 50, "flow": 30, "new": 3}.items()
    }


def test_features_are_rectified_projections() -> None:
    draw = RandomFeatures.draw(3, 5, seed=0)
    row = np.array([[1.0, -2.0, 0.5]], np.float32)
    by_hand = [max(0.0, sum(x * w for x, w in zip(row[0], column, strict=True))) for column in draw.weights.T]
    np.testing.assert_allclose(draw(row)[0], by_hand)
    np.testing.assert_array_equal(RandomFeatures.draw(3, 5, seed=0).weights, draw.weights)
    assert np.mean(RandomFeatures.draw(100, 500, 0).weights ** 2) == pytest.approx(1 / 100, rel=0.02)


def test_weights_are_those_of_ridge_regression_with_balanced_classes(features: dict[str, Floats64]) -> None:
    head = RidgeHead.fit({name: ClassMoments.of(rows) for name, rows in features.items()}, penalty=0.3)

    rows = np.concatenate(list(features.values()))
    truth = np.repeat(np.arange(3), [50, 30, 3])
    oracle = Ridge(alpha=0.3, fit_intercept=False)
    oracle.fit(rows, np.eye(3)[truth], sample_weight=1 / np.array([50, 30, 3])[truth])
    assert head.names == ("real", "flow", "new")
    np.testing.assert_allclose(head.weights, oracle.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(head.scores(rows), oracle.predict(rows), rtol=1e-6, atol=1e-9)


def test_a_class_may_come_in_parts(features: dict[str, Floats64]) -> None:
    rows = features["real"]
    whole, parts = ClassMoments.of(rows), ClassMoments.of(rows[:20]) + ClassMoments.of(rows[20:])
    assert parts.count == whole.count
    np.testing.assert_allclose(parts.total, whole.total)
    np.testing.assert_allclose(parts.gram, whole.gram)
