"""Tables of all settings and metrics: for a terminal, for programs (JSON) and for ``docs/``.

They are made from the declarations themselves, so that they cannot differ from them.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import TextWrapper
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from worker.operations.metrics import Metrics
from worker.settings import PREFIX, Settings, SettingsSection

_UNITS = {"_s": "seconds", "_bytes": "bytes", "_pixels": "pixels", "_share": "share, 0 to 1", "_processes": "processes"}
_VALUES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
_UNFOLDED = 10_000
"""Columns that a table may have where no terminal has a say."""

_LEAST_OF_LAST = 40
"""Columns that the last cells of a table, mostly sentences, can be folded to."""

Row = Mapping[str, str]


def settings_rows() -> list[Row]:
    """Name, values, unit, default, environment variable and meaning of every setting."""
    return list(_settings(Settings.model_fields, ""))


def metrics_rows() -> list[Row]:
    """Name, kind, labels and meaning of every metric."""
    return [
        {"metric": d.name, "kind": d.kind, "labels": ", ".join(d.labels), "meaning": d.meaning}
        for d in Metrics().declared
    ]


def terminal_table(rows: Sequence[Row], width: int) -> Table | str:
    """A table for a terminal of ``width`` columns; where more than its last column would be folded, a block a row.

    Names are never cut or folded, since people copy them.
    """
    *whole, last = rows[0]
    used = sum(max(cell_len(text) for text in (name, *(row[name] for row in rows))) + 3 for name in whole)
    if used + _LEAST_OF_LAST > width:
        return "\n".join(_block(row, width) for row in rows)
    table = Table(*(Column(name, no_wrap=True) for name in whole), Column(last, overflow="fold"))
    for row in rows:
        table.add_row(*row.values())
    return table


def _block(row: Row, width: int) -> str:
    """The first cell, and below it the others that say something."""
    first, *others = row
    wrap = TextWrapper(
        width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join([row[first], *(wrap.fill(f"{name}: {row[name]}") for name in others if row[name]), ""])


def plain_console(*, stderr: bool = False) -> Console:
    """Standard output or error, for text that may look like markup; in a file or pipe nothing is folded.

    A program could not put names together again.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, markup=False, emoji=False, width=None if stream.isatty() else _UNFOLDED)


def json_table(rows: Sequence[Row]) -> str:
    """The rows as a JSON list of objects."""
    return json.dumps(rows, indent=2) + "\n"


def markdown_table(rows: Sequence[Row]) -> str:
    """A table in GitHub's Markdown, with the first column as code."""
    lines = [_markdown(rows[0]), _markdown(["---"] * len(rows[0]))]
    for row in rows:
        first, *others = (text.replace("|", "\\|") for text in row.values())
        lines.append(_markdown([f"`{first}`", *others]))
    return "".join(lines)


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _settings(fields: Mapping[str, FieldInfo], prefix: str) -> Iterator[Row]:
    for name, field in fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, SettingsSection):
            yield from _settings(kind.model_fields, f"{prefix}{name}.")
            continue
        full = prefix + name
        yield {
            "setting": full,
            "values": _values(kind),
            "unit": next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), ""),
            "default": _default(field),
            "variable": PREFIX + full.upper().replace(".", "__"),
            "meaning": " ".join((field.description or "").split()),
        }


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    if get_origin(kind) in (Union, UnionType):
        return _values(next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is Annotated:
        return _values(get_args(kind)[0])
    return _VALUES.get(kind, "text")


def _default(field: FieldInfo) -> str:
    """The default as text; one that depends on the machine is explained by the meaning of the setting."""
    if field.default is PydanticUndefined:
        return "by machine"
    if isinstance(field.default, tuple):
        return ",".join(field.default)
    return "" if field.default is None else str(field.default)
