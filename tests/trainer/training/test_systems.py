"""What every system must do, whichever it is: one suite over all of them."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from rich.console import Console

from bundle.manifest import Label
from exporter.onnx.graph import export_graph
from exporter.onnx.parity import check_parity
from exporter.onnx.runner import GraphOutputs, runner
from tests.bundles import one_thread
from tests.trainer.conftest import MakeFolder
from tests.trainer.stored_config import keys_of, store_config, stored_config, without
from trainer.choices import SYSTEMS
from trainer.errors import BadConfig, CheckpointInvalid
from trainer.training.checkpoint import Checkpoint, Origin, load_checkpoint, save_checkpoint
from trainer.training.config import TrainConfig, missing_keys
from trainer.training.detector import Detector
from trainer.training.embedding import embed
from trainer.training.loop import train
from trainer.training.systems import Objective, make_network, parse_config, parse_settings, read_config, system
from trainer.versions import now

pytestmark = pytest.mark.slow

RECIPES: Final = sorted(Path("trainer/recipes").glob("*.toml"))

SMALL: Final[dict[str, dict[str, Any]]] = {
    "s1": {"size": 32, "fit": "crop", "embedding": 8},
    "s2": {"size": 32, "fit": "crop", "width": 4, "train_preprocessing": "blur"},
    "s3": {"size": 32, "load": 40, "resize": False, "backbone": "resnet18"},
    "prnu": {"size": 32, "epochs": 0},
    "spectrum": {"size": 32, "load": 40, "backbone": "resnet18"},
    "cooccurrence": {"size": 32, "levels": 16, "width": 2, "dense": 8},
    "forensic_transfer": {"size": 32, "width": 1},
    "block_spectra": {"size": 32, "epochs": 0, "simulated": 1, "simulated_steps": 2},
    "contrastive": {
        "size": 32,
        "widths": (4, 4, 8, 8, 8),
        "simulated": 1,
        "simulated_steps": 2,
        "simulated_images": 16,
    },
    "backbone": {"size": 32, "fit": "crop", "architecture": "shallownet", "width": 0.25},
}
"""Settings with which a system is tried within seconds, on images of 40 pixels."""

LABELS: Final = (
    Label(id=0, name="a", kind="generator"),
    Label(id=1, name="real", kind="real"),
    Label(id=2, name="z", kind="generator"),
)

EXPORTED_TRAINED: Final = {"block_spectra", "contrastive", "prnu"}
"""Systems whose graphs ``tests/exporter/test_export.py`` compares, trained and with templates of their own."""

each_system = pytest.mark.parametrize("name", sorted(SYSTEMS))
each_variant = pytest.mark.parametrize("binary", [False, True], ids=["classes", "binary"])


def small(name: str, **values: Any) -> TrainConfig:
    if name == "block_spectra" and (values.get("binary") or values.get("l2_normalised")):
        pytest.skip("has no such variant")
    return parse_config({"system": name, "epochs": 1, "batch": 4, **SMALL[name], **values})


def pixels(count: int, size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


@each_system
def test_a_registered_name_is_its_configs(name: str) -> None:
    found = system(name)
    assert found.config(**SMALL[name]).system == name
    assert found.source
    assert found.summary(small(name))


@each_system
@each_variant
def test_a_network_scores_and_embeds_whole_grey_levels(name: str, *, binary: bool) -> None:
    config = small(name, binary=binary)
    scores, embedding = make_network(config, LABELS).eval()(pixels(3, config.size))
    assert scores.shape == (3, 1 if binary else 3)
    assert embedding.shape[0] == 3
    assert embedding.ndim == 2
    assert scores.dtype == embedding.dtype == torch.float32


@each_system
@each_variant
def test_the_objective_reaches_every_parameter(name: str, *, binary: bool) -> None:
    config = small(name, binary=binary)
    if config.epochs == 0:
        pytest.skip("trained without gradients")
    net = make_network(config, LABELS).train()
    objective: Objective = system(name).objective(config, LABELS)
    labels = torch.tensor([0, 1, 2, 1])
    losses = objective(net, pixels(4, config.size), labels)
    losses.total.backward()
    objective.after_step(losses, labels)
    without = [
        n for module in (net, objective) for n, p in module.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert without == []  # processes that share gradients would wait for them for ever
    assert losses.parts
    assert all(part.ndim == 0 and part.isfinite() for part in (losses.total, *losses.parts.values()))
    assert len(losses.scores) == 4
    assert losses.scores.shape[1] >= (1 if binary else 3)  # classes that are only there to learn from come after
    assert objective.right(losses.scores, labels).dtype == torch.bool


@pytest.mark.parametrize("name", sorted(SYSTEMS.keys() - EXPORTED_TRAINED))
def test_the_served_graph_computes_the_same_on_any_batch(name: str) -> None:
    exported_and_compared(small(name))


@pytest.mark.parametrize("name", ["cooccurrence", "s2"])
def test_the_served_graph_of_a_variant_normalises(name: str) -> None:
    found = exported_and_compared(small(name, l2_normalised=True))
    assert np.linalg.norm(found.embedding, axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def exported_and_compared(config: TrainConfig) -> GraphOutputs:
    """What the graph gives on five views, which PyTorch gives as well."""
    torch.manual_seed(0)
    net = make_network(config, LABELS).train()
    with torch.no_grad(), one_thread():
        for _ in range(20):  # untrained batch norm lets values explode
            net(pixels(8, config.size))
        detector = Detector(net, LABELS, binary=config.binary, l2_normalised=config.l2_normalised).eval()
        graph = export_graph(detector, config.preprocessing, name=config.system, file="model.onnx")
        for count in (1, 5):
            views = pixels(count, config.size).numpy()
            found = runner(graph)(views)
            assert found.logit.shape == (count,)
            check_parity(found, GraphOutputs(*embed(detector, views)), 1e-3)
    return found


@each_system
def test_a_run_is_the_same_twice_and_comes_back_from_its_file(
    name: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    config = small(name, epochs=min(2, small(name).epochs))
    data, val, quiet = (
        make_folder("data", images=6, size=40),
        make_folder("val", images=2, size=40),
        Console(quiet=True),
    )
    with one_thread():
        once = train(config, data, tmp_path / "1.pt", val, quiet)
        twice = train(config, data, tmp_path / "2.pt", val, quiet)
    loaded = load_checkpoint(tmp_path / "1.pt")
    assert loaded.config == config
    assert type(loaded.config) is type(config)
    for weights in (twice.weights, loaded.weights):
        assert all(torch.equal(once.weights[key], weights[key]) for key in once.weights)
    images = pixels(2, config.size).numpy()
    for one, other in zip(embed(once.model(), images), embed(loaded.model(), images), strict=True):
        np.testing.assert_array_equal(one, other)


@each_system
def test_a_checkpoint_whose_config_lacks_a_key_is_refused(name: str, tmp_path: Path) -> None:
    config = small(name)
    origin = Origin(
        fingerprint="f", images={}, precision="fp32", device="cpu", processes=1, versions={}, created_at=now()
    )
    path = tmp_path / "a.pt"
    save_checkpoint(path, Checkpoint(config, LABELS, origin, (), {}, {}))  # the config is checked before the weights
    stored = stored_config(path)
    assert set(keys_of(stored)) == set(missing_keys(type(config), {})) | {key for key in keys_of(stored) if "." in key}
    for key in keys_of(stored):
        store_config(path, without(stored, key))
        with pytest.raises(CheckpointInvalid, match=rf"a\.pt: config lacks {key}: .*before it was recorded; train it"):
            load_checkpoint(path)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_are_valid(recipe: Path) -> None:
    read_config(recipe, {})


def test_options_go_over_the_recipe_and_that_over_the_systems_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text('system = "s2"\nepochs = 3\nbatch = 16\nreal = ["photos"]\n')
    config = read_config(recipe, {"batch": 8, "lr": None})
    assert (config.system, config.epochs, config.batch, config.lr, config.real) == ("s2", 3, 8, 2e-4, ("photos",))
    assert read_config(None, {}).system == "s1"


def test_settings_are_toml_or_text() -> None:
    settings = ["a=3", "b=[1, 2]", "c=blur", 'd="x=y"', "e=x=y", "f = true"]
    assert parse_settings(settings) == {"a": 3, "b": [1, 2], "c": "blur", "d": "x=y", "e": "x=y", "f": True}
    with pytest.raises(BadConfig, match="--set blur: expected KEY=VALUE"):
        parse_settings(["blur"])


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    with pytest.raises(BadConfig, match=r"a\.toml: no recipe here"):
        read_config(recipe, {})
    recipe.write_text("epochs = ")
    with pytest.raises(BadConfig, match=r"a\.toml: not TOML"):
        read_config(recipe, {})
    recipe.write_text("epoch = 3")
    with pytest.raises(BadConfig, match=r"a\.toml: epoch: no such setting"):
        read_config(recipe, {})
    with pytest.raises(BadConfig, match=r"backbone: Input should be 'resnet18' or 'resnet50', got 'vgg'"):
        read_config(None, {"backbone": "vgg"})
    with pytest.raises(BadConfig, match="system: no system 's9', only s1, s2, s3, "):
        read_config(None, {"system": "s9"})
    with pytest.raises(BadConfig, match="load must not be below size"):
        read_config(None, {"system": "s3", "load": 64})
