"""The corpus through the worker's preparation, and through the whole worker."""

from collections import Counter
from collections.abc import Iterator

import pytest

from bundle.errors import ImageError
from tests.hostile.images import BROKEN, EMPTY, PIXELS, UNSUPPORTED, hostile_images
from tests.hostile.judge import Finding, Judge, Preparation
from tests.worker.pipeline.harness import make_worker
from tests.worker.small_bundle import small_bundle
from worker.errors import DecoderError
from worker.images.decoder_pool import DecoderPool
from worker.settings import Settings

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
CORPUS = list(hostile_images())


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    models = small_bundle(tmp_path_factory.mktemp("b") / "bundle").manifest.models
    with Judge(Preparation(models), DEADLINE_S) as judge:
        yield judge


def test_names_tell_entries_apart() -> None:
    assert max(Counter(entry.name for entry in CORPUS).values()) == 1
    assert len(CORPUS) > 1_000


@pytest.mark.parametrize("kind", ["cut", "whole"])
def test_each_becomes_what_it_must_within_its_deadline_and_its_memory(judge: Judge, kind: str) -> None:
    entries = [entry for entry in CORPUS if (" cut at " in entry.name) == (kind == "cut")]
    wrong: list[str] = []
    for entry, answer in zip(entries, judge.judge([entry.data for entry in entries]), strict=True):
        if isinstance(answer, Finding):
            wrong.append(f"{entry.name}: {answer.what}")
        elif answer.outcome not in entry.outcomes:
            wrong.append(f"{entry.name}: {answer.outcome} instead of {'/'.join(sorted(entry.outcomes))}")
    assert not wrong


def test_a_worker_answers_each_of_them_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = small_bundle(tmp_path_factory.mktemp("b") / "bundle")
    worker = make_worker(bundle)
    entries = [entry for number, entry in enumerate(CORPUS) if " cut at " not in entry.name or number % 10 == 0]
    for number, entry in enumerate(entries):
        worker.send(entry.data, number=number % 2)
    worker.answer(len(entries))
    verdicts = Counter(verdict["event"]["origin"] for verdict in worker.verdicts())
    letters = Counter(headers["genprint-origin"] for _, headers in worker.dead())
    answered = verdicts + letters
    assert len(answered) == len(entries)
    assert set(answered.values()) == {1}
    reasons = {headers["genprint-reason"] for _, headers in worker.dead()}
    assert reasons - {"invalid_output"} == {EMPTY, BROKEN, UNSUPPORTED, PIXELS}  # the small bundle's: black is NaN


def test_decoders_in_their_sandbox_say_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    ends: list[DecoderError] = []
    settings = Settings.model_validate({"images": {"decode_processes": 1}})
    decoders = DecoderPool(small_bundle(tmp_path_factory.mktemp("b") / "bundle"), settings, ends.append)
    decoders.start()
    wrong: list[str] = []
    for entry in CORPUS:
        try:
            decoders.prepare(entry.data)
            outcome = "ok"
        except (ImageError, DecoderError) as error:
            outcome = error.reason
        if outcome not in entry.outcomes:
            wrong.append(f"{entry.name}: {outcome} instead of {'/'.join(sorted(entry.outcomes))}")
    decoders.close()
    assert not wrong
    assert not ends
