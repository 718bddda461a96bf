from pathlib import Path

import pytest
from pydantic import ValidationError

from trainer.config import TrainConfig, read_config
from trainer.errors import BadConfig

RECIPES = Path("trainer/recipes")


def test_the_defaults_are_the_papers() -> None:
    config = TrainConfig()
    assert (config.size, config.embedding, config.epochs, config.batch, config.lr) == (128, 512, 10, 128, 1e-3)
    view = config.preprocessing.views[0]
    assert (view.resize.mode, view.resize.size, view.crop.mode) == ("exact", 128, "none")


def test_a_crop_does_not_resize() -> None:
    view = TrainConfig(fit="crop", size=64).preprocessing.views[0]
    assert (view.resize.mode, view.crop.mode, view.crop.size, view.on_small) == ("none", "centre", 64, "unsure")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_options_go_over_the_recipe_and_that_over_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text('epochs = 3\nbatch = 16\nreal = ["photos"]\n')
    config = read_config(recipe, {"batch": 8, "lr": None})
    assert (config.epochs, config.batch, config.lr, config.real) == (3, 8, 1e-3, ("photos",))


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_are_valid(recipe: Path) -> None:
    read_config(recipe, {})


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    with pytest.raises(BadConfig, match=r"a\.toml: no recipe here"):
        read_config(recipe, {})
    recipe.write_text("epochs = ")
    with pytest.raises(BadConfig, match=r"a\.toml: not TOML"):
        read_config(recipe, {})
    recipe.write_text("epoch = 3")
    with pytest.raises(BadConfig, match=r"a\.toml: epoch: Extra inputs are not permitted, got 3"):
        read_config(recipe, {})
    with pytest.raises(BadConfig, match=r"backbone: Input should be 'resnet18' or 'resnet50', got 'vgg'"):
        read_config(None, {"backbone": "vgg"})
