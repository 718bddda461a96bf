"""Names and errors as terminals may show them."""

import os
from pathlib import Path

import pytest

from bundle.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog 🐕.png", "a dog 🐕.png"),
        ("a\x1b[31m.png", r"a\x1b[31m.png"),
        ("two\nlines", r"two\nlines"),
        ("right\u202eto left", r"right\u202eto left"),
        (Path(os.fsdecode(b"caf\xe9.png")), r"caf\xe9.png"),
        ("half of a pair: \ud800", r"half of a pair: \ud800"),
        (ValueError("\x07"), r"\x07"),
    ],
)
def test_what_a_terminal_would_not_show_is_escaped(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode()
