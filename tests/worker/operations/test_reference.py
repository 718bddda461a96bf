"""Tables of settings and metrics for a terminal: names are whole in any width."""

import pytest
from rich.console import Console

from worker.operations.reference import metrics_rows, settings_rows, terminal_table

ROWS = [
    {"setting": "kafka.group_id", "default": "genprint", "meaning": "Workers of one group share the partitions."},
    {"setting": "bundle", "default": "", "meaning": "Directory."},
]


def shown(width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(terminal_table(ROWS, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_narrow_terminal_has_a_block_for_each_row() -> None:
    assert shown(30) == [
        "kafka.group_id",
        "  default: genprint",
        "  meaning: Workers of one",
        "    group share the",
        "    partitions.",
        "",
        "bundle",
        "  meaning: Directory.",
        "",
    ]


@pytest.mark.parametrize(("width", "lines"), [(14 + 8 + 6 + 40, 7), (200, 6)])
def test_where_only_sentences_are_folded_it_is_a_table(width: int, lines: int) -> None:
    table = shown(width)
    assert len(table) == lines
    assert table[1].replace("┃", "").split() == ["setting", "default", "meaning"]
    assert table[3].startswith("│ kafka.group_id │ genprint │ Workers of one group")
    assert shown(14 + 8 + 6 + 39)[0] == "kafka.group_id"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("rows", [settings_rows(), metrics_rows()], ids=["settings", "metrics"])
def test_every_name_can_be_copied(rows: list[dict[str, str]], width: int) -> None:
    blocks = terminal_table(rows, width)
    assert isinstance(blocks, str)
    words = set(blocks.split())
    assert all({row[key] for key in ("setting", "metric", "variable") if key in row} <= words for row in rows)
    assert max(map(len, blocks.splitlines())) <= width
