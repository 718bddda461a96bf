"""Every experiment, from training to its section, on a few images of noise and with tiny networks."""

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from rich.console import Console

from trainer.errors import NotInCorpus
from trainer.experiments.corpus import Corpus
from trainer.experiments.readable import readable
from trainer.experiments.section import Figure
from trainer.experiments.steps import Steps
from trainer.experiments.study import Findings
from trainer.protocols import by_category, generalisation, out_of_the_box
from trainer.protocols.generalisation import Trial
from trainer.training import loop
from trainer.training.config import TrainConfig

pytestmark = pytest.mark.slow

NAMES = ("PGGAN", "DCGAN", "Glow")
MAPS = {"here": {"PGGAN": "nearest", "DCGAN": "deconv"}}
S1 = {"system": "s1"}
S2 = {"system": "s2"}
NOISY = {**S2, "options": {"train_preprocessing": "noise"}}
S3 = {"system": "s3", "options": {"blur": 0.1, "jpeg": 0.1}}
SPECTRA = {"system": "block_spectra", "options": {"epochs": 0, "simulated": 0}, "template": "own"}
PRNU = {"system": "prnu", "options": {"epochs": 0}, "train": 3, "template": "own"}
SIMULATED = {
    "AutoGAN": {
        **S2,
        "simulation": {"method": "autogan", "side": 32, "images": 4, "options": {"steps": 2, "width": 2, "blocks": 1}},
    },
    "DIP": {
        **S3,
        "simulation": {
            "method": "deep_image_prior",
            "side": 32,
            "images": 2,
            "options": {"steps": 2, "width": 4, "levels": 2},
        },
    },
}

CASES: dict[str, tuple[dict[str, Any], dict[str, set[str]]]] = {
    "binary": (
        {"variants": {"S2": S2, "all": S1}, "changes": ["jpeg75", "noise5"], "fpr": 0.2},
        {
            "auroc": {"S2/PGGAN", "S2/worst", "S2/Mixed", "all/DCGAN", "floor: statistics/PGGAN"},
            "tpr": {"S2/Mixed", "all/worst", "floor: metadata/Mixed"},
            "changes": {"S2/P mean", "S2/P worst", "S2/P held out, mean", "S2/jpeg75", "floor: statistics/P mean"},
        },
    ),
    "input_size": ({"variants": {"S2": S2}, "sizes": [32, 64]}, {"auroc": {"S2/32x32"}}),
    "closed_set": (
        {
            "variants": {"PRNU": PRNU, "S1": S1, "LDA": SPECTRA},
            "changes": ["jpeg75", "noise5", "blur2"],
            "reference": "PRNU",
        },
        {
            "top1": {"PRNU/top-1", "S1/top-1", "LDA/P worst", "floor: metadata/top-1", "floor: statistics/P worst"},
            "recall": {"S1/real", "S1/deconv"},
            "errors": {"LDA / PRNU/clean", "LDA / PRNU/P mean", "S1 / PRNU/clean"},
        },
    ),
    "few_shot": (
        {"variants": {"S1": {**S1, "adapt": "triplet", "replay": 4}}, "shots": [0, 3], "summary": True},
        {
            "new": {"S1, before/PGGAN", "S1, 3 images/DCGAN", "floor: statistics, 3 images/DCGAN"},
            "others": {"S1, 3 images/PGGAN", "floor: metadata, 3 images/PGGAN"},
            "summary": {"S1, 3 images/unlucky draw, worst family", "floor: statistics, 3 images/others lose"},
        },
    ),
    "incremental": (
        {
            "variants": {"LDA": SPECTRA},
            "shots": 3,
            "orders": 2,
            "summary": True,
        },
        {
            "rest": {"LDA/PGGAN + real", "LDA/add DCGAN", "LDA, order 2/add PGGAN", "floor: metadata/PGGAN + real"},
            "new": {"LDA/add DCGAN", "floor: metadata/add DCGAN", "floor: statistics, order 2/add PGGAN"},
            "summary": {"LDA/the rest, mean", "LDA/the new, worst", "floor: statistics/the new, mean"},
        },
    ),
    "unknown": (
        {
            "variants": {"S1": {**S1, "template": "mean"}, "LDA": SPECTRA},
            "alpha": 0.2,
            "changes": ["jpeg75"],
        },
        {
            "auroc": {"S1/PGGAN", "S1/rec_other", "LDA/worst", "floor: metadata/worst", "floor: statistics/rec_other"},
            "oscr": {"S1/mean", "floor: metadata/DCGAN", "floor: statistics/mean"},
            "false_unknown": {"S1/clean", "S1/P mean"},
        },
    ),
    "unsure": (
        {"variants": {"S1": S1}, "alpha": 0.2, "calibrate": ["degraded"], "risks": {"clean": 0.1, "jpeg75": 0.2}},
        {
            "unsure": {
                "S1, clean/decided",
                "S1, jpeg75/coverage at the risk",
                "floor: metadata, clean/coverage at the risk",
                "floor: statistics, jpeg75/decided",
            }
        },
    ),
    "preprocessed_training": (
        {"variants": {"M": S2, "M_GN": NOISY}, "train_on": ["PGGAN"]},
        {
            "figures": {"PGGAN, M/ACC", "DCGAN, M_GN/TNR at TPR 95", "DCGAN, floor: metadata/AUROC"},
            "gain": {"M/AUROC", "M_GN - M/AUROC"},
        },
    ),
    "generalisation": (
        {
            "variants": {"none": S3, "few": {**S3, "categories": 12}, "half": {**S3, "share": 0.5}, **SIMULATED},
            "train_on": "PGGAN",
            "candidate": "half",
        },
        {
            "ap": {"none/PGGAN", "few/mAP", "half/mAP, unseen", "floor: statistics/DCGAN", "DIP/mAP", "AutoGAN/DCGAN"},
            "paired": {"half - none/mAP, unseen"},
        },
    ),
    "robustness": (
        {"variants": {"none": S3}, "train_on": "PGGAN", "sigmas": [0, 2], "qualities": [90, 30]},
        {
            "blur": {"none/0", "none/2", "floor: metadata/0", "floor: statistics/2"},
            "jpeg": {"none/30", "floor: statistics/30"},
        },
    ),
    "two_shot": (
        {"variant": S3, "train_on": "PGGAN", "crops": 4},
        {
            "accuracy": {
                "uncalibrated/DCGAN",
                "oracle/DCGAN",
                "two-shot/DCGAN",
                "floor: metadata/DCGAN",
                "floor: statistics/PGGAN",
            }
        },
    ),
    "by_category": (
        {"variant": S3, "train_on": "PGGAN", "test_on": "DCGAN"},
        {"accuracy": {"accuracy/all", "floor: metadata/all", "floor: statistics/all"}},
    ),
    "ranking": (
        {"variant": S3, "train_on": "PGGAN"},
        {"logits": {"PGGAN, real/0th percentile", "DCGAN, generated/100th percentile"}},
    ),
    "spectra": ({"side": 32}, {"peaks": {"PGGAN/real", "PGGAN/generated"}}),
    "precision_recall": (
        {"variant": S3, "train_on": "PGGAN"},
        {"ap": {"AP/PGGAN", "AP/DCGAN", "floor: metadata/DCGAN", "floor: statistics/DCGAN"}},
    ),
    "out_of_the_box": (
        {"variant": S3, "train_on": "PGGAN", "shorter": 40},
        {
            "figures": {
                "DCGAN, as stored/AP",
                "DCGAN, resized/accuracy",
                "DCGAN, as stored, floor: metadata/AP",
                "DCGAN, resized, floor: statistics/accuracy",
            }
        },
    ),
}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Experiments share the networks that they have in common."""
    return Steps(tmp_path_factory.mktemp("steps"))


def _case(name: str) -> dict[str, Any]:
    settings, tables = CASES[name]
    return {
        "protocol": name,
        "names": NAMES,
        "maps": MAPS,
        "table": [{"name": table, "title": table, "columns": ["PGGAN"]} for table in tables],
        "settings": settings,
    }


def test_no_experiment_is_left_out() -> None:
    modules = {path.stem for path in (Path(__file__).parents[3] / "trainer/protocols").glob("*.py")}
    assert {name for name in modules if hasattr(import_module(f"trainer.protocols.{name}"), "run")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_an_experiment_runs_from_end_to_end(name: str, make_study: Any, steps: Steps) -> None:
    _, tables = CASES[name]
    found: Findings = import_module(f"trainer.protocols.{name}").run(make_study(_case(name), steps))
    assert [table.name for table in found.tables] == list(tables)
    for table in found.tables:
        measured = {f"{cell.row}/{cell.column}": cell.measured for cell in table.cells}
        assert tables[table.name] <= measured.keys()
        for cell in filter(None, measured.values()):
            assert math.isfinite(cell.value)
            assert cell.low is None or cell.low <= cell.value + 1e-9
            assert name in {"ranking", "spectra"} or -100 <= cell.value <= 100
    assert all(_stands_alone(figure) for figure in found.figures)


@pytest.mark.parametrize("tested", ["real nearest", "real", "nearest", "nearest deconv", "rec_other", "real rec_other"])
@pytest.mark.parametrize("name", CASES)
def test_other_test_images_need_not_be_of_all_classes(
    name: str, tested: str, make_study: Any, steps: Steps, corpus: Corpus
) -> None:
    study = make_study(_case(name), steps)
    images = tuple(p for p in corpus.images if p.split != "test" or p.label in tested.split())
    study.corpus = replace(corpus, images=images, tested_on="others")
    try:
        found: Findings = import_module(f"trainer.protocols.{name}").run(study)
    except NotInCorpus as error:
        assert tested != "real nearest" or name in {"by_category", "input_size"}
        assert str(error).startswith("others: ") or "stands for" in str(error)  # noqa: PT017
        return
    measured = [cell.measured for table in found.tables for cell in table.cells if cell.measured is not None]
    assert measured
    assert all(math.isfinite(one.value) for one in measured)
    assert any(remark.startswith("No test images of ") for remark in study.remarks()) == (tested != "nearest deconv")


def test_accuracy_is_told_by_what_images_show(make_study: Any, steps: Steps, corpus: Corpus) -> None:
    recipe = {
        "protocol": "by_category",
        "names": NAMES,
        "maps": MAPS,
        "table": [{"name": "accuracy", "title": "accuracy", "columns": ["horse"]}],
        "settings": {"variant": S3, "train_on": "PGGAN", "test_on": "DCGAN"},
    }
    study = make_study(recipe, steps)
    shown = {0: "horse", 1: "zebra", 2: "zebra", 3: "map", 4: "horse", 5: "zebra"}
    images = [replace(p, category=shown[p.scene % 6]) if p.split == "test" else p for p in corpus.images]
    study.corpus = replace(corpus, images=tuple(images))
    (table,) = by_category.run(study).tables
    found = {cell.column: cell.measured.value for cell in table.cells if cell.measured and cell.row == "accuracy"}
    nets, _ = generalisation.trained_on(study, Trial.model_validate(S3), "PGGAN")
    seen = generalisation.tested(study, "DCGAN")
    right = (study.outputs(nets[0], seen).logits > 0) == [image.generated for image in seen]
    assert len(seen) == 12
    for category in ("horse", "map", "zebra"):
        assert found[category] == pytest.approx(
            100 * np.mean([r for r, p in zip(right, seen, strict=True) if p.category == category])
        )
    assert found["average"] == pytest.approx(np.mean([found[name] for name in ("horse", "map", "zebra")]))
    del study.generators["DCGAN"]
    with pytest.raises(NotInCorpus, match=r"test_on: nothing in .* stands for DCGAN; pass --map DCGAN=FOLDER"):
        by_category.run(study)


def test_no_metadata_stand_beside_images_that_are_in_no_file(make_study: Any, steps: Steps) -> None:
    recipe = {
        "protocol": "out_of_the_box",
        "names": NAMES,
        "maps": MAPS,
        "table": [{"name": "figures", "title": "figures", "columns": []}],
        "settings": {"variant": S3, "train_on": "PGGAN", "before": "jpeg75", "shrunk": "resize:0.75"},
    }
    (table,) = out_of_the_box.run(make_study(recipe, steps)).tables
    rows = {f"{name}, {how}" for name in ("PGGAN", "DCGAN") for how in ("as stored", "resized")}
    assert set(table.rows) == rows | {f"{row}, floor: statistics" for row in rows}


def _generalisation(variants: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocol": "generalisation",
        "names": ["PGGAN", "DCGAN", "Other"],
        "maps": {"here": {**MAPS["here"], "Other": "rec_other"}},
        "table": [{"name": "ap", "title": "ap", "columns": ["PGGAN"]}],
        "settings": {"variants": variants, "train_on": "PGGAN"},
    }


def test_a_row_without_training_images_is_left_out_and_said(make_study: Any, steps: Steps) -> None:
    on_others = {**S3, "train_on": "Other"}
    found = generalisation.run(make_study(_generalisation({"none": S3, "others": on_others}), steps))
    assert {cell.row for cell in found.tables[0].cells if not cell.row.startswith("floor")} == {"none"}
    (remark,) = (remark for remark in found.remarks if "left out" in remark)
    assert remark.startswith("others is left out: ")
    assert remark.endswith("no training images of rec_other")
    with pytest.raises(NotInCorpus, match="no training images of rec_other"):
        generalisation.run(make_study(_generalisation({"others": on_others}), steps))


def test_generators_that_are_kept_from_training_are_learnt_from_a_few_images(make_study: Any, steps: Steps) -> None:
    recipe = {
        "protocol": "few_shot",
        "table": [{"name": name, "title": name, "columns": []} for name in ("new", "others", "summary")],
        "settings": {"variants": {"LDA": SPECTRA}, "shots": [3], "summary": True},
    }
    study = make_study(recipe, steps, generators=2)
    new, _, summary = import_module("trainer.protocols.few_shot").run(study).tables
    found = {cell.column: cell.measured.value for cell in new.cells if cell.row == "LDA, 3 images"}
    assert found.keys() == {*study.generators, "rec_other"}
    left_out = [found[name] for name in study.generators]
    assert summary.cell("LDA, 3 images", "worst family").measured.value == min(left_out)
    assert summary.cell("LDA, 3 images", "mean").measured.value == pytest.approx(np.mean(left_out))


def test_a_generator_without_images_to_learn_from_costs_no_other_its_rows(
    make_study: Any, steps: Steps, corpus: Corpus
) -> None:
    recipe = {
        "protocol": "few_shot",
        "table": [{"name": name, "title": name, "columns": []} for name in ("new", "others")],
        "settings": {"variants": {"LDA": SPECTRA}, "shots": [3]},
    }
    study = make_study(recipe, steps, generators=2)
    images = [p for p in corpus.images if p.label != "rec_other" or p.split == "test"]
    study.corpus = replace(corpus, images=tuple(images), tested_on="others")
    new, _ = import_module("trainer.protocols.few_shot").run(study).tables
    assert {cell.column for cell in new.cells if cell.row == "LDA, 3 images"} == set(study.generators)


def test_floors_are_left_out_where_they_have_nothing_to_learn_from(make_study: Any, steps: Steps) -> None:
    recipe = _generalisation({"none": {**S3, "train_on": "DCGAN"}})
    recipe["settings"]["train_on"] = "Other"
    found = generalisation.run(make_study(recipe, steps))
    assert {cell.row for cell in found.tables[0].cells} == {"none"}
    assert "There are no floors: no training images of Other." in found.remarks


def test_pairs_outlast_a_broken_file(corpus: Corpus, tmp_path: Path) -> None:
    images = list(corpus.images)
    lost = next(number for number, p in enumerate(images) if p.split == "test")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    images[lost] = replace(images[lost], extent=replace(images[lost].extent, file=broken))
    found = readable(replace(corpus, images=tuple(images)), Steps(tmp_path / "steps"), Console(quiet=True))
    assert len(found.images) == len(images) - 1
    assert found.paired


def test_a_network_is_trained_anew_on_other_weights(make_study: Any, corpus: Corpus, tmp_path: Path) -> None:
    weights = tmp_path / "a.pth"
    classes = corpus.classes(["deconv"], "train")
    keys = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), weights)
        study = make_study(_generalisation({"none": S3}), pretrained={"resnet18": weights})
        keys.add(study.train(study.config(Trial.model_validate(S3), 0), classes, classes).key)
    assert len(keys) == 2


def test_images_smaller_than_the_view_are_said(make_study: Any, steps: Steps, corpus: Corpus) -> None:
    study = make_study(_generalisation({"none": S3}), steps)
    images = corpus.fakes("nearest", "test")
    study.corpus = replace(corpus, sides={p.extent: 20 + 6 * number for number, p in enumerate(images)})
    generalisation.run(study)
    assert "2 images are smaller than the network's view and were mirrored at their border." in study.remarks()


def test_what_steers_a_training_shows_the_same_things_as_the_training(
    make_study: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(_generalisation({"none": S3}))
    images = [replace(p, category="cat" if p.scene % 2 else "ape") for p in corpus.images]
    study.corpus = replace(corpus, images=tuple(images))
    seen: list[Any] = []
    monkeypatch.setattr(study, "train", lambda _config, train, val: seen.append((train, val)))
    for categories in (1, 2):
        generalisation.trained_on(study, Trial.model_validate({**S3, "categories": categories}), "PGGAN")
    shown = [[{p.category for some in split.values() for p in some} for split in splits] for splits in seen]
    assert shown == [[{"ape"}, {"ape"}], [{"ape", "cat"}, {"ape", "cat"}]]


def test_networks_start_from_the_weights_that_were_given(make_study: Any) -> None:
    study = make_study(_generalisation({"none": S3}))
    assert study.config(Trial.model_validate(S3), 0).pretrained is None
    assert study.random == {"resnet18"}
    study = make_study(_generalisation({"none": S3}), pretrained={"resnet18": Path("a.pth"), "resnet50": Path("b.pth")})
    assert study.config(Trial.model_validate(S3), 0).pretrained == Path("a.pth")
    assert study.config(Trial.model_validate(S1), 0).system == "s1"  # which has a backbone, but knows no such weights
    assert study.random == set()


def test_the_same_study_gives_the_same_figures_and_trains_nothing_twice(make_study: Any, tmp_path: Path) -> None:
    recipe = {
        "protocol": "preprocessed_training",
        "names": NAMES,
        "maps": MAPS,
        "table": [{"name": name, "title": name, "columns": []} for name in ("figures", "gain")],
        "settings": {"variants": {"M": S2}, "train_on": ["PGGAN"]},
    }
    said: list[str] = []
    run = import_module("trainer.protocols.preprocessed_training").run
    first = run(make_study(recipe, Steps(tmp_path / "one", said.append)))
    assert any(line.startswith("train") for line in said)
    said.clear()
    again = run(make_study(recipe, Steps(tmp_path / "one", said.append)))
    assert said == []
    other = run(make_study(recipe, Steps(tmp_path / "two", said.append)))
    assert first == again == other


def test_a_study_that_is_killed_between_two_networks_trains_only_what_is_left(
    make_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "protocol": "preprocessed_training",
        "names": NAMES,
        "maps": MAPS,
        "table": [{"name": name, "title": name, "columns": []} for name in ("figures", "gain")],
        "settings": {"variants": {"M": S2, "M_GN": NOISY}, "train_on": ["PGGAN"]},
    }
    run = import_module("trainer.protocols.preprocessed_training").run
    train, trained = loop.train, list[TrainConfig]()

    def until_killed(config: TrainConfig, *rest: Any) -> Any:
        if killed and trained:
            raise KeyboardInterrupt
        trained.append(config)
        return train(config, *rest)

    monkeypatch.setattr(loop, "train", until_killed)
    killed = True
    with pytest.raises(KeyboardInterrupt):
        run(make_study(recipe, Steps(tmp_path / "one")))
    killed = False
    found = run(make_study(recipe, Steps(tmp_path / "one")))
    assert len(trained) == 2
    monkeypatch.undo()
    assert found == run(make_study(recipe, Steps(tmp_path / "two")))


def _stands_alone(figure: Figure) -> bool:
    return figure.image.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
