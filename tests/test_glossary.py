"""The glossary: in alphabetical order, every name in it is there, and the code uses no word that it has replaced."""

import ast
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from bundle.manifest import Manifest
from worker.messages.verdict import Verdict
from worker.operations.reference import settings_rows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "glossary.md"
ROOTS: dict[str, type[Any]] = {"Verdict": Verdict, "Manifest": Manifest}
SETTINGS = {row["setting"] for row in settings_rows()}
PARTS = ("bundle", "worker", "trainer", "exporter", "genprint", "deploy")
MODULES = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]

REPLACED = {
    "as_written": "pristine",
    "Asked": "TopicRequest",
    "_greet": "_probe_cluster",
    "handled": "degraded",
    "How": "TemplateMethod",
    "_hurry": "_defer_blocking_fetches",
    "Judged": "LabelMatches, FloorPrediction",
    "_knock": "_probe_server",
    "_lose_no_request": "_retry_dropped_request",
    "_make_way": "_release_stalled_fetch",
    "Picture": "CorpusImage",
    "say_left_out": "report_skipped",
    "Skill": "ClassifierScore",
    "take_up": "admit",
    "Told": "Separability",
    "turned_away": "access denied",
    "usual": "default_template_method",
}
"""Identifiers that said less than the word behind them; in lower case also as a part of longer ones."""


def rows() -> list[tuple[str, str, list[str]]]:
    """Word, meaning and names in the code."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [(word, meaning, re.findall(r"`([^`]+)`", names)) for word, meaning, names in cells]


def is_there(name: str) -> bool:
    """Whether it is a setting, a field of a verdict or manifest, a module, or something in a module."""
    if name in SETTINGS:
        return True
    first, *rest = name.split(".")
    if first in ROOTS:
        return has_fields(ROOTS[first], rest)
    for count in range(len(rest) + 1, 0, -1):
        module = ".".join([first, *rest][:count])
        if is_module(module):
            last = [first, *rest][count:]
            return not last or _has_names(import_module(module), last)
    return False


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _has_names(module: Any, names: list[str]) -> bool:
    found = getattr(module, names[0], None)
    if len(names) == 1:
        return found is not None
    return isinstance(found, type) and (hasattr(found, names[1]) or has_fields(found, names[1:]))


def has_fields(kind: Any, names: list[str]) -> bool:
    """Whether each is a field or property of the one before it, also of what a list or an optional field holds."""
    if not names:
        return True
    for inner in _classes(kind):
        hints = get_type_hints(inner)
        if names[0] in hints and has_fields(hints[names[0]], names[1:]):
            return True
        if len(names) == 1 and isinstance(getattr(inner, names[0], None), property):
            return True
    return False


def _classes(kind: Any) -> Iterator[type[Any]]:
    if get_origin(kind) in (Annotated, Union, UnionType, tuple, list, dict):
        for part in get_args(kind):
            yield from _classes(part)
    elif isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel)):
        yield kind


@cache
def identifiers(path: Path) -> frozenset[str]:
    """All names that a module defines or uses."""
    return frozenset(
        value
        for node in ast.walk(ast.parse(path.read_text()))
        for field in ("id", "attr", "arg", "name", "asname")
        if isinstance(value := getattr(node, field, None), str)
    )


def says(identifier: str, word: str) -> bool:
    """Whether an identifier is a word, or in lower case has it among its own words."""
    padded = f"_{identifier.lower().strip('_')}_"
    return identifier == word or (word.islower() and f"_{word.strip('_')}_" in padded)


def test_there_is_something_to_read() -> None:
    words = {word for word, _, _ in rows()}
    assert {"claim check", "degraded", "verdict"} <= words
    assert len(words) == len(rows()) > 50


def test_words_are_in_alphabetical_order_and_explained_in_a_sentence() -> None:
    words = [word for word, _, _ in rows()]
    assert words == sorted(words, key=str.lower)
    assert not [word for word, meaning, _ in rows() if not meaning.endswith(".") or len(meaning) < 15]


@pytest.mark.parametrize("name", sorted({name for _, _, names in rows() for name in names}))
def test_a_name_is_there(name: str) -> None:
    assert is_there(name)


@pytest.mark.parametrize(
    "name",
    [
        "Verdict.attribution.sauce",
        "Verdict.generated.scores.logits",
        "Manifest.templates.beta",
        "Manifest.creator",
        "worker.messages.verdicts.Verdict",
        "worker.messages.verdict.Verdicts",
        "trainer.data.entries.Entry.splits",
        "kafka.delivered",
        "nowhere",
    ],
)
def test_a_name_that_is_not_there_is_noticed(name: str) -> None:
    assert not is_there(name)


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_is_gone(word: str) -> None:
    found = {f"{path.relative_to(ROOT)}: {name}" for path in MODULES for name in identifiers(path) if says(name, word)}
    assert not found, f"{word}: now {REPLACED[word]}"


def test_only_the_decision_on_an_image_is_called_judging() -> None:
    """Other functions and classes say what they do: attribute, predict, match."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and re.fullmatch(r"_*judged?s?", node.name, re.IGNORECASE)
    }
    assert found == {"worker/decision/table.py"}


@pytest.mark.parametrize(
    ("identifier", "word", "expected"),
    [
        ("handled", "handled", True),
        ("_HANDLED_INSIDE", "handled", True),
        ("tell_handled", "handled", True),
        ("unhandled", "handled", False),
        ("TURNED_AWAY", "turned_away", True),
        ("How", "How", True),
        ("how", "How", False),
        ("_greet", "_greet", True),
    ],
)
def test_words_within_identifiers(identifier: str, word: str, *, expected: bool) -> None:
    assert says(identifier, word) is expected
