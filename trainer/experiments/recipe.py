"""A published experiment as data (``trainer/recipes/protocols``): its figures, stand-ins for its data, scales."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bundle.documents import read_toml
from trainer.choices import ScaleName, TemplateMethod
from trainer.errors import BadConfig
from trainer.experiments.section import Cell, Measured, Table

SCALES: Final[tuple[ScaleName, ...]] = get_args(ScaleName)
RECIPES: Final = Path(__file__).parent.parent / "recipes" / "protocols"


class _Exact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Exact):
    """A system as a protocol trains it: its name, and the settings that differ from its defaults."""

    system: str
    options: dict[str, Any] = {}
    adapt: Literal["none", "triplet"] = "none"
    """How it learns a new class: by a template alone, or by S1's triplet fine-tuning."""
    template: TemplateMethod = "one"
    """The template of each class: one random training image (S1), the mean of all, or what training itself made. With
    the last, a class that is learnt later has the template that the system gives it
    (``System.template_for_new_class``), or the mean of its images."""
    train: int | None = None
    """At most this many training images of each class."""
    seeds: int | None = None
    """At most this many of the scale's seeds, for slow systems that are only there for comparison."""
    draws: int | None = None
    """At most this many of the scale's draws."""
    replay: int = 100
    """Images of each known class that take part in fine-tuning."""


class Published(_Exact):
    """A table as printed; ``nan`` where the publication has no figure."""

    name: str
    title: str
    columns: tuple[str, ...]
    published: dict[str, tuple[float, ...]] = {}
    target: dict[str, tuple[float, ...]] = {}
    """Genprint's own targets, ``nan`` where there is none."""
    at_most: bool | tuple[str, ...] = False
    """Targets are ceilings: all, or those of these columns."""
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Published":
        for row, figures in {**self.published, **self.target}.items():
            if len(figures) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(figures)} figures for {len(self.columns)} columns")
        return self

    def beside(self, measured: Mapping[tuple[str, str], Measured], note: str = "") -> Table:
        """The table with measured figures, (row, column) -> figure, beside published ones; rows of their own follow."""
        rows = tuple(dict.fromkeys([*self.published, *self.target, *(row for row, _ in measured)]))
        columns = tuple(dict.fromkeys([*self.columns, *(column for _, column in measured)]))
        cells = [
            Cell(
                row=row,
                column=column,
                published=self._figure(self.published, row, column),
                measured=measured.get((row, column)),
                target=self._figure(self.target, row, column),
                at_most=self.at_most if isinstance(self.at_most, bool) else column in self.at_most,
            )
            for row in rows
            for column in columns
        ]
        known = tuple(c for c in cells if (c.published, c.measured, c.target) != (None, None, None))
        notes = " ".join(part for part in (self.note, note) if part)
        return Table(name=self.name, title=self.title, columns=columns, rows=rows, cells=known, note=notes)

    def _figure(self, figures: Mapping[str, Sequence[float]], row: str, column: str) -> float | None:
        if row not in figures or column not in self.columns:
            return None
        value = figures[row][self.columns.index(column)]
        return None if value != value else value  # noqa: PLR0124  nan is the only number that differs from itself


class Scale(_Exact):
    """The size of an experiment; None takes all images."""

    train: int | None = Field(default=None, ge=2)
    """Images of each class, here and in the three below."""
    val: int | None = Field(default=None, ge=1)
    calib: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=2)
    seeds: int = Field(default=1, ge=1)
    """Backbones of each variant; their seeds are 0, 1, ..."""
    draws: int = Field(default=1, ge=1)
    """Random draws of the few images of a new class."""
    shots: tuple[int, ...] = ()
    """Numbers of images of a new class; empty for the publication's."""
    generators: int | None = Field(default=None, ge=1)
    """At most this many of the publication's generators, from the first."""
    resamples: int = Field(default=2000, ge=20)
    """Resamples of the bootstrap."""
    common: dict[str, Any] = {}
    """Settings of every system, over its defaults."""
    systems: dict[str, dict[str, Any]] = {}
    """System -> its settings, over ``common``."""
    settings: dict[str, Any] = {}
    """Settings of the protocol, over the recipe's."""


class Recipe(_Exact):
    """One experiment."""

    title: str
    source: str
    question: str
    """The question that it answers, in a sentence."""
    protocol: str
    """The module in ``trainer.protocols`` that runs it."""
    names: tuple[str, ...] = ()
    """The publication's generators, in its order."""
    maps: dict[str, dict[str, str]] = {}
    """Stand-ins for ``names`` in a corpus that lacks them: corpus -> the publication's name -> folder. The first map
    whose folders are all there is taken."""
    table: tuple[Published, ...] = ()
    settings: dict[str, Any] = {}
    """Settings of the protocol; see its ``Settings``."""
    smoke: Scale = Scale()
    mini: Scale = Scale()
    full: Scale = Scale()

    def published(self, name: str) -> Published:
        """The table of that name."""
        return next(table for table in self.table if table.name == name)

    @property
    def rows(self) -> tuple[str, ...]:
        """The variants that it compares; none if it has only one."""
        return tuple(self.settings.get("variants", {}))

    def only(self, rows: Collection[str]) -> "Recipe":
        """The recipe with only these of its variants; unchanged if it has none of them."""
        if not set(rows) & set(self.rows):
            return self

        def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
            kept = {row: variant for row, variant in settings.get("variants", {}).items() if row in rows}
            return {**settings, "variants": kept}

        update: dict[str, Any] = {"settings": chosen(self.settings)}
        for name in SCALES:
            scale: Scale = getattr(self, name)
            update[name] = scale.model_copy(update={"settings": chosen(scale.settings)})
        return self.model_copy(update=update)


def names() -> tuple[str, ...]:
    """The names of all recipes, in the order in which they are run."""
    order = tomllib.loads((RECIPES / "scales.toml").read_text())["order"]
    return tuple(str(name) for name in order)


def read_recipe(name: str) -> Recipe:
    """Read a recipe by its name, or from a TOML file; ``scales.toml`` has the defaults of its scales.

    Raises:
        BadConfig: there is no recipe of that name, or a key or value is not known.
    """
    path = RECIPES / f"{name}.toml" if name in names() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise BadConfig(f"{name}: no experiment of that name and no TOML file; see `genprint trainer reproduce --list`")
    scales = tomllib.loads((RECIPES / "scales.toml").read_text())
    try:
        values = read_toml(path)
        for scale in SCALES:
            values[scale] = merged(scales.get(scale, {}), values.get(scale, {}))
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadConfig(f"{path}: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from error
    except ValueError as error:
        raise BadConfig(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise BadConfig(f"{path}: no recipe here: {error.strerror}") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: tables are merged, all other values replaced."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
