"""Floors on images where it is known what can be told and what cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bundle.manifest import Crop, Label, Preprocessing, View
from trainer.data.folder import ImageFolder, make_labels
from trainer.errors import UnknownClass
from trainer.evaluation.floors import Judge, fit_metadata, fit_statistics, metadata_floor, statistics_floor

MakeFolder = Callable[..., Path]

CROP = Preprocessing(views=(View(crop=Crop(mode="centre", size=32)),))
LABELS = (
    Label(id=0, name="grid", kind="generator"),
    Label(id=1, name="other", kind="generator"),
    Label(id=2, name="real", kind="real"),
)


def test_grids_are_seen_in_statistics_and_not_in_metadata(make_folder: MakeFolder) -> None:
    train, test = (
        ImageFolder.read(make_folder(name, ("grid", "other", "real"), images=30), CROP) for name in ("train", "test")
    )
    labels = make_labels(train, ("real",))
    floor = statistics_floor(train, test, labels)
    assert floor.closed_set.top1 > 0.95
    assert floor.binary is not None
    assert floor.binary.auroc > 0.98
    assert (floor.binary.real, floor.binary.generated) == (30, 60)
    assert statistics_floor(train, test, labels) == floor


def test_formats_are_all_that_metadata_need(make_folder: MakeFolder) -> None:
    folders = []
    for name in ("train", "test"):
        root = make_folder(name, ("grid", "real"), images=12)
        for path in (root / "grid").glob("*.png"):
            Image.open(path).save(path.with_suffix(".jpg"), quality=95)
            path.unlink()
        folders.append(ImageFolder.read(root, CROP))
    seen: list[tuple[int, int]] = []
    train, test = folders
    floor = metadata_floor(train, test, make_labels(train, ("real",)), lambda done, total: seen.append((done, total)))
    assert floor.kind == "metadata"
    assert floor.closed_set.top1 == 1
    assert floor.binary is not None
    assert floor.binary.auroc == 1
    assert seen == [(n, 24) for n in range(1, 25)] * 2


def test_a_class_that_was_not_trained_on_is_refused(make_folder: MakeFolder) -> None:
    train = ImageFolder.read(make_folder("train", images=6), CROP)
    test = ImageFolder.read(make_folder("test", ("odd", "real"), images=2), CROP)
    with pytest.raises(UnknownClass):
        statistics_floor(train, test, make_labels(train, ("real",)))


def test_the_discriminant_is_scikit_learns_on_standardised_statistics() -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat([0, 1, 2], 40)
    features = (rng.normal(size=(120, 5)) + numbers[:, None] * [1, 0, 2, 0, 0]).astype(np.float32)
    judged = fit_statistics(features, numbers, LABELS).judge(features)

    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(standard, numbers)
    probabilities = oracle.predict_proba(standard)
    np.testing.assert_array_equal(judged.predicted, probabilities.argmax(axis=1))
    odds = np.log((probabilities[:, 0] + probabilities[:, 1]) / probabilities[:, 2])
    np.testing.assert_allclose(judged.logits, odds, atol=1e-3)
    likeliest = probabilities.max(axis=1)
    np.testing.assert_allclose(judged.confidence, np.log(likeliest / (1 - likeliest)), atol=1e-3)


def test_a_label_of_few_images_is_as_likely_as_the_others() -> None:
    """Between two labels, half of the images are each one's, though one has a hundred times as many."""
    rng = np.random.default_rng(0)
    numbers = np.repeat([0, 1, 2], [6, 600, 600])
    means = np.array([[2, 0], [0, 0], [4, 4]])
    features = (rng.normal(size=(1206, 2)) + means[numbers]).astype(np.float32)
    features[:6] += (means[0] - features[:6].mean(axis=0)).astype(np.float32)
    between = rng.normal((1, 0), size=(2000, 2)).astype(np.float32)
    named = fit_statistics(features, numbers, LABELS).judge(between).predicted
    assert np.mean(named == 0) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("fit", [fit_metadata, fit_statistics])
def test_logits_rank_generated_above_real_and_labels_may_lack_images(fit: Callable[..., Judge]) -> None:
    rng = np.random.default_rng(1)
    numbers = np.repeat([0, 2], 50)  # no image of ``other``
    features = (rng.normal(size=(100, 3)) + 6 * (numbers[:, None] == 0)).astype(np.float32)
    floor = fit(features, numbers, LABELS).floor(features, numbers)
    assert floor.closed_set.top1 == 1
    assert floor.binary is not None
    assert floor.binary.auroc == 1
    assert set(floor.closed_set.recall) == {"grid", "real"}


def test_log_odds_of_images_far_away_stay_apart() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    features[100:, 0] += 20
    judge = fit_statistics(features, np.repeat([0, 2], 100), LABELS)
    far = np.zeros((50, 4), np.float32)
    far[:, 0] = np.linspace(-2000, 2000, 50)
    judged = judge.judge(far)
    assert (np.diff(judged.logits) < 0).all()  # label 2 is real
    assert len(np.unique(judged.confidence)) == 50
