"""The fuzzer: a short run of it, and that it notices what it is there for."""

import os
import signal
import threading
from io import StringIO
from itertools import islice

import pytest
from rich.console import Console

from tests.hostile.fuzz import fuzz, mutations
from tests.hostile.images import valid_images
from tests.hostile.judge import Spoil


class Hangs(Spoil):
    def __call__(self, data: bytes) -> None:  # noqa: ARG002 - planted for any image
        threading.Event().wait()


class Crashes(Spoil):
    def __call__(self, data: bytes) -> None:  # noqa: ARG002 - planted for any image
        os.kill(os.getpid(), signal.SIGSEGV)


class Fails(Spoil):
    def __call__(self, data: bytes) -> None:  # noqa: ARG002 - planted for any image
        raise ZeroDivisionError("planted")


class Swells(Spoil):
    def __call__(self, data: bytes) -> None:  # noqa: ARG002 - planted for any image
        bytearray(os.urandom(1)) * 300_000_000


def test_a_short_run_finds_nothing() -> None:
    outcomes, findings = fuzz(600, 1, 10.0, Console(file=StringIO()))
    assert not findings
    assert sum(sum(found.values()) for found in outcomes.values()) == 600
    assert set(outcomes) == set(valid_images())
    assert len({reason for found in outcomes.values() for reason in found}) >= 4


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (Hangs(), "no answer within 0.5 s"),
        (Crashes(), "SIGSEGV"),
        (Fails(), "ZeroDivisionError"),
        (Swells(), "MiB beyond"),
    ],
)
def test_it_notices_what_must_not_happen(spoil: Spoil, what: str) -> None:
    _, findings = fuzz(1, 0, 0.5 if isinstance(spoil, Hangs) else 20.0, Console(file=StringIO()), spoil)
    assert [what in finding.what for finding in findings] == [True]


def test_the_same_seed_gives_the_same_mutations() -> None:
    assert list(islice(mutations(3), 50)) == list(islice(mutations(3), 50))
    assert list(islice(mutations(3), 50)) != list(islice(mutations(4), 50))
