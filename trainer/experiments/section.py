"""The result of an experiment: tables with published and measured figures side by side, diagrams, remarks."""

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "-"
"""Shown where there is no figure."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Value):
    """One measured figure, with its 95 % bounds where they were computed."""

    value: float
    low: float | None = None
    high: float | None = None


class Cell(_Value):
    """The figures of one row and column."""

    row: str
    column: str
    published: float | None = None
    measured: Measured | None = None
    target: float | None = None
    """Genprint's own target, which is met if the bound on its side meets it."""
    at_most: bool = False
    """The target is a ceiling."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, by the lower bound (the upper one of a ceiling); None without either."""
        if self.target is None or self.measured is None:
            return None
        if self.at_most:
            return _or(self.measured.high, self.measured.value) <= self.target
        return _or(self.measured.low, self.measured.value) >= self.target


class Table(_Value):
    """Rows and columns in the order in which they are shown."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str = ""

    def cell(self, row: str, column: str) -> Cell:
        """The cell of a row and column; an empty one where there is no figure."""
        return next((c for c in self.cells if (c.row, c.column) == (row, column)), Cell(row=row, column=column))


class Figure(_Value):
    """A diagram or table of images."""

    title: str
    image: str
    """A ``data:`` address."""
    caption: str = ""


class Section(_Value):
    """All results of one experiment in one run."""

    protocol: str
    title: str
    source: str
    question: str
    scale: str
    settings: dict[str, Any]
    """Settings of the scale: images, seeds, changes of the systems' defaults."""
    corpus: str
    tested_on: str = ""
    """The other data set whose images were tested; empty if there was none."""
    fingerprint: str
    mapping: dict[str, str | None]
    """The publication's generators -> the classes that stand for them; None where nothing does."""
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...]
    seconds: float
    """Duration of this run, without the steps that an earlier run had finished."""
    versions: dict[str, str]
    created_at: str

    @property
    def data(self) -> str:
        """The data sets for training and testing, for people."""
        return f"{self.corpus}, tested on {self.tested_on}" if self.tested_on else self.corpus

    def without_figures(self) -> "Section":
        """The section without diagrams, for programs."""
        return self.model_copy(update={"figures": ()})


def show(section: Section, console: Console) -> None:
    """Print a section: published | measured [95 % bounds]."""
    console.rule(Text.assemble((section.protocol, "bold"), f" · scale {section.scale} · {section.data}"))
    console.print(f"{section.title} ({section.source})", highlight=False)
    names = ", ".join(f"{a} = {b if b is not None else 'not in this corpus'}" for a, b in section.mapping.items())
    if names:
        console.print(f"Stand-ins: {names}", highlight=False)
    for table in section.tables:
        console.print(_rich(table))
    for remark in section.remarks:
        console.print(f"- {remark}", highlight=False)


def spoken(cell: Cell) -> Iterator[str]:
    """The parts of a cell: published, measured with bounds, target."""
    yield NOTHING if cell.published is None else figure(cell.published)
    yield NOTHING if cell.measured is None else _bounds(cell.measured)
    yield "" if cell.target is None else f"{'≤' if cell.at_most else '≥'} {figure(cell.target)}"


def figure(value: float) -> str:
    """The number with at most two decimals, without trailing zeros."""
    return NOTHING if math.isnan(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _bounds(measured: Measured) -> str:
    if measured.low is None or measured.high is None:
        return figure(measured.value)
    return f"{figure(measured.value)} [{figure(measured.low)}, {figure(measured.high)}]"


def _rich(table: Table) -> RichTable:
    """A table with a line for each figure, as some tables have too many columns for a terminal."""
    targets = any(cell.target is not None for cell in table.cells)
    shown = RichTable(
        "", "", "published", "measured", title=table.title, title_justify="left", caption=table.note or None
    )
    if targets:
        shown.add_column("to reach")
    for row in table.rows:
        name = row
        for cell in (cell for cell in table.cells if cell.row == row):
            published, measured, target = spoken(cell)
            mark = {None: ("", ""), True: (" met", "green"), False: (" missed", "red")}[cell.met]
            shown.add_row(name, cell.column, published, measured, *([Text.assemble(target, mark)] if targets else []))
            name = ""
    return shown


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
