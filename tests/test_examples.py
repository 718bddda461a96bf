"""The examples in docstrings, run as they are printed."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for part in ("bundle", "exporter", "genprint", "trainer", "worker")
    for path in sorted((ROOT / part).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    failed, tried = doctest.testmod(import_module(module))
    assert tried
    assert not failed


def test_the_functions_that_others_call_most_have_examples() -> None:
    assert {
        "bundle.preprocess",
        "bundle.scores",
        "bundle.templates",
        "trainer.evaluation.metrics",
        "trainer.training.losses",
    } <= set(MODULES)
