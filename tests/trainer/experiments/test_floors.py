"""Floors as experiments have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.manifest import Label, Resize
from trainer.data.transforms import CLEAN, TRANSFORMS
from trainer.evaluation.floors import fit_metadata, fit_statistics
from trainer.evaluation.traces import measure
from trainer.experiments.floors import floors_of
from trainer.experiments.steps import Steps
from trainer.inspection.metadata import read_metadata, tabulate
from trainer.protocols.few_shot import floors_with

BLUR = TRANSFORMS["blur1"]


def test_floors_are_fitted_on_training_images_and_judge_those_after_a_change(make_study: Any) -> None:
    study = make_study({"protocol": "closed_set"})
    train = study.corpus.classes(["deconv", "nearest"], "train")
    names = ["real", "deconv", "nearest"]
    labels = [Label(id=i, name=name, kind="generator" if i else "real") for i, name in enumerate(names)]
    label_ids = np.repeat([0, 1, 2], 8)
    known = [image for some in train.values() for image in some]
    images = study.corpus.fakes("nearest", "test")
    metadata, statistics = floors_of(study, ["deconv", "nearest"])

    tables = [tabulate([read_metadata(p.extent.read()) for p in some]).values for some in (known, images)]
    expected = fit_metadata(tables[0], label_ids, labels).predict(tables[1])
    np.testing.assert_array_equal(metadata.predict(images).logits, expected.logits)

    pixels = [np.stack([np.asarray(Image.open(p.extent.file)) for p in some]) for some in (known, images)]
    blurred = np.stack([BLUR.apply(image) for image in pixels[1]])
    predict = fit_statistics(measure(pixels[0]), label_ids, labels)
    for change, seen in ((CLEAN, pixels[1]), (BLUR, blurred)):
        expected, found = predict.predict(measure(seen)), statistics.predict(images, change)
        np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-5)
        np.testing.assert_array_equal(statistics.right(images, change), [[expected.predicted == 2]])


def test_metadata_see_nothing_of_what_is_done_in_memory(make_study: Any) -> None:
    metadata, statistics = floors_of(make_study({"protocol": "closed_set"}), ["deconv"])
    for change, resize in ((BLUR, Resize()), (CLEAN, Resize(mode="shorter", size=40))):
        assert (metadata.sees(change, resize), statistics.sees(change, resize)) == (False, True)
    assert metadata.sees(CLEAN)
    with pytest.raises(AssertionError):
        metadata.predict(metadata.study.corpus.fakes("deconv", "test"), BLUR)


def test_what_was_measured_is_measured_once_for_floors_of_other_labels(make_study: Any, tmp_path: Path) -> None:
    said: list[str] = []
    study = make_study({"protocol": "closed_set"}, Steps(tmp_path / "said", said.append))
    images = study.corpus.fakes("deconv", "test")

    def work(generators: list[str]) -> list[str]:
        said.clear()
        for floor in floors_of(study, generators):
            floor.predict(images)
        return [line.split()[0] for line in said]

    assert sorted(work(["deconv", "nearest"])) == ["floor"] * 2 + ["metadata"] * 4 + ["statistics"] * 4
    assert work(["deconv"]) == ["floor"] * 2
    assert work(["deconv"]) == []


def test_a_new_type_is_learnt_from_a_few_images_and_not_from_one(make_study: Any) -> None:
    study = make_study({"protocol": "few_shot"})
    for floor in floors_with(study, ["deconv"], {"nearest": 3}):
        assert {name: len(some) for name, some in floor.train.items()} == {"real": 8, "deconv": 8, "nearest": 3}
    assert floors_with(study, ["deconv"], {"nearest": 1}) == []
