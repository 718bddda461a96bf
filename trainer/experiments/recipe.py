"""A published experiment as data (``trainer/recipes/protocols``): figures, stand-ins for its data sets, sizes."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.choices import ScaleName, TemplateMethod
from trainer.errors import BadConfig
from trainer.experiments.section import Cell, Measured, Table

SCALES: Final[tuple[ScaleName, ...]] = get_args(ScaleName)
RECIPES: Final = Path(__file__).parent.parent / "recipes" / "protocols"


class _Exact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Exact):
    """A system as a protocol trains it: its name, and what differs from its defaults."""

    system: str
    options: dict[str, Any] = {}
    adapt: Literal["none", "triplet"] = "none"
    """How it learns a new type: by a template alone, or by fine-tuning."""
    template: TemplateMethod = "one"
    """Types are named by one random training image each (S1), by the mean of all, or by what training itself made. A
    type that is learnt later then has the template that the system gives it (``place``), or the mean of its images."""
    train: int | None = None
    """Images a class, where the scale has more."""
    seeds: int | None = None
    """No more than these of the scale's; what is slow and only for comparison has fewer."""
    draws: int | None = None
    """Likewise."""
    replay: int = 100
    """Images of each known type that take part in fine-tuning."""


class Published(_Exact):
    """A table as printed; ``nan`` where the publication has no figure."""

    name: str
    title: str
    columns: tuple[str, ...]
    published: dict[str, tuple[float, ...]] = {}
    target: dict[str, tuple[float, ...]] = {}
    """What we set ourselves to reach, ``nan`` where nothing."""
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
        """Published figures with ours, (row, column) -> figure, beside them; rows and columns of ours alone follow."""
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
    """How much of everything; None is all there is."""

    train: int | None = Field(default=None, ge=2)
    """Images a class."""
    val: int | None = Field(default=None, ge=1)
    calib: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=2)
    seeds: int = Field(default=1, ge=1)
    """Backbones of each kind: 0, 1, ..."""
    draws: int = Field(default=1, ge=1)
    """Choices of the few images of a new type."""
    shots: tuple[int, ...] = ()
    """How many images of a new type; the publication's where empty."""
    generators: int | None = Field(default=None, ge=1)
    """No more than so many of the publication's are gone through, from the first."""
    resamples: int = Field(default=2000, ge=20)
    """Of the bootstrap."""
    common: dict[str, Any] = {}
    """For every system, over its defaults."""
    systems: dict[str, dict[str, Any]] = {}
    """System -> what differs from its defaults, over ``common``."""
    settings: dict[str, Any] = {}
    """Over the recipe's."""


class Recipe(_Exact):
    """One experiment."""

    title: str
    source: str
    question: str
    """What it asks, in a sentence."""
    protocol: str
    """Module in ``trainer.protocols``."""
    names: tuple[str, ...] = ()
    """The publication's generators, in its order."""
    maps: dict[str, dict[str, str]] = {}
    """What stands for ``names`` in a corpus that lacks them: corpus -> the publication's name -> folder. The first
    whose folders are all there is taken."""
    table: tuple[Published, ...] = ()
    settings: dict[str, Any] = {}
    """Of the protocol; see its ``Settings``."""
    smoke: Scale = Scale()
    mini: Scale = Scale()
    full: Scale = Scale()

    def published(self, name: str) -> Published:
        """The table of that name."""
        return next(table for table in self.table if table.name == name)

    @property
    def rows(self) -> tuple[str, ...]:
        """What it compares, where it compares several."""
        return tuple(self.settings.get("variants", {}))

    def only(self, rows: Collection[str]) -> "Recipe":
        """Of its variants these alone; all where it has none of them, or none at all."""
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
    """Of all recipes, in the order in which they are run."""
    order = tomllib.loads((RECIPES / "scales.toml").read_text())["order"]
    return tuple(str(name) for name in order)


def read_recipe(name: str) -> Recipe:
    """By name, or from a file of one's own; the scales' own defaults lie beneath.

    Raises:
        BadConfig: there is none of that name, or a key or value is not one of ours.
    """
    path = RECIPES / f"{name}.toml" if name in names() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise BadConfig(f"{name}: no protocol of that name and no TOML file; `trainer reproduce --list` names them")
    scales = tomllib.loads((RECIPES / "scales.toml").read_text())
    try:
        values = tomllib.loads(path.read_text())
        for scale in SCALES:
            values[scale] = merged(scales.get(scale, {}), values.get(scale, {}))
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadConfig(f"{path}: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from error
    except ValueError as error:
        raise BadConfig(f"{path}: not TOML: {error}") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
