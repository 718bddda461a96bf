"""Against scikit-learn's LDA and OAS, against all images at once, and on simulated new classes."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from trainer.discriminant import Prior, Projection, Statistics
from trainer.metrics import Floats, Numbers

NAMES = ("flow", "real", "style", "vqvae")


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
    return Statistics.of_classes(*images, NAMES)


def test_statistics_are_those_of_plain_loops(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    scatter = np.zeros((8, 8))
    for i in range(4):
        own = images[0][images[1] == i].astype(np.float64)
        for row in own:
            scatter += np.outer(row - own.mean(axis=0), row - own.mean(axis=0))
        np.testing.assert_allclose(statistics.means[i], own.mean(axis=0))
    assert statistics.counts.tolist() == [90, 40, 25, 60]
    np.testing.assert_allclose(statistics.scatter, scatter)


def test_parts_add_up_to_the_whole_in_any_order(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    """One part has no *real*, another only *style*: classes come and grow as they like."""
    embeddings, numbers = images
    first, second = np.arange(len(numbers)) < 60, numbers == 2
    masks = [first & ~second & (numbers != 1), ~first & ~second, second, first & (numbers == 1)]
    parts = [Statistics.of_classes(embeddings[mask], numbers[mask], NAMES) for mask in masks]
    for order in permutations(parts):
        whole = Statistics.sum(order)
        assert whole.names == NAMES
        np.testing.assert_array_equal(whole.counts, statistics.counts)
        np.testing.assert_allclose(whole.means, statistics.means, rtol=1e-12)
        np.testing.assert_allclose(whole.scatter, statistics.scatter, rtol=1e-9)


def test_the_shrinkage_is_scikit_learns(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    embeddings, numbers = images
    centred = embeddings - np.stack([embeddings[numbers == i].mean(axis=0) for i in range(4)])[numbers]
    expected = OAS(assume_centered=True).fit(centred.astype(np.float64))
    assert 0.001 < expected.shrinkage_ < 0.5
    np.testing.assert_allclose(statistics.covariance(), expected.covariance_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("keep", ["all", "between"])
def test_the_nearest_template_is_lda(
    images: tuple[Floats, Numbers], statistics: Statistics, shrinkage: float, keep: str
) -> None:
    embeddings, numbers = images
    projection = statistics.projection(shrinkage, "all" if keep == "all" else "between")
    library = statistics.library(projection)
    nearest = library.distances(projection(embeddings)).argmin(axis=1)

    oracle = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage, priors=numbers_share(numbers))
    oracle.fit(embeddings.astype(np.float64), numbers)
    # Its log-odds at its priors; the priors weigh its covariance too, so they cannot be equal ones from the start.
    at_equal_priors = oracle.decision_function(embeddings.astype(np.float64)) - np.log(oracle.priors_)
    np.testing.assert_array_equal(nearest, at_equal_priors.argmax(axis=1))
    assert 0.4 < np.mean(nearest == numbers) < 1
    assert projection.matrix.shape == (8, 8 if keep == "all" else 3)


def numbers_share(numbers: Numbers) -> list[float]:
    return [float(np.mean(numbers == i)) for i in range(4)]


def test_distances_are_mahalanobis(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    projection = statistics.projection(0.1)
    inverse = np.linalg.inv(statistics.covariance(0.1))
    found = statistics.library(projection).distances(projection(images[0][:10]))
    for i, row in enumerate(images[0][:10].astype(np.float64)):
        for j, mean in enumerate(statistics.means):
            assert found[i, j] == pytest.approx(np.sqrt((row - mean) @ inverse @ (row - mean)), rel=1e-4)


def test_fewer_images_than_dimensions_are_no_obstacle() -> None:
    rng = np.random.default_rng(0)
    few = Statistics.of_classes(rng.normal(size=(6, 40)).astype(np.float32), np.array([0, 0, 0, 1, 1, 1]), ("a", "b"))
    projection = few.projection()
    assert np.isfinite(projection.matrix).all()
    assert few.library(projection).distances(projection(few.means)).argmin(axis=1).tolist() == [0, 1]


def test_a_layer_is_the_projection(images: tuple[Floats, Numbers], statistics: Statistics) -> None:
    projection = statistics.projection(keep="between")
    with torch.no_grad():
        found = projection.layer()(torch.from_numpy(images[0]))
    np.testing.assert_allclose(found, projection(images[0]), atol=1e-3)


def test_the_posterior_mean_by_hand() -> None:
    """In one direction: 4 images and a prior variance of 1/2 weigh 2 : 1."""
    prior = Prior(np.array([1.0, 0.0]), np.diag([0.5, 0.0]))
    np.testing.assert_allclose(prior.mean(np.array([4.0, 9.0], np.float32), 4), [1 + 3 * 2 / 3, 0.0])


def test_the_prior_is_the_spread_of_means_less_what_chance_explains() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, [3.0, 1.0, 0.0], (4000, 3))
    counts = np.full(4000, 5)
    seen = (true + rng.normal(0, 5**-0.5, true.shape)).astype(np.float32)
    prior = Prior.of(seen, counts, spread=0.0)
    np.testing.assert_allclose(prior.covariance, np.diag([9.0, 1.0, 0.0]), atol=0.5)

    even = Prior.of(seen, counts, spread=1.0)
    np.testing.assert_allclose(even.covariance, np.trace(prior.covariance) / 3 * np.eye(3), atol=1e-9)


def test_shrinking_a_mean_of_five_images_names_more_of_its_class() -> None:
    """In 100 whitened directions, classes differing in a few of them: averaged over 20 new classes."""
    rng = np.random.default_rng(0)
    dimensions, spread = 100, np.where(np.arange(100) < 10, 1.2, 0.0)
    known = rng.normal(0, spread, (7, dimensions))
    base = Prior.of(known.astype(np.float32), np.full(7, 700))
    raw: list[float] = []
    shrunk: list[float] = []
    closer = []
    for _ in range(20):
        new = rng.normal(0, spread, dimensions)
        mean = (new + rng.normal(size=(5, dimensions)).mean(axis=0)).astype(np.float32)
        better = base.mean(mean, 5)
        tests = new + rng.normal(size=(100, dimensions))
        for found, template in ((raw, mean), (shrunk, better)):
            apart = np.linalg.norm(tests[:, None] - np.concatenate([known, template[None]]), axis=2)
            found.append(float(np.mean(apart.argmin(axis=1) == 7)))
        closer.append(np.sum((better - new) ** 2) < np.sum((mean - new) ** 2))
    assert np.mean(shrunk) > np.mean(raw) + 0.2
    assert all(closer)


def test_a_library_shrinks_what_it_hardly_knows_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    numbers = np.repeat([0, 1, 2], 500)
    embeddings = (rng.normal(size=(3, 6))[numbers] * 3 + rng.normal(size=(1500, 6))).astype(np.float32)
    known = Statistics.of_classes(embeddings, numbers, names)
    grown = known + Statistics.of("new", rng.normal(2, 1, (3, 6)).astype(np.float32))
    projection = grown.projection()
    prior = Prior.of(projection(known.means), known.counts)

    plain, shrunk = grown.library(projection), grown.library(projection, prior)
    moved = np.linalg.norm(plain.vectors - shrunk.vectors, axis=1)
    assert plain.labels == shrunk.labels == ("a", "b", "c", "new")
    assert moved[3] > 10 * moved[:3].max()


def test_a_projection_of_nothing_is_nothing() -> None:
    projection = Projection(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    assert projection(np.empty((0, 3), np.float32)).shape == (0, 3)
