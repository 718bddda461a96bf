"""What a fault did, for people (a table), for programs (JSON) and for the documentation (Markdown)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One fault and what came of it."""

    fault: str
    promise: str
    events: int
    lost: int
    duplicated: int
    longest_silence_s: float
    seconds: float
    seed: int
    scale: float
    broken: tuple[str, ...] = ()
    """What was promised and did not hold."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What else was measured."""

    @property
    def held(self) -> bool:
        """Whether the promise was kept."""
        return not self.broken


class Report:
    """Results by fault: a run that repeats some of them replaces only those."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, Result] = {}

    def load(self) -> None:
        """Results of earlier runs, if there are any."""
        if self._path.exists():
            for entry in json.loads(self._path.read_text())["results"]:
                entry.pop("verdict")
                entry["broken"] = tuple(entry["broken"])
                self._results[entry["fault"]] = Result(**entry)

    def add(self, result: Result) -> None:
        """Keep it, on disk too."""
        self._results[result.fault] = result
        entries = [asdict(r) | {"verdict": "held" if r.held else "broken"} for r in self._results.values()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"results": entries}, indent=1) + "\n")

    def sorted(self, order: Iterable[str]) -> list[Result]:
        """All results, by the order of the faults' names."""
        places = {name: place for place, name in enumerate(order)}
        return sorted(self._results.values(), key=lambda r: places.get(r.fault.partition(":")[0], len(places)))


def table(results: Iterable[Result]) -> Table:
    """For a terminal."""
    shown = Table("fault", "events", "lost", "twice", "silent", "took", "verdict", title_justify="left")
    for r in results:
        verdict = "[green]held[/]" if r.held else f"[red]broken[/]: {'; '.join(r.broken)}"
        figures = ", ".join(f"{name} {_figure(value)}" for name, value in r.figures.items())
        shown.add_row(
            f"{r.fault}\n[dim]{figures}[/]" if figures else r.fault,
            f"{r.events:,}",
            f"{r.lost:,}",
            f"{r.duplicated:,}",
            f"{r.longest_silence_s:.1f} s",
            f"{r.seconds:.0f} s",
            verdict,
        )
    return shown


def markdown(results: Iterable[Result]) -> str:
    """For docs/delivery.md."""
    lines = [
        "| fault | what is promised | events | lost | twice | longest silence | held |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for r in results:
        held = "yes" if r.held else f"**no**: {'; '.join(r.broken)}"
        figures = "; ".join(f"{name} {_figure(value)}" for name, value in r.figures.items())
        fault = f"{r.fault} ({figures})" if figures else r.fault
        numbers = f"{r.events:,} | {r.lost:,} | {r.duplicated:,} | {r.longest_silence_s:.1f} s"
        lines.append(f"| {fault} | {r.promise} | {numbers} | {held} |")
    return "\n".join(lines) + "\n"


def say(console: Console, result: Result) -> None:
    """One result as soon as it is known."""
    verdict = "[green]held[/]" if result.held else f"[red]broken[/]: {'; '.join(result.broken)}"
    console.print(f"{result.fault}: {verdict} ({result.seconds:.0f} s)", highlight=False)


def _figure(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
