"""The tree of errors: each has the disposition that the docstring draws, and its own label."""

import re
from collections.abc import Iterator

import pytest

import bundle.errors
import worker.errors
from worker.errors import Disposition, WorkerError


def family(parent: type[Exception]) -> Iterator[type[Exception]]:
    for child in parent.__subclasses__():
        yield child
        yield from family(child)


# name, and where the line says it, the disposition
DRAWN = re.findall(r"[├└]── (\w+)(?: +(reject|defer|retry|crash)\b)?", worker.errors.__doc__ or "")


def test_the_docstring_draws_every_class() -> None:
    assert sorted(name for name, _ in DRAWN) == sorted(cls.__name__ for cls in family(WorkerError))


@pytest.mark.parametrize(("name", "disposition"), [(n, d) for n, d in DRAWN if d])
def test_dispositions_are_as_drawn(name: str, disposition: str) -> None:
    cls: type[WorkerError] = getattr(worker.errors, name)
    for member in (cls, *family(cls)):
        assert issubclass(member, WorkerError)
        assert member.disposition is Disposition(disposition), member


def test_reasons_are_distinct_labels() -> None:
    leaves = [c for c in (*family(WorkerError), *family(bundle.errors.ImageError)) if not c.__subclasses__()]
    reasons = [getattr(leaf, "reason", "") for leaf in leaves]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", reason) and reason != "internal" for reason in reasons)
