"""Floors on images whose differences are known."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from bundle.manifest import Label
from trainer.arrays import Features, Numbers
from trainer.evaluation.floors import FloorClassifier, fit_metadata, fit_statistics
from trainer.evaluation.traces import measure
from trainer.inspection.metadata import read_metadata, tabulate

LABELS = (
    Label(id=0, name="grid", kind="generator"),
    Label(id=1, name="other", kind="generator"),
    Label(id=2, name="real", kind="real"),
)


def test_grids_are_seen_in_statistics() -> None:
    def features(seed: int) -> tuple[Features, Numbers]:
        label_ids = np.repeat([0, 1, 2], 30)
        images = np.random.default_rng(seed).integers(60, 180, (90, 32, 32, 3)).astype(np.uint8)
        images[:30, ::2, ::2] += 60
        images[30:60, ::3, ::3] += 60
        return measure(images), label_ids

    known, (new, label_ids) = features(0), features(1)
    prediction = fit_statistics(*known, LABELS).predict(new)
    assert np.mean(prediction.predicted == label_ids) > 0.95
    assert roc_auc_score(label_ids < 2, prediction.logits) > 0.98


def test_formats_are_all_that_metadata_need() -> None:
    def file(number: int, kind: str) -> bytes:
        pixels = np.random.default_rng(number).integers(60, 180, (32, 32, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    label_ids = np.repeat([0, 2], 12)
    files = [file(number, "JPEG" if number < 12 else "PNG") for number in range(24)]
    table = tabulate([read_metadata(data) for data in files]).values
    prediction = fit_metadata(table, label_ids, LABELS).predict(table)
    assert (prediction.predicted == label_ids).all()
    assert ((prediction.logits > 0) == (label_ids == 0)).all()


def test_the_discriminant_is_scikit_learns_on_standardised_statistics() -> None:
    rng = np.random.default_rng(0)
    label_ids = np.repeat([0, 1, 2], 40)
    features = (rng.normal(size=(120, 5)) + label_ids[:, None] * [1, 0, 2, 0, 0]).astype(np.float32)
    prediction = fit_statistics(features, label_ids, LABELS).predict(features)

    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(standard, label_ids)
    probabilities = oracle.predict_proba(standard)
    np.testing.assert_array_equal(prediction.predicted, probabilities.argmax(axis=1))
    odds = np.log((probabilities[:, 0] + probabilities[:, 1]) / probabilities[:, 2])
    np.testing.assert_allclose(prediction.logits, odds, atol=1e-3)
    likeliest = probabilities.max(axis=1)
    np.testing.assert_allclose(prediction.confidence, np.log(likeliest / (1 - likeliest)), atol=1e-3)


def test_a_label_of_few_images_is_as_likely_as_the_others() -> None:
    """Between two labels, half of the images are each one's, though one has a hundred times as many."""
    rng = np.random.default_rng(0)
    label_ids = np.repeat([0, 1, 2], [6, 600, 600])
    means = np.array([[2, 0], [0, 0], [4, 4]])
    features = (rng.normal(size=(1206, 2)) + means[label_ids]).astype(np.float32)
    features[:6] += (means[0] - features[:6].mean(axis=0)).astype(np.float32)
    between = rng.normal((1, 0), size=(2000, 2)).astype(np.float32)
    named = fit_statistics(features, label_ids, LABELS).predict(between).predicted
    assert np.mean(named == 0) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("fit", [fit_metadata, fit_statistics])
def test_logits_rank_generated_above_real_and_labels_may_lack_images(fit: Callable[..., FloorClassifier]) -> None:
    rng = np.random.default_rng(1)
    label_ids = np.repeat([0, 2], 50)  # no image of ``other``
    features = (rng.normal(size=(100, 3)) + 6 * (label_ids[:, None] == 0)).astype(np.float32)
    prediction = fit(features, label_ids, LABELS).predict(features)
    assert (prediction.predicted == label_ids).all()
    assert roc_auc_score(label_ids == 0, prediction.logits) == 1


def test_log_odds_of_images_far_away_stay_apart() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    features[100:, 0] += 20
    predict = fit_statistics(features, np.repeat([0, 2], 100), LABELS)
    far = np.zeros((50, 4), np.float32)
    far[:, 0] = np.linspace(-2000, 2000, 50)
    prediction = predict.predict(far)
    assert (np.diff(prediction.logits) < 0).all()  # label 2 is real
    assert len(np.unique(prediction.confidence)) == 50
