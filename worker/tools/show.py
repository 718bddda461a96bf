"""What ``classify`` found, printed as it comes; each function returns the number of images without a verdict."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

from bundle.text import printable
from worker.operations.reference import plain_console
from worker.tools.classify import Classified
from worker.tools.image_files import ImageFiles

_FIXED = {"decision": 9, "prob.": 5, "source": 0, "dist.": 7, "p-value": 7}
"""Columns that have one width from the first row to the last; that of ``source`` depends on the bundle."""
_LEAST, _MOST_OF_SOURCE, _REASONS = 16, 24, 24


def print_table(results: Iterable[Classified], files: ImageFiles, labels: Sequence[str]) -> int:
    """For people: a row for each image, under a head.

    Args:
        results: in the order of the rows.
        files: where they come from; paths are shown relative to a folder that was named.
        labels: all that a verdict can name.
    """
    console = plain_console()
    names = [files.name(path) for path in files.paths] + [files.name(path) for path, _ in files.unread]
    widths = _widths(map(printable, names), labels, console.width)
    unjudged = 0
    is_first = True
    cells: list[str | Text]
    for result in results:
        name = printable(files.name(result.path))
        if result.verdict is None:
            unjudged += 1
            cells = [name, Text("none", style="red"), *[""] * 4, printable(f"{result.reason}: {result.error}")]
        else:
            generated, attribution = result.verdict.generated, result.verdict.attribution
            cells = [
                name,
                generated.decision,
                _number(generated.probability),
                printable(attribution.source or ""),
                _number(attribution.distance),
                _number(attribution.p_value),
                ", ".join(generated.reasons),
            ]
        # In a narrow terminal paths and reasons are folded, never cut: these two are what people copy.
        columns = [Column(head, width=width, overflow="fold") for head, width in widths.items()]
        table = Table(*columns, Column("reasons", overflow="fold"), box=None, pad_edge=False, show_header=is_first)
        table.add_row(*cells)
        console.print(table)
        is_first = False
    return unjudged


def _widths(names: Iterable[str], labels: Sequence[str], width: int) -> dict[str, int]:
    source = min(_MOST_OF_SOURCE, max(map(cell_len, [*map(printable, labels), "unknown"])))
    fixed = {**_FIXED, "source": source}
    longest = max(map(cell_len, names), default=0)
    left = width - sum(fixed.values()) - len(fixed) * 2 - _REASONS
    return {"image": max(_LEAST, min(longest, left)), **fixed}


def print_csv(results: Iterable[Classified]) -> int:
    """One row an image."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "decision", "probability", "source", "distance", "p_value", "reasons", "sha256"])
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            writer.writerow([printable(result.path), "", "", "", "", "", result.reason, ""])
            continue
        v = result.verdict
        source = v.attribution.source and printable(v.attribution.source)
        row = [v.generated.decision, v.generated.probability, source, v.attribution.distance]
        writer.writerow(
            [printable(result.path), *row, v.attribution.p_value, " ".join(v.generated.reasons), v.image.sha256]
        )
    return unjudged


def print_json(results: Iterable[Classified]) -> int:
    """One object a line: the verdict, or why there is none."""
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            failure = {"image": printable(result.path), "reason": result.reason, "detail": printable(result.error)}
            sys.stdout.write(json.dumps(failure) + "\n")
        else:
            sys.stdout.write(result.verdict.to_json().decode() + "\n")
    return unjudged


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
