"""The fuzzer: a short run of it, and that it notices what it is there for."""

import os
import signal
import threading
import zlib
from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest
import typer
from rich.console import Console

from tests.hostile.fuzz import Target, fuzz, main, targets
from tests.hostile.fuzz_records import WrongAnswer
from tests.hostile.images import chunk_places, mended, valid_images
from tests.hostile.judge import Finding, Spoil
from tests.hostile.mutate import Mutation
from worker.kafka import record_batches
from worker.kafka.record_batches import LenientBatch


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


@pytest.fixture(scope="module")
def known() -> dict[str, Target]:
    return targets()


@pytest.mark.parametrize(("name", "count"), [("image", 600), ("fetch", 200)])
def test_a_short_run_finds_nothing(known: dict[str, Target], name: str, count: int) -> None:
    outcomes, findings = fuzz(known[name], count, 1, 10.0, Console(file=StringIO()))
    assert not findings
    assert sum(sum(found.values()) for found in outcomes.values()) == count
    assert set(outcomes) == set(known[name].valid)
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
def test_it_notices_what_must_not_happen(known: dict[str, Target], spoil: Spoil, what: str) -> None:
    deadline_s = 0.5 if isinstance(spoil, Hangs) else 20.0
    _, findings = fuzz(known["image"], 1, 0, deadline_s, Console(file=StringIO()), spoil)
    assert [what in finding.what for finding in findings] == [True]


def test_it_notices_that_what_means_nothing_changes_what_comes_out(known: dict[str, Target]) -> None:
    images = known["image"]
    turned = replace(images, mutations=lambda _: iter([Mutation("png", images.valid["jpeg"], is_harmless=True)]))
    _, [finding] = fuzz(turned, 1, 0, 20.0, Console(file=StringIO()))
    assert finding == Finding("ok: not what comes out of png, which means the same", images.valid["jpeg"])


def test_it_notices_offsets_that_nobody_answers(known: dict[str, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    reading = known["fetch"].task
    fetched = known["fetch"].valid["gzip"]
    assert reading.run(fetched)[0] == "empty_event"
    monkeypatch.setattr(LenientBatch, "is_control_batch", True)
    with pytest.raises(WrongAnswer, match="offsets up to 0 of"):
        reading.run(fetched)


def test_it_notices_a_record_that_is_not_what_was_sent(
    known: dict[str, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_batches, "_taken", lambda record: record._replace(key=b"other", value=b"another"))
    with pytest.raises(WrongAnswer, match="the record at 7 is not what was sent"):
        known["fetch"].task.run(known["fetch"].valid["zstd"])


def test_a_finding_is_tried_again_by_its_file(known: dict[str, Target], tmp_path: Path) -> None:
    for name, target in known.items():
        path = tmp_path / f"good.{name}"
        path.write_bytes(next(iter(target.valid.values())))
        with pytest.raises(typer.Exit) as ended:
            main([path])
        assert ended.value.exit_code == 0


def test_checksums_are_mended_and_ancillary_chunks_are_found() -> None:
    harmed = bytearray(valid_images()["png-colours"])
    at = harmed.index(b"gAMA")
    harmed[at + 4 : at + 8] = bytes(4)
    assert mended(harmed)[at + 8 : at + 12] == zlib.crc32(b"gAMA" + bytes(4)).to_bytes(4)
    kinds = [bytes(harmed[place + 4 : place + 8]) for place in chunk_places(harmed)]
    assert kinds == [b"IHDR", b"cICP", b"iCCP", b"gAMA", b"cHRM", b"zTXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize("name", ["image", "fetch"])
def test_the_same_seed_gives_the_same_mutations(known: dict[str, Target], name: str) -> None:
    mutations = known[name].mutations
    assert list(islice(mutations(3), 50)) == list(islice(mutations(3), 50))
    assert list(islice(mutations(3), 50)) != list(islice(mutations(4), 50))
