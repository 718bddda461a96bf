"""Which series an expression of PromQL reads; enough of its grammar for the expressions of our rules and dashboards."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(
    rf"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)|\{{(?P<matchers>(?:{_STRING}|[^}}\"])*)\}}|(?P<rest>{_STRING}|\[[^]]*\]|.)",
    re.DOTALL,
)
_MATCHER = re.compile(rf"([A-Za-z_][A-Za-z0-9_]*)\s*(?:=~|!~|!=|=)\s*{_STRING}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_OFFSET = re.compile(r"\boffset\s+\w+")
_WORDS = {"and", "or", "unless", "bool", "inf", "nan"}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric and the labels that it is asked for by."""

    metric: str
    labels: frozenset[str]


def selectors(expr: str) -> Iterator[Selector]:
    """In order; functions and aggregations are left out, since a parenthesis follows them."""
    text = _OFFSET.sub("", _GROUPING.sub("", expr))
    tokens = [found for found in _TOKEN.finditer(text) if not found[0].isspace()]
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        name = token["name"]
        before = text[token.start() - 1] if token.start() else ""
        if not name or before.isdigit() or name.lower() in _WORDS or (following is not None and following[0] == "("):
            continue
        matchers = following["matchers"] if following is not None else None
        yield Selector(name, frozenset(found[1] for found in _MATCHER.finditer(matchers or "")))


def grouped_by(expr: str) -> set[str]:
    """Labels that results are kept apart by or matched on."""
    found = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
    return {label.strip() for labels in found for label in labels.split(",") if label.strip()}
