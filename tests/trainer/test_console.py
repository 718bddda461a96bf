"""What is printed is shown as it is, and no terminal acts upon it."""

import os

import pytest
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from trainer.console import PlainConsole


def test_what_is_printed_is_escaped_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole()
    name = "a\x1b[31m [red] :smile: \udce9"
    table = Table(name, title=name)
    table.add_row(name)
    console.print(name)
    console.print(table)
    console.print(Text(name))
    console.print("two\nlines")
    shown = capsys.readouterr().out
    assert shown.count(r"a\x1b[31m [red] :smile: \xe9") == 5
    assert shown.endswith("\ntwo\nlines\n")
    assert "\x1b" not in shown


def test_colours_are_left_to_the_console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(os.environ, "FORCE_COLOR", "1")
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    console = PlainConsole()
    console.print("7 \x1b[31m", style="yellow")
    with Progress(console=console) as bars:
        bars.add_task("\x1b[31m", total=1)
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[33m7 \\x1b[31m\x1b[0m\n")
    assert shown.count("\x1b[31m") == 0
    assert "\x1b[?25l" in shown  # the bar's cursor
