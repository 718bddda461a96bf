"""The whole flow in one process: every event is answered once, in order, whatever it contains."""

import base64
import hashlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.errors import ImageError
from bundle.store import Bundle
from tests.worker.images.in_process import InProcess
from tests.worker.messages.edges import PARTITIONS, until
from tests.worker.pipeline.harness import DictionaryCache, Worker, make_worker
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.errors import DecoderCrashed, DeviceFailed, GroupUnstable, PublishAborted, PublishUncertain
from worker.images.files import read_file
from worker.images.prepare import PreparedImage
from worker.messages.events import ATTEMPT, NOT_BEFORE, ORIGIN, REASON
from worker.messages.records import Headers, Message, Partition, Progress, Record
from worker.pipeline.lanes import InFlight
from worker.scoring.cache import CachedScores


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


def committed(worker: Worker) -> dict[Partition, int]:
    return {partition: offset for (_, partition), offset in worker.edge.cluster.committed.items()}


def claim(uri: str, **more: Any) -> bytes:
    return json.dumps({"uri": uri, **more}).encode()


def test_every_event_is_answered_once_and_in_the_order_of_its_partition(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    for i in range(60):
        worker.send(encoded_image(40 if i % 3 else 220, seed=i), number=i % PARTITIONS)
    worker.answer(60)
    by_partition: dict[str, list[int]] = {}
    for verdict in worker.verdicts():
        partition, offset = verdict["event"]["origin"].rsplit("/", 1)
        by_partition.setdefault(partition, []).append(int(offset))
    assert by_partition == {"images/0": list(range(30)), "images/1": list(range(30))}
    assert committed(worker) == {Partition("images", 0): 30, Partition("images", 1): 30}
    assert len({verdict["verdict_id"] for verdict in worker.verdicts()}) == 60


def test_verdicts_say_what_the_bundle_says(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    for brightness in (40, 220, 127, 8):
        worker.send(encoded_image(brightness))
    worker.send(encoded_image(40, size=8))
    worker.answer(5)
    found = [(v["generated"]["decision"], v["attribution"]["source"], v["action"]) for v in worker.verdicts()]
    assert found == [
        ("real", None, "allow"),
        ("generated", "bright", "block"),
        ("unsure", None, "review"),
        ("real", None, "allow"),
        ("unsure", None, "review"),
    ]
    assert worker.verdicts()[2]["generated"]["reasons"] == ["detector_unsure"]
    small = worker.verdicts()[4]
    assert small["generated"]["reasons"] == ["image_too_small"]
    assert small["generated"]["probability"] is None
    assert small["attribution"]["candidates"] == []


def png_declaring(width: int, height: int) -> bytes:
    """A PNG with a valid header of 8-bit colour, and hardly any pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0])) + chunk(b"IDAT", zlib.compress(b"0"))


BAD = {
    "empty": (b"", "image/png"),
    "empty_event": (None, "image/png"),
    "broken_image": (encoded_image(40)[:200], "image/png"),
    "unsupported_format": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "too_many_pixels": (png_declaring(100_000, 100_000), "image/png"),
    "event_too_large": (bytes(2_000_000), "image/png"),
    "unknown_content_type": (b"hello", "text/plain"),
    "invalid_event": (b"{", "application/json"),
    "invalid_output": (encoded_image(0), "image/png"),
    "source_forbidden": (claim("http://169.254.169.254/latest?token=secret"), "application/json"),
    "source_refused": (claim("file:///nowhere/x.png"), "application/json"),
    "sha256_mismatch": (claim("file:///PLACE/good.png", sha256="0" * 64), "application/json"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_event_is_one_dead_letter_and_harms_nothing_else(bundle: Bundle, reason: str, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded_image(40))
    value, content_type = BAD[reason]
    if value is not None:
        value = value.replace(b"file:///PLACE", tmp_path.as_uri().encode())
    fetch = {"sources": (tmp_path.as_uri(), "file:///nowhere", "https://")}
    worker = make_worker(bundle, events={"inline_max_bytes": 1_000_000}, fetch=fetch)
    for seed in range(5):
        worker.send(encoded_image(40, seed=seed))
    worker.send(value, content_type, headers=(("x-own", b"\xff\x00"), ("x-null", None)))
    for seed in range(5, 10):
        worker.send(encoded_image(220, seed=seed))
    worker.answer(11)
    assert [v["generated"]["decision"] for v in worker.verdicts()] == ["real"] * 5 + ["generated"] * 5
    [(letter, headers)] = worker.dead()
    assert headers[REASON] == reason
    assert headers[ORIGIN] == "images/0/5"
    assert letter.value == (value or b"")
    assert letter.key == b"k"
    assert ("x-own", b"\xff\x00") in letter.headers
    assert "secret" not in headers["genprint-detail"]
    assert committed(worker) == {Partition("images", 0): 11}


def test_claim_checks_are_fetched_and_verified(bundle: Bundle, tmp_path: Path) -> None:
    data = encoded_image(220)
    (tmp_path / "a b.png").write_bytes(data)
    worker = make_worker(bundle, fetch={"sources": (tmp_path.as_uri(),)})
    uri = (tmp_path / "a b.png").as_uri()
    worker.send(claim(uri, sha256=hashlib.sha256(data).hexdigest()), "application/json; charset=utf-8")
    worker.answer(1)
    [verdict] = worker.verdicts()
    assert verdict["generated"]["decision"] == "generated"
    assert verdict["image"]["uri"] == uri
    assert verdict["image"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_unreachable_source_is_deferred_and_then_given_up(bundle: Bundle) -> None:
    worker = make_worker(bundle, fetch={"retry_delay_s": 0.2, "attempts": 3})
    value = claim("http://127.0.0.1:1/x.png")
    sent_ms = time.time_ns() // 1_000_000
    worker.send(value, "application/json", headers=(("traceparent", b"00-1-2-03"),))
    worker.send(encoded_image(40))
    worker.answer(2)
    [(letter, headers)] = worker.dead()
    assert (headers[REASON], headers[ATTEMPT], headers[ORIGIN]) == ("source_exhausted", "3", "images/0/0")
    assert letter.value == value
    assert NOT_BEFORE not in headers
    deferred = worker.stored("retry_topic")
    assert [dict(s.headers)[ATTEMPT] for s in deferred] == [b"2", b"3"]
    assert {dict(s.headers)[ORIGIN] for s in deferred} == {b"images/0/0"}
    assert all(s.value == value and s.key == b"k" for s in deferred)
    first, second = deferred
    due_ms = int(dict(first.headers)[NOT_BEFORE] or 0)
    assert due_ms >= sent_ms + 200
    assert second.timestamp_ms >= due_ms  # not tried before it was due


@pytest.mark.parametrize("leap_s", [-86_400.0, -30.0, 30.0, 86_400.0])
def test_a_clock_that_leaps_holds_up_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, leap_s: float) -> None:
    worker = make_worker(bundle, fetch={"retry_delay_s": 0.5, "attempts": 3})
    clock = time.time
    with worker.running():
        for seed in range(10):
            worker.send(claim("http://127.0.0.1:1/x.png"), "application/json")
            worker.send(encoded_image(40, seed=seed))
        worker.until(lambda: bool(worker.stored("retry_topic")), "a deferral")
        monkeypatch.setattr(time, "time", lambda: clock() + leap_s)
        for seed in range(10, 20):
            worker.send(encoded_image(40, seed=seed))
        worker.until(lambda: len(worker.outcomes()) == 30, "everything")
        assert worker.health.live() is None
    timings = [verdict["timing_ms"] for verdict in worker.verdicts()]
    assert all(0 <= each[name] < 172_800_000 for each in timings for name in ("queue", "fetch", "decode", "total"))
    assert len(worker.dead()) == 10


def test_a_source_that_denies_everything_costs_no_event_its_verdict(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights that are wrong reject no stream; one object that is denied is rejected after its attempts."""
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(encoded_image(220))
    denied = {*names}

    def read(path: str, folders: Sequence[str], limit: int) -> bytes:
        if Path(path).name in denied:
            raise PermissionError
        return read_file(path, folders, limit)

    monkeypatch.setattr("worker.images.fetch.read_file", read)
    worker = make_worker(
        bundle, fetch={"sources": (tmp_path.as_uri(),), "retry_delay_s": 0.1, "attempts": 3, "patience_s": 60}
    )
    for name in names:
        worker.send(claim((tmp_path / name).as_uri()), "application/json")
    with worker.running():
        many = 12 * 6  # twice what their attempts would allow
        worker.until(lambda: len(worker.stored("retry_topic")) >= many, "deferrals")
        assert worker.dead() == []
        assert worker.metrics.registry.get_sample_value("genprint_sources_unreadable") == 1
        assert "file://" in (worker.health.ready() or "")
        worker.send(encoded_image(40))
        worker.until(lambda: len(worker.verdicts()) == 1, "events from elsewhere")
        denied.intersection_update(names[:1])
        worker.until(lambda: len(worker.outcomes()) == 13, "everything")
        worker.until(lambda: worker.health.ready() is None, "readiness")
    [(_, headers)] = worker.dead()
    assert headers[REASON] == "source_exhausted"
    assert headers[ORIGIN] == "images/0/0"


def test_a_deferred_event_is_answered_when_its_source_is_back(bundle: Bundle, tmp_path: Path) -> None:
    # Only workers write to the retry topic, so origin and attempt are trusted.
    (tmp_path / "x.png").write_bytes(encoded_image(220))
    worker = make_worker(bundle, fetch={"sources": (tmp_path.as_uri(),)})
    headers = (
        ("content-type", b"application/json"),
        (ORIGIN, b"images/1/77"),
        (ATTEMPT, b"2"),
        (NOT_BEFORE, b"0"),
    )
    value = claim((tmp_path / "x.png").as_uri())
    worker.edge.produce("images.retry", key=b"k", value=value, headers=headers, number=0)
    worker.answer(1)
    [verdict] = worker.verdicts()
    assert (verdict["event"]["origin"], verdict["event"]["attempt"]) == ("images/1/77", 2)


def test_an_aborted_publication_is_repeated_once_it_works(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    worker.broker.failures = [PublishAborted("first"), PublishAborted("second")]
    for seed in range(20):
        worker.send(encoded_image(40, seed=seed))
    worker.answer(20)
    assert len(worker.verdicts()) == 20
    assert worker.metrics.publications.labels("aborted")._value.get() == 2


def test_a_rebalance_has_time_to_end_while_there_is_no_room(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 2})
    poll, publish = worker.broker.poll, worker.broker.publish
    refused, waited = threading.Event(), threading.Event()

    def polled(timeout_s: float) -> list[Record]:
        if refused.is_set() and timeout_s > 0.1:  # without time, kafka-python never joins its group
            waited.set()
        return poll(timeout_s)

    def published(progress: Sequence[Progress]) -> None:
        if not waited.is_set():
            refused.set()
            raise GroupUnstable("the group is rebalancing")
        publish(progress)

    monkeypatch.setattr(worker.broker, "poll", polled)
    monkeypatch.setattr(worker.broker, "publish", published)
    for seed in range(6):
        worker.send(encoded_image(40, seed=seed))
    worker.answer(6)
    assert len(worker.verdicts()) == 6


def test_while_no_decoder_works_the_worker_is_not_ready(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    stages, health = worker.pipeline._stages, worker.pipeline._health
    working = stages._decoders
    assert isinstance(working, InProcess)
    stages._decoders = replace(working, waiting=1)
    with worker.running():
        until(lambda: "no decoder works" in (health.ready() or ""), "the pause has been noticed")
        assert health.live() is None
        stages._decoders = working
        until(lambda: health.ready() is None, "it is ready again")


def test_an_uncertain_publication_ends_the_worker(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    worker.broker.failures = [PublishUncertain("who knows")]
    worker.send(encoded_image(40))
    with pytest.raises(PublishUncertain):
        worker.answer(1000)
    assert committed(worker) == {}


def test_a_failed_device_ends_the_worker_uncommitted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle)

    def gone(*_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(worker.engine, "run", gone)
    worker.send(encoded_image(40))
    with pytest.raises(DeviceFailed, match="CUDA failure 700"):
        worker.answer(1000)
    assert committed(worker) == {}


def test_one_image_that_breaks_the_batch_is_rejected_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle)
    original = worker.engine.run

    def run(model: Any, views: Any) -> Any:
        if (np.abs(views.mean(axis=(1, 2, 3)) - 99) < 1).any():
            raise ValueError("this one")
        return original(model, views)

    monkeypatch.setattr(worker.engine, "run", run)
    for i in range(16):
        worker.send(encoded_image(99 if i == 5 else 40, seed=i))
    worker.answer(16)
    [(_, headers)] = worker.dead()
    assert (headers[REASON], headers[ORIGIN]) == ("inference_failed", "images/0/5")


def test_a_dead_letter_that_does_not_fit_becomes_a_pointer(bundle: Bundle) -> None:
    limits: dict[str, Any] = {"kafka": {"max_message_bytes": 50_000}, "events": {"inline_max_bytes": 40_000}}
    worker = make_worker(bundle, **limits)
    worker.send(bytes(60_000))
    worker.send(encoded_image(40))
    worker.answer(2)
    [(letter, headers)] = worker.dead()
    assert letter.value == b""
    assert json.loads(headers["genprint-encoding"]) == {"omitted_value_bytes": 60_000}
    assert headers[ORIGIN] == "images/0/0"


def of_offsets(worker: Worker, topic: str, *offsets: int) -> Callable[[Message], bool]:
    """Whether a message of a topic, by the name of its setting, answers one of these offsets of images/0."""
    name, origins = getattr(worker.settings.kafka, topic), {f"images/0/{offset}" for offset in offsets}

    def found(message: Message) -> bool:
        headers = dict(message.headers)
        origin = headers[ORIGIN].decode() if ORIGIN in headers else json.loads(message.value)["event"]["origin"]
        return message.topic == name and origin in origins

    return found


def test_an_event_whose_verdict_is_refused_is_rejected_and_no_other(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    images = [encoded_image(40, seed=i) for i in range(60)]
    for i, image in enumerate(images):
        worker.send(image, number=i % PARTITIONS)
    worker.broker.refuses = of_offsets(worker, "verdicts_topic", 7)
    worker.answer(60)
    [(letter, headers)] = worker.dead()
    assert (headers[REASON], headers[ORIGIN], letter.value) == ("answer_refused", "images/0/7", images[14])
    origins = [verdict["event"]["origin"] for verdict in worker.verdicts()]
    assert len(set(origins)) == len(origins) == 59
    assert committed(worker) == {Partition("images", 0): 30, Partition("images", 1): 30}
    refused = worker.metrics.registry.get_sample_value("genprint_answers_refused_total", {"topic": "verdicts"})
    assert refused == 1


def test_letters_that_are_refused_become_pointers(bundle: Bundle) -> None:
    worker = make_worker(bundle)
    for i in range(4):
        worker.send(b"no image %d" % i)
    worker.broker.refuses = lambda message: bool(message.value)
    worker.answer(4)
    assert [letter.value for letter, _ in worker.dead()] == [b""] * 4
    assert [headers[ORIGIN] for _, headers in worker.dead()] == [f"images/0/{offset}" for offset in range(4)]


def test_what_cannot_be_answered_otherwise_waits_and_holds_up_its_partition_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.pipeline._REFUSED_DELAY_S", 0.2)
    worker = make_worker(bundle, pipeline={"max_in_flight": 8})  # its own partition alone would fill them
    for i in range(20):
        worker.send(b"" if i == 3 else encoded_image(40, seed=i), number=0)
        worker.send(encoded_image(90, seed=i), number=1)
    refused = of_offsets(worker, "dead_topic", 3)
    worker.broker.refuses = refused
    tick = threading.Event()
    with worker.running():
        worker.until(lambda: len(worker.outcomes()) >= 23, "all but one partition's rest")
        tick.wait(0.5)
        assert len(worker.outcomes()) == 23
        worker.broker.refuses = lambda _: False
        worker.until(lambda: len(worker.outcomes()) >= 40, "the rest")
    [(_, headers)] = worker.dead()
    assert headers[ORIGIN] == "images/0/3"
    assert len({verdict["verdict_id"] for verdict in worker.verdicts()}) == 39


def test_a_topic_that_takes_no_verdict_costs_few_events_theirs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pipeline.pipeline._REFUSED_DELAY_S", 0.1)
    worker = make_worker(bundle)
    for i in range(30):
        worker.send(encoded_image(40, seed=i), number=i % PARTITIONS)
    worker.broker.refuses = lambda message: message.topic == worker.settings.kafka.verdicts_topic
    tick = threading.Event()
    with worker.running():
        worker.until(lambda: len(worker.dead()) >= 3, "the first")
        tick.wait(0.5)
        assert len(worker.dead()) == 3
        worker.broker.refuses = lambda _: False
        worker.until(lambda: len(worker.outcomes()) >= 30, "the others")
    assert len(worker.verdicts()) == 27


def test_cached_images_get_a_new_verdict_without_new_scores(bundle: Bundle) -> None:
    cache = DictionaryCache()
    first = make_worker(bundle, cache)
    first.send(encoded_image(150))
    first.answer(1)
    second = make_worker(bundle, cache, policy={"prior_generated": 0.01})
    second.send(encoded_image(150))
    second.answer(1)
    [before], [after] = first.verdicts(), second.verdicts()
    assert (before["cached"], after["cached"]) == (False, True)
    assert after["generated"]["scores"][0]["logit"] == before["generated"]["scores"][0]["logit"]
    assert (before["generated"]["decision"], after["generated"]["decision"]) == ("generated", "unsure")
    assert after["generated"]["probability"] < 0.3 < before["generated"]["probability"]
    assert after["image"] == before["image"]


def test_only_the_pipelines_thread_writes_to_events_in_flight(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writers: list[str] = []
    write = InFlight.__setattr__

    def noting(item: InFlight, name: str, value: object) -> None:
        writers.append(threading.current_thread().name)
        write(item, name, value)

    monkeypatch.setattr(InFlight, "__setattr__", noting)
    (tmp_path / "x.png").write_bytes(encoded_image(220))
    worker = make_worker(bundle, DictionaryCache(), fetch={"sources": (tmp_path.as_uri(),)})
    for seed in (1, 2, 1):  # the last is known to the cache, or is not yet
        worker.send(encoded_image(40, seed=seed))
    worker.send(claim((tmp_path / "x.png").as_uri()), "application/json")
    worker.send(claim((tmp_path / "nowhere.png").as_uri()), "application/json")
    worker.send(encoded_image(40)[:100])
    worker.send(encoded_image(0))
    worker.answer(7)
    assert len(set(writers)) == 1


def test_timings_of_a_fetched_image_are_those_of_its_stages(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded_image(220))
    worker = make_worker(bundle, fetch={"sources": (tmp_path.as_uri(),)})
    worker.send(claim((tmp_path / "x.png").as_uri()), "application/json")
    worker.send(encoded_image(40))
    worker.answer(2)
    fetched, inline = (verdict["timing_ms"] for verdict in worker.verdicts())
    assert min(fetched[stage] for stage in ("fetch", "decode", "inference")) > 0
    assert fetched["total"] >= fetched["fetch"] + fetched["decode"] + fetched["inference"] - 1
    assert inline["fetch"] == 0
    for stage, count in (("fetch", 1), ("decode", 2), ("inference", 2), ("total", 2)):
        found = worker.metrics.registry.get_sample_value("genprint_stage_seconds_count", {"stage": stage})
        assert found == count
    assert fetched["clock"] == inline["clock"] == "producer"
    assert worker.metrics.registry.get_sample_value("genprint_producer_timestamps_total") == 2


def test_a_slow_cache_loses_writes_and_holds_up_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pipeline.stages._MAX_PENDING_WRITES", 2)
    go_on, tick = threading.Event(), threading.Event()

    class SlowCache(DictionaryCache):
        def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
            go_on.wait(30)
            super().put(entries)

    cache = SlowCache()
    worker = make_worker(bundle, cache, inference={"batch_size": 1})
    for seed in range(6):
        worker.send(encoded_image(40, seed=seed))
    with worker.running():
        until(lambda: len(worker.verdicts()) == 6 or tick.wait(0.01), "six verdicts")
        go_on.set()
        until(lambda: len(cache.entries) == 2 or tick.wait(0.01), "the two writes that were pending")
        worker.send(encoded_image(40, seed=6))
        until(lambda: len(cache.entries) == 3 or tick.wait(0.01), "a write with a free slot")


def test_backlog_is_admitted_within_the_limit(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 5})
    most = 0
    original = worker.engine.score

    def score(images: Any, upload: Any) -> Any:
        nonlocal most
        most = max(most, int(worker.metrics.in_flight._value.get()))
        return original(images, upload)

    monkeypatch.setattr(worker.engine, "score", score)
    for i in range(80):
        worker.send(encoded_image(40, seed=i), number=i % PARTITIONS)
    worker.answer(80)
    assert len(worker.verdicts()) == 80
    assert 0 < most <= 5


@pytest.mark.parametrize("fails", [False, True])
def test_without_room_an_answer_or_a_failure_wakes_the_worker(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("worker.pipeline.pipeline._IDLE_POLL_S", 600.0)
    worker = make_worker(bundle, pipeline={"max_in_flight": 1})

    def gone(*_: object) -> None:
        raise DeviceFailed("gone")

    if fails:
        monkeypatch.setattr(worker.engine, "score", gone)
    for i in range(3):
        worker.send(encoded_image(40, seed=i))
    with pytest.raises(DeviceFailed) if fails else nullcontext():
        worker.answer(3)
    assert len(worker.verdicts()) == (0 if fails else 3)


def test_stopping_finishes_what_is_in_flight(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 8})
    reached, go_on = threading.Event(), threading.Event()
    original = worker.engine.score

    def score(images: Any, upload: Any) -> Any:
        reached.set()
        go_on.wait(10)
        return original(images, upload)

    monkeypatch.setattr(worker.engine, "score", score)
    for i in range(50):
        worker.send(encoded_image(40, seed=i))
    with worker.running() as stop:
        until(lambda: reached.wait(0.1), "a batch in inference")
        stop.set()
        go_on.set()
    answered = len(worker.verdicts())
    assert 1 <= answered <= 8
    assert committed(worker) == {Partition("images", 0): answered}


def test_what_was_taken_away_meanwhile_is_not_published(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(bundle)
    other, tick = worker.edge.broker(), threading.Event()
    original = worker.engine.score

    def score(images: Any, upload: Any) -> Any:
        if not other.joined():
            other.start()  # the worker's next poll gives it every other partition
            until(lambda: len(worker.broker.owned()) == 2 or tick.wait(0.01), "partitions taken away")
        return original(images, upload)

    monkeypatch.setattr(worker.engine, "score", score)
    for i in range(20):
        worker.send(encoded_image(40, seed=i), number=i % PARTITIONS)
    worker.answer(10)
    assert {v["event"]["origin"].rsplit("/", 1)[0] for v in worker.verdicts()} == {"images/0"}
    assert len(worker.verdicts()) == 10
    assert len([record for record in other.poll(0) if record.partition.topic == "images"]) == 10


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of an image on a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/image.png"


def test_events_of_a_silent_host_are_deferred_once_others_wait_behind_them(bundle: Bundle) -> None:
    worker = make_worker(
        bundle,
        pipeline={"max_in_flight": 8},
        fetch={"deadline_s": 60, "patience_s": 0.05, "retry_delay_s": 60, "per_host": 2},
    )
    with silent_server() as uri:
        for i in range(40):
            worker.send(claim(uri), "application/json")
            worker.send(encoded_image(40, seed=i))
        worker.answer(40)
    assert len(worker.verdicts()) == 40
    deferred = worker.stored("retry_topic")
    assert len(deferred) >= 39  # nothing waits behind the last, which may still be in flight when it ends
    reasons = {dict(letter.headers)[REASON] for letter in deferred}
    assert reasons == {b"source_unavailable", b"source_busy"}


def test_where_nothing_waits_behind_it_a_fetch_has_all_its_time(bundle: Bundle) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 4}, fetch={"deadline_s": 0.5, "patience_s": 0.01})
    began = time.monotonic()
    with silent_server() as uri:
        for _ in range(8):
            worker.send(claim(uri), "application/json")
        tick = threading.Event()
        with worker.running():
            until(lambda: bool(worker.stored("retry_topic")) or tick.wait(0.01), "a deferral")
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("attempts", [1, 5])
def test_one_tenants_backlog_makes_way_for_another(bundle: Bundle, attempts: int) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 8}, fetch={"attempts": attempts})
    tenants = ["b", *["a"] * 60, "b"]
    for i, tenant in enumerate(tenants):
        worker.send(
            encoded_image(40, seed=i),
            headers=(("ce_tenant", tenant.encode()), ("ce_id", b"%d" % i), ("ce_source", b"s")),
        )
    worker.answer(len(tenants))
    verdicts = worker.verdicts()
    assert sorted(int(v["event"]["id"]) for v in verdicts) == list(range(len(tenants)))
    order = [v["event"]["attributes"]["tenant"] for v in verdicts]
    behind = [i for i, tenant in enumerate(order) if tenant == "b"]
    assert behind[-1] < 40  # it arrived as the 62nd
    assert {v["event"]["attempt"] for v in verdicts if v["event"]["attributes"]["tenant"] == "b"} == {1}
    assert {v["event"]["attempt"] for v in verdicts} == {1, 2}  # 2: was deferred; none was deferred twice


@dataclass(frozen=True)
class SlowOnSome(InProcess):
    """Images of these bytes take so many seconds; for ever, without a number."""

    slow: frozenset[bytes] = frozenset()
    takes_s: float | None = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def prepare(self, data: bytes) -> PreparedImage:
        if data in self.slow:
            self.stop.wait(self.takes_s)
        return super().prepare(data)

    def close(self) -> None:
        self.stop.set()


@dataclass(frozen=True)
class EndsTogether(InProcess):
    """A decoder ends whenever it gets several images, and on these also when they are alone."""

    harmful: frozenset[bytes] = frozenset()
    together: list[bytes] = field(default_factory=list)

    def prepare_small(self, images: Sequence[bytes]) -> list[PreparedImage | ImageError | None]:
        self.together.extend(images)
        return [None] * len(images)

    def prepare(self, data: bytes) -> PreparedImage:
        if data in self.harmful:
            raise DecoderCrashed("it ended")
        return super().prepare(data)


def test_images_on_which_a_decoder_ended_together_are_decoded_alone(bundle: Bundle) -> None:
    images = [encoded_image(40, seed=seed) for seed in range(40)]
    decoders = EndsTogether(bundle.manifest.models, harmful=frozenset(images[7:9]))
    worker = make_worker(bundle, decoders=decoders)
    for image in images:
        worker.send(image)
    worker.answer(40)
    assert len(worker.verdicts()) == 38
    reasons = [dict(letter.headers)["genprint-reason"] for letter in worker.stored("dead_topic")]
    assert reasons == [b"decoder_crashed"] * 2
    assert decoders.together
    assert len(set(decoders.together)) == len(decoders.together)


def of_tenant(tenant: bytes, number: int) -> Headers:
    return (("ce_tenant", tenant), ("ce_id", b"%d" % number), ("ce_source", tenant))


def test_a_backlog_that_is_worked_off_is_no_stall_and_one_that_is_not_is(bundle: Bundle) -> None:
    images = [encoded_image(40, seed=seed) for seed in range(80)]
    slow = SlowOnSome(bundle.manifest.models, slow=frozenset(images), takes_s=0.05)
    worker = make_worker(bundle, decoders=slow, pipeline={"stall_s": 0.8})
    for image in images:
        worker.send(image)
    tick = threading.Event()
    with worker.running():  # the last one waits for two seconds
        worker.until(lambda: worker.health.live() is not None or len(worker.verdicts()) >= 80, "verdicts")
        assert worker.health.live() is None

    hanging = SlowOnSome(bundle.manifest.models, slow=frozenset(images[:1]), takes_s=None)
    worker = make_worker(bundle, decoders=hanging, pipeline={"stall_s": 0.8})
    for image in images:
        worker.send(image)
    with worker.running():
        until(lambda: "stands still" in (worker.health.live() or "") or tick.wait(0.01), "a stall")


@pytest.mark.parametrize("partition", [0, 1])
def test_a_tenant_whose_images_take_long_does_not_hold_up_the_others(bundle: Bundle, partition: int) -> None:
    """In a partition of their own, and in one with those."""
    slow = [encoded_image(40, seed=seed) for seed in range(40)]
    decoders = SlowOnSome(bundle.manifest.models, slow=frozenset(slow), takes_s=0.2)
    worker = make_worker(bundle, decoders=decoders, fetch={"deadline_s": 0.5, "patience_s": 0.05})
    worker.send(encoded_image(40, seed=1000), headers=of_tenant(b"b", 0), number=partition)
    for number, image in enumerate(slow):
        worker.send(image, headers=of_tenant(b"a", number), number=0)
    for number in range(1, 30):
        worker.send(encoded_image(40, seed=1000 + number), headers=of_tenant(b"b", number), number=partition)
    worker.answer(70)
    tenants = [verdict["event"]["attributes"]["tenant"] for verdict in worker.verdicts()]
    assert (tenants.count("a"), tenants.count("b")) == (40, 30)
    last = max(place for place, tenant in enumerate(tenants) if tenant == "b")
    assert tenants[:last].count("a") < 15  # the others take 2.5 s and more
    deferred = {dict(letter.headers)["ce_tenant"] for letter in worker.stored("retry_topic")}
    assert deferred == (set() if partition else {b"a"})


def test_what_does_not_fit_into_a_deferral_waits_for_its_tenants_share(bundle: Bundle) -> None:
    limits: dict[str, Any] = {"kafka": {"max_message_bytes": 20_000}, "events": {"inline_max_bytes": 20_000}}
    worker = make_worker(bundle, pipeline={"max_in_flight": 8}, **limits)
    image = encoded_image(40) + bytes(15_000)
    event = {"id": "1", "source": "s", "specversion": "1.0", "type": "t", "datacontenttype": "image/png"}
    value = json.dumps({**event, "tenant": "a", "data_base64": base64.b64encode(image).decode()}).encode()
    assert len(value) > 20_000
    worker.send(encoded_image(40, seed=1), headers=of_tenant(b"b", 0))
    for _ in range(20):
        worker.send(value, "application/cloudevents+json")
    worker.send(encoded_image(40, seed=2), headers=of_tenant(b"b", 1))
    worker.answer(22)
    assert len(worker.verdicts()) == 22
    assert not worker.stored("retry_topic")
    refused = worker.metrics.registry.get_sample_value("genprint_answers_refused_total", {"topic": "images.retry"})
    assert refused == 0


def test_events_of_a_tenant_that_is_alone_are_not_deferred(bundle: Bundle) -> None:
    worker = make_worker(bundle, pipeline={"max_in_flight": 8})
    for i in range(40):
        worker.send(encoded_image(40, seed=i), headers=(("ce_tenant", b"a"), ("ce_id", b"%d" % i), ("ce_source", b"s")))
    worker.answer(40)
    assert not worker.stored("retry_topic")
