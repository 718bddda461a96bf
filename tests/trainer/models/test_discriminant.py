"""Against scikit-learn's LDA and OAS, against plain loops and dense matrices, and on simulated new classes."""

import numpy as np
import pytest
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from trainer.arrays import Floats, Floats64, Numbers
from trainer.models.discriminant import MeansPrior, Statistics, whitening


@pytest.fixture(scope="module")
def images() -> tuple[Floats, Numbers]:
    """Four classes of correlated embeddings in eight dimensions, of unequal size, in no order."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(np.repeat(np.arange(4), [90, 40, 25, 60]))
    mixing = rng.normal(size=(8, 8))
    embeddings = rng.normal(size=(4, 8))[numbers] * 0.8 + rng.normal(size=(len(numbers), 8)) @ mixing + 50
    return embeddings.astype(np.float32), numbers


@pytest.fixture(scope="module")
def statistics(images: tuple[Floats, Numbers]) -> Statistics:
    return Statistics.of(*images, 4)


def test_statistics_are_those_of_plain_loops(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    scatter = np.zeros((8, 8))
    for i in range(4):
        own = images[0][images[1] == i].astype(np.float64)
        for row in own:
            scatter += np.outer(row - own.mean(axis=0), row - own.mean(axis=0))
        np.testing.assert_allclose(statistics.means[i], own.mean(axis=0))
    assert statistics.counts.tolist() == [90, 40, 25, 60]
    np.testing.assert_allclose(statistics.scatter, scatter)


def test_the_shrinkage_is_scikit_learns(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    embeddings, numbers = images
    centred = embeddings - np.stack([embeddings[numbers == i].mean(axis=0) for i in range(4)])[numbers]
    expected = OAS(assume_centered=True).fit(centred.astype(np.float64))
    assert 0.001 < expected.shrinkage_ < 0.5
    np.testing.assert_allclose(statistics.covariance(), expected.covariance_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_the_nearest_whitened_mean_is_lda(
    images: tuple[Floats, Numbers], statistics: Statistics, shrinkage: float
) -> None:
    embeddings, numbers = images
    turn = whitening(statistics.covariance(shrinkage))
    apart = ((embeddings @ turn)[:, None] - statistics.means @ turn) ** 2
    nearest = apart.sum(axis=2).argmin(axis=1)

    oracle = LinearDiscriminantAnalysis(
        "lsqr", shrinkage=shrinkage, priors=[float(np.mean(numbers == i)) for i in range(4)]
    )
    oracle.fit(embeddings.astype(np.float64), numbers)
    # Its log-odds at its priors; the priors weigh its covariance too, so they cannot be equal ones from the start.
    at_equal_priors = oracle.decision_function(embeddings.astype(np.float64)) - np.log(oracle.priors_)
    np.testing.assert_array_equal(nearest, at_equal_priors.argmax(axis=1))
    assert 0.4 < np.mean(nearest == numbers) < 1


def test_whitened_distances_are_mahalanobis(statistics: Statistics) -> None:
    covariance = statistics.covariance(0.1)
    turn, inverse = whitening(covariance), np.linalg.inv(covariance)
    apart = statistics.means[0] - statistics.means[1]
    assert np.linalg.norm(apart @ turn) == pytest.approx(np.sqrt(apart @ inverse @ apart))


def test_fewer_images_than_dimensions_are_no_obstacle() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    assert np.isfinite(whitening(Statistics.of(rows, np.array([0, 0, 0, 1, 1, 1]), 2).covariance())).all()


def dense(prior: MeansPrior) -> Floats64:
    """Its covariance as a matrix."""
    return prior.times(lambda variance: variance, np.eye(len(prior.centre)))


def test_the_posterior_mean_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(1)
    prior = MeansPrior.of(rng.normal(size=(4, 9)), np.array([50, 60, 70, 80]), spread=0.2)
    covariance, seen = dense(prior), rng.normal(size=9)
    expected = prior.centre + covariance @ np.linalg.inv(covariance + np.eye(9) / 5) @ (seen - prior.centre)
    np.testing.assert_allclose(prior.mean(seen, 5), expected)


def test_a_function_of_the_covariance_is_one_of_its_eigenvalues() -> None:
    prior = MeansPrior.of(np.random.default_rng(2).normal(size=(3, 6)), np.full(3, 100), spread=0.5)
    np.testing.assert_allclose(prior.times(np.sqrt, prior.times(np.sqrt, np.eye(6))), dense(prior))
    np.testing.assert_allclose(prior.times(np.reciprocal, np.eye(6)), np.linalg.inv(dense(prior)))


def test_the_prior_is_the_spread_of_means_less_what_chance_explains() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, [3.0, 1.0, 0.0], (4000, 3))
    counts = np.full(4000, 5)
    seen = true + rng.normal(0, 5**-0.5, true.shape)
    found = dense(MeansPrior.of(seen, counts, spread=0.0))
    np.testing.assert_allclose(found, np.diag([9.0, 1.0, 0.0]), atol=0.5)

    even = MeansPrior.of(seen, counts, spread=1.0, scale=0.5)
    np.testing.assert_allclose(dense(even), np.trace(found) / 6 * np.eye(3), atol=1e-9)


def test_shrinking_a_mean_of_five_images_names_more_of_its_class() -> None:
    """In 100 whitened directions, classes differing in a few of them: averaged over 20 new classes."""
    rng = np.random.default_rng(0)
    dimensions, spread = 100, np.where(np.arange(100) < 10, 1.2, 0.0)
    known = rng.normal(0, spread, (7, dimensions))
    base = MeansPrior.of(known, np.full(7, 700), spread=0.3)
    raw: list[float] = []
    shrunk: list[float] = []
    closer = []
    for _ in range(20):
        new = rng.normal(0, spread, dimensions)
        mean = new + rng.normal(size=(5, dimensions)).mean(axis=0)
        better = base.mean(mean, 5)
        tests = new + rng.normal(size=(100, dimensions))
        for found, template in ((raw, mean), (shrunk, better)):
            apart = np.linalg.norm(tests[:, None] - np.concatenate([known, template[None]]), axis=2)
            found.append(float(np.mean(apart.argmin(axis=1) == 7)))
        closer.append(np.sum((better - new) ** 2) < np.sum((mean - new) ** 2))
    assert np.mean(shrunk) > np.mean(raw) + 0.2
    assert all(closer)
