from importlib import import_module
from pathlib import Path

import pytest

from trainer.choices import ScaleName
from trainer.errors import BadConfig
from trainer.experiments.recipe import RECIPES, SCALES, Recipe, Variant, merged, names, read_recipe
from trainer.training.systems import parse_config


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_says_what_its_experiment_and_its_systems_understand(name: str, scale: ScaleName) -> None:
    recipe = read_recipe(name)
    module = import_module(f"trainer.protocols.{recipe.protocol}")
    settings = recipe.settings
    sizes = getattr(recipe, scale)
    if hasattr(module, "Settings"):
        settings = module.Settings.model_validate(merged(recipe.settings, sizes.settings))
        for variant in variants_of(settings):
            values = {**sizes.common, **sizes.systems.get(variant.system, {}), **variant.options}
            parse_config({"system": variant.system, **values})
    for names_of_corpus in recipe.maps.values():
        assert names_of_corpus.keys() <= set(recipe.names)


def variants_of(settings: object) -> list[Variant]:
    found = getattr(settings, "variants", None)
    return list(found.values()) if found is not None else [v for v in [getattr(settings, "variant", None)] if v]


@pytest.mark.parametrize("name", names())
def test_single_rows_of_a_recipe_keep_what_the_scale_says_of_them(name: str) -> None:
    recipe = read_recipe(name)
    module = import_module(f"trainer.protocols.{recipe.protocol}")
    for scale in SCALES:
        whole = merged(recipe.settings, getattr(recipe, scale).settings)
        for row in recipe.rows:
            one = recipe.only([row])
            settings = merged(one.settings, getattr(one, scale).settings)
            assert settings["variants"] == {row: whole["variants"][row]}
            module.Settings.model_validate(settings)


def test_every_recipe_is_in_the_order() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} - {"scales"} == set(names())
    assert len(set(names())) == len(names())


def test_published_figures_are_the_papers() -> None:
    """A few, read from the papers once more."""
    assert read_recipe("s1-table4").published("new").published["S1, 5 images"] == (99, 98, 99, 16, 10, 3, 91)
    table2 = read_recipe("s3-table2").published("ap")
    row = dict(zip(table2.columns, table2.published["blur+JPEG 0.1"], strict=True))
    assert (row["BigGAN"], row["DeepFake"], row["mAP"], row["mAP, unseen"]) == (84.5, 89.0, 92.6, 91.9)
    for name in ("s3-table2", "s3-classes", "s3-size"):
        table = read_recipe(name).published("ap")
        for figures in table.published.values():
            generators = figures[:-2]
            assert sum(generators) / len(generators) == pytest.approx(figures[-2], abs=0.06)
            assert sum(generators[1:]) / len(generators[1:]) == pytest.approx(figures[-1], abs=0.06)
    assert read_recipe("s2-table1").published("figures").published["DCGAN, M_GN"][:3] == (66.38, 94.65, 38.11)


def test_a_recipe_of_ones_own_has_the_scales_beneath_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "t"\nsource = "s"\nquestion = "q"\nprotocol = "spectra"\n'
        "[smoke]\ntest = 5\n[smoke.common]\nbatch = 4\n"
    )
    recipe: Recipe = read_recipe(str(path))
    assert (recipe.smoke.test, recipe.smoke.common["batch"], recipe.smoke.common["size"]) == (5, 4, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('title = "t"', "Field required"),
        ("title = ", "not TOML"),
        ('title = "t"\nsource = "s"\nquestion = "q"\nprotocol = "spectra"\n[smoke]\nepochs = 5\n', "smoke.epochs"),
    ],
)
def test_a_malformed_recipe_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadConfig, match=message):
        read_recipe(str(path))


def test_an_unknown_name_points_to_the_list() -> None:
    with pytest.raises(BadConfig, match="reproduce --list"):
        read_recipe("s9-table1")
