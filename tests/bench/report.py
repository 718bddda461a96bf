"""What was measured, for people (tables, and what goes on meanwhile) and for programs (JSON)."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.machine import machine


@dataclass(frozen=True)
class Measure:
    """One figure; ``target`` is a floor, or a ceiling where ``at_most``."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    parts: dict[str, Any] = field(default_factory=dict)
    """What it is made of, for the JSON file."""
    note: str = ""
    """What it is made of, in a few words."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


class Report:
    """Figures of one run, on one machine; ``options`` are those of the run."""

    def __init__(self, console: Console, path: Path, options: dict[str, Any]) -> None:
        self._console = console
        self._path = path
        self._options = options
        self._sections: dict[str, list[Measure]] = {}
        self._section = ""
        self._machine = machine()

    def introduce(self) -> None:
        """Say on what we are measuring."""
        m = self._machine
        self._console.print(f"[bold]{m['cpu']}[/], {m['cores']} cores, {m['memory_gib']} GiB, device {m['device']}")
        self._console.print(f"{', '.join(m['flags'])}; Linux {m['kernel']}, Python {m['python']}", highlight=False)
        self._console.print(", ".join(f"{name} {number}" for name, number in m["packages"].items()), highlight=False)

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Measures added inside belong together; their table is shown at the end, and the file written anew."""
        self._section = title
        self._sections[title] = []
        try:
            yield
        finally:
            if self._sections[title]:
                self._console.print(_table(title, self._sections[title]))
            self._write()

    def add(self, measure: Measure) -> None:
        """To the section that is open."""
        self._sections[self._section].append(measure)

    def say(self, line: str) -> None:
        """Something that explains a figure."""
        self._console.print(line, highlight=False)

    @contextmanager
    def step(self, what: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """Show that something goes on; call what this gives with how much of ``total`` is done.

        A bar on a terminal, otherwise one line.
        """
        if not self._console.is_terminal:
            self._console.print(what, highlight=False)
            yield lambda _: None
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=min(done, total) if total else done)

    def missed(self) -> list[Measure]:
        """Those whose target was not reached."""
        return [measure for measures in self._sections.values() for measure in measures if measure.met is False]

    def _write(self) -> None:
        sections = {
            title: [{**asdict(measure), "met": measure.met} for measure in measures]
            for title, measures in self._sections.items()
        }
        document = {"machine": self._machine, "options": self._options, "measures": sections}
        self._path.write_text(json.dumps(document, indent=1) + "\n")


def _table(title: str, measures: list[Measure]) -> Table:
    table = Table("measure", "value", "target", "met?", title=title, title_justify="left")
    for m in measures:
        target = "" if m.target is None else f"{'≤' if m.at_most else '≥'} {_figure(m.target)} {m.unit}"
        name = f"{m.name}\n[dim]{m.note}[/]" if m.note else m.name
        table.add_row(name, f"{_figure(m.value)} {m.unit}", target, {None: "", True: "yes", False: "[red]no[/]"}[m.met])
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
