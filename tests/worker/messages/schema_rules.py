"""Which changes to a published schema break programs that rely on it.

There are two sides. Others read what the worker *writes* (verdicts, headers): it may become narrower and gain fields,
so that everything written was announced. Others write what the worker *reads* (events): it may become wider, so that
everything they send is still accepted. On either side a field that is gone, a value that is gone from an open enum, and
an enum that is closed are breaks. A program cannot tell whether the meaning of a word has changed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

Schema = Mapping[str, Any]
Side = Literal["written", "read"]

_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_DESCRIPTIVE = {"$schema", "$defs", "$ref", "title", "description", "examples"}
_BELOW = ("items", "additionalProperties", "contentSchema")
_COMPARED = {"type", "properties", "required", "enum", "const", *_BELOW}
_ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})


def breaks(published: Schema, current: Schema, side: Side) -> list[str]:
    """Each break as ``path: what``, sorted; empty if programs that rely on ``published`` still work.

    A schema without properties of its own is a collection: its ``$defs`` are compared by name.
    """
    found = _Comparison(published, current, side)
    wrong = list(found.compare(published, current, "$"))
    if "properties" not in published:
        for name, part in published.get("$defs", {}).items():
            now = current.get("$defs", {}).get(name)
            wrong += [f"{name}: gone"] if now is None else found.compare(part, now, name)
    return sorted(set(wrong))


class _Comparison:
    def __init__(self, published: Schema, current: Schema, side: Side) -> None:
        self._roots = published, current
        self._side = side

    def compare(self, published: Schema, current: Schema, path: str) -> Iterator[str]:
        old, new = (_resolved(part, root) for part, root in zip((published, current), self._roots, strict=True))
        yield from self._types(old, new, path)
        yield from self._values(old, new, path)
        yield from self._rules(old, new, path)
        yield from self._properties(old, new, path)
        for keyword in _BELOW:
            yield from self._below(old.get(keyword, True), new.get(keyword, True), f"{path}.{keyword}")

    def _types(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, now = _types(old), _types(new)
        if self._side == "written" and (added := now - before):
            yield f"{path}: may now be {', '.join(sorted(added))}"
        if self._side == "read" and (lost := before - now):
            yield f"{path}: may no longer be {', '.join(sorted(lost))}"

    def _values(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        for closed in ("enum", "const"):
            if old.get(closed) != new.get(closed):
                yield f"{path}: {closed} was {old.get(closed, 'open')}, is {new.get(closed, 'open')}"
        if gone := [value for value in old.get("examples", ()) if value not in new.get("examples", ())]:
            yield f"{path}: value gone: {', '.join(map(str, gone))}"

    def _rules(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        """Bounds are compared by size, all other keywords for equality, since patterns cannot be compared."""
        for keyword in sorted((old.keys() | new.keys()) - _DESCRIPTIVE - _COMPARED):
            before, now = old.get(keyword), new.get(keyword)
            narrow, wide = (now, before) if self._side == "written" else (before, now)
            if before == now or wide is None:
                continue
            in_order = narrow is not None and (
                (keyword in _LOWER and narrow >= wide) or (keyword in _UPPER and narrow <= wide)
            )
            if not in_order:
                yield f"{path}: {keyword} was {before}, is {now}"

    def _properties(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, now = old.get("properties", {}), new.get("properties", {})
        for name, part in before.items():
            if name in now:
                yield from self.compare(part, now[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: gone"
        required = set(old.get("required", ())), set(new.get("required", ()))
        if self._side == "written":
            yield from (f"{path}.{name}: no longer always there" for name in required[0] - required[1])
        else:
            yield from (f"{path}.{name}: now required" for name in required[1] - required[0])

    def _below(self, old: Schema | bool, new: Schema | bool, path: str) -> Iterator[str]:
        """Compare keywords whose schema may be left out: true allows everything, false leaves no room to grow."""
        match (old, new):
            case (bool(), bool()):
                if old is not new:
                    yield f"{path}: was {old}, is {new}"
            case (True, _):
                if self._side == "read":
                    yield f"{path}: no longer free"
            case (_, bool()):
                if self._side == "written" or new is False:
                    yield f"{path}: was described, is {new}"
            case _:
                assert not isinstance(old, bool)
                assert not isinstance(new, bool)
                yield from self.compare(old, new, path)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema with its ``$ref`` resolved; ``anyOf`` a schema and null becomes that schema with two types."""
    while "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    options = schema.get("anyOf", ())
    others = [option for option in options if option.get("type") != "null"]
    if len(options) == len(others) + 1 == 2:
        other = _resolved(others[0], root)
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**other, **rest, "type": sorted({*_named(other), "null"})}
    return schema


def _named(schema: Schema) -> set[str]:
    named = schema.get("type", sorted(_ALL_TYPES))
    return {named} if isinstance(named, str) else set(named)


def _types(schema: Schema) -> frozenset[str]:
    """Types by name; a number may be an integer."""
    named = _named(schema)
    return frozenset(named | {"integer"} if "number" in named else named)
