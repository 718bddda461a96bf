"""Against what the worker serves, plain loops, and coverage on simulated images."""

import numpy as np
import pytest

from bundle.templates import TemplateLibrary
from trainer.arrays import Floats, Numbers
from trainer.errors import DataMissing
from trainer.evaluation.open_set import DistanceCalibration

LABELS = ("flow", "real", "style")


@pytest.fixture(scope="module")
def library() -> TemplateLibrary:
    """Two templates of the first label, one of the others, calibrated with 30, 50 and 20 images."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 3, (4, 5)).astype(np.float32)
    empty = np.empty(0, np.float32)
    bare = TemplateLibrary(LABELS, vectors, np.array([0, 1, 2, 0]), np.ones(4, np.int64), (empty,) * 3)
    held_out = {
        name: (vectors[i] + rng.normal(size=(count, 5))).astype(np.float32)
        for i, (name, count) in enumerate(zip(LABELS, (30, 50, 20), strict=True))
    }
    return bare.with_calibration(held_out)


@pytest.fixture(scope="module")
def embeddings(library: TemplateLibrary) -> Floats:
    rng = np.random.default_rng(1)
    around = np.repeat(library.vectors, 30, axis=0)
    return np.concatenate([around + rng.normal(size=around.shape), rng.normal(0, 6, (40, 5))]).astype(np.float32)


def test_p_values_are_the_ones_the_worker_serves(library: TemplateLibrary, embeddings: Floats) -> None:
    matches = DistanceCalibration.of_library(library).match(library.distances(embeddings))
    served = library.match(embeddings, alpha=0.05)

    assert [LABELS[i] for i in matches.nearest] == [match.candidates[0].label for match in served]
    assert matches.p_value.tolist() == [match.p_value for match in served]
    assert (matches.p_value > 0.05).tolist() == [match.accepted for match in served]
    assert 20 < (matches.p_value <= 0.05).sum() < 80


def test_a_calibration_from_distances_is_the_librarys(library: TemplateLibrary) -> None:
    rng = np.random.default_rng(2)
    held_out = rng.normal(size=(9, 5)).astype(np.float32)
    label_ids = np.array([0, 1, 2] * 3)
    by_label = {name: held_out[label_ids == i] for i, name in enumerate(LABELS)}
    expected = library.with_calibration(by_label).calibration
    found = DistanceCalibration.of(library.distances(held_out), label_ids).distances
    for mine, served in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, served)


def test_the_score_ranks_like_the_p_value_and_equals_by_distance() -> None:
    calibration = DistanceCalibration((np.array([1.0, 2.0, 3.0], np.float32), np.array([1.0, 2.0, 3.0], np.float32)))
    distances = np.array([[0.5, 9], [1.5, 9], [2.5, 9], [3.5, 9], [4, 9], [40, 50], [50, 45]], np.float32)
    matches = calibration.match(distances)

    assert matches.p_value.tolist() == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert (np.diff(matches.score) < 0).all()
    assert ((matches.score <= matches.p_value) & (matches.score > matches.p_value - 0.25)).all()
    assert matches.nearest.tolist() == [0] * 6 + [1]


def test_a_distance_equal_to_a_calibration_image_counts_it() -> None:
    calibration = DistanceCalibration((np.array([1.0, 2.0, 2.0, 3.0], np.float32),))
    assert calibration.match(np.array([[2.0]], np.float32)).p_value.tolist() == [(1 + 3) / 5]


def test_calibration_images_at_distance_zero_are_no_obstacle() -> None:
    matches = DistanceCalibration((np.zeros(3, np.float32),)).match(np.array([[0.0], [1.0]], np.float32))
    assert matches.p_value.tolist() == [1.0, 0.25]
    assert np.isfinite(matches.score).all()


def test_a_label_without_calibration_images_is_refused() -> None:
    with pytest.raises(DataMissing, match="label 1 has no calibration image"):
        DistanceCalibration.of(np.ones((2, 2), np.float32), np.array([0, 0]))


def test_a_label_rejects_about_alpha_of_its_own_whatever_they_look_like() -> None:
    """Two labels of very different spread, far apart; each of 200 calibration sets meets new images."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        spreads = np.repeat([1.0, 20.0], 60)
        label_ids = np.repeat([0, 1], 60)
        calib, test = (np.abs(rng.standard_cauchy(120) * spreads).astype(np.float32) for _ in range(2))

        def two_labels(own: Floats, label_ids: Numbers = label_ids) -> Floats:
            both = np.full((120, 2), np.inf, np.float32)
            both[np.arange(120), label_ids] = own
            return both

        matches = DistanceCalibration.of(two_labels(calib), label_ids).match(two_labels(test))
        rates.append([np.mean(matches.p_value[label_ids == i] <= 0.1) for i in (0, 1)])
    # Conformal: at most alpha, and at least alpha - 1 / (n + 1), of each label
    np.testing.assert_allclose(np.mean(rates, axis=0), 0.1 - 0.5 / 61, atol=0.015)
