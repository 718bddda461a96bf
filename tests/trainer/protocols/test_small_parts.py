"""What experiments compute themselves, on hand-made inputs."""

import numpy as np
import pytest

from trainer.errors import BadConfig
from trainer.experiments.categories import some_categories
from trainer.experiments.changes import changes_of
from trainer.experiments.corpus import Corpus, draw_one
from trainer.protocols.incremental import orders_of
from trainer.protocols.ranking import at_percentiles
from trainer.protocols.two_shot import random_crops


def test_tracks_and_amounts_by_name() -> None:
    assert len(changes_of(["P"])) == 11
    assert [change.name for change in changes_of(["jpeg75", "blur:2.5", "jpeg:40"])] == [
        "jpeg75",
        "blur:2.5",
        "jpeg:40",
    ]
    assert changes_of(["blur:0"])[0].name == "clean"
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    degraded = changes_of(["degraded"])
    assert len({change.name for change in degraded}) == len({change.apply(image).tobytes() for change in degraded}) == 4
    for name in ("jpeg12", "blur:much"):
        with pytest.raises(BadConfig, match="changes"):
            changes_of([name])


def test_places_at_percentiles() -> None:
    scores = np.array([5, 1, 4, 2, 3], np.float32)
    assert [float(scores[place]) for place in at_percentiles(scores)] == [1, 2, 3, 4, 5]


def test_crops_are_cut_out_of_the_image_and_small_ones_are_mirrored() -> None:
    image = np.arange(10 * 9 * 3, dtype=np.uint8).reshape(10, 9, 3)
    crops = random_crops(image, 6, 20, np.random.default_rng(0))
    windows = {image[y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(4)}
    assert {crop.tobytes() for crop in crops} <= windows
    assert len({crop.tobytes() for crop in crops}) > 5
    assert random_crops(image, 12, 3, np.random.default_rng(0)).shape == (3, 12, 12, 3)


def test_orders_start_from_other_names_and_lose_none() -> None:
    orders = orders_of("abcd", 3)
    assert orders[0] == list("abcd")
    assert [order[0] for order in orders] == ["a", "b", "c"]
    assert all(sorted(order) == list("abcd") for order in orders)


def test_clusters_stand_for_categories(corpus: Corpus) -> None:
    classes = corpus.classes(["deconv"], "train")
    some, remark = some_categories(classes, 3)
    more, _ = some_categories(classes, 6)
    assert remark
    assert all(set(some(images)) <= set(more(images)) for images in classes.values())
    assert len(some(classes["real"])) == 3


def test_an_image_a_label_is_drawn_by_its_name(corpus: Corpus) -> None:
    drawn = [
        [draw_one(images, seed)[0].scene for images in corpus.classes(corpus.trainable, "train").values()]
        for seed in range(10)
    ]
    assert all(scene in range(8) for row in drawn for scene in row)
    assert [len(set(row)) for row in drawn].count(1) < 3  # by one number for all, each row would show one scene
    assert len({tuple(row) for row in drawn}) == 10
