"""Names and errors as terminals may show them."""

import os
from pathlib import Path

import pytest

from bundle.text import brief, counted, printable


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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("word", "'word'"),
        ([1, "a"], "[1, 'a']"),
        (16**10_000, "a number of many digits"),
    ],
    ids=["text", "list", "number"],
)
def test_short_values_are_shown_whole(value: object, shown: str) -> None:
    assert brief(value) == shown


@pytest.mark.parametrize("value", ["x" * 1000, [["x" * 1000] * 1000], {"a" * 100: "b" * 100, "c": "d" * 100}])
def test_long_values_are_cut(value: object) -> None:
    assert 60 <= len(brief(value)) <= 80


def test_numbers_agree_with_what_they_count() -> None:
    assert [counted(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
