"""What ``classify`` found, printed; each function returns the number of images without a verdict."""

import csv
import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from worker.tools.classify import Classified, printable


def print_table(results: Iterable[Classified]) -> int:
    """For people."""
    # In a narrow terminal paths and reasons are folded, never cut: these two are what people copy.
    image, reasons = Column("image", overflow="fold"), Column("reasons", overflow="fold")
    table = Table(image, "decision", "prob.", "source", "dist.", "p-value", reasons)
    unjudged = 0
    for result in results:
        if result.verdict is None:
            unjudged += 1
            table.add_row(
                printable(result.path),
                Text("none", style="red"),
                "",
                "",
                "",
                "",
                printable(f"{result.reason}: {result.error}"),
            )
            continue
        generated, attribution = result.verdict.generated, result.verdict.attribution
        table.add_row(
            printable(result.path),
            generated.decision,
            _number(generated.probability),
            attribution.source or "",
            _number(attribution.distance),
            _number(attribution.p_value),
            ", ".join(generated.reasons),
        )
    Console(markup=False).print(table)  # names of files may look like markup
    return unjudged


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
        row = [v.generated.decision, v.generated.probability, v.attribution.source, v.attribution.distance]
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
