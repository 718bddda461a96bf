"""Latency at half load: from an event's timestamp at the broker to its verdict, readable under ``read_committed``."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message, Producer, TopicPartition

from tests.bench.backlog import event_headers
from tests.bench.regimes import REGIMES, Regime
from tests.bench.report import Measure
from tests.bench.rig import Rig
from tests.bench.throughput import Throughput, await_joined
from tests.integration.worker_process import PARTITIONS, Stream
from worker.settings import InferenceSettings, KafkaSettings

_LOAD_S = 40.0
_WARM_UP = 0.2
"""Share of the events that do not count."""
_TICK_S, _LINGER_MS = 0.005, 1
"""Times of the producer, which sends what is due by then. Time before the broker's stamp does not count, and a wake-up
and a request for each event would take CPU from the worker."""
_PATIENCE_S = 0.05
_IMAGES = 200
"""Encoded beforehand, so that the paced producer has little to do."""


@dataclass(frozen=True)
class Answer:
    """When a verdict could be read, on the broker's clock, and where its time went."""

    read_s: float
    timing_ms: dict[str, float]


def measure_latency(rig: Rig, measured: Throughput) -> None:
    """All regimes, with the number of processes that their targets are for."""
    for regime in REGIMES:
        half = measured.run(regime, regime.processes[0]).verdicts_per_s / 2
        inference_s = measured.limit(regime).batch_s[1]
        with rig.report.section(f"latency, {regime.name} at half load"):
            _measure(rig, regime, half, inference_s)


def _measure(rig: Rig, regime: Regime, per_s: float, inference_s: float) -> None:
    stream, events = rig.stream(), round(per_s * rig.seconds(_LOAD_S))
    with rig.workers(stream, rig.bundles[regime.name], regime.processes[0]):
        await_joined(rig, stream, regime.processes[0], f"latency: {regime.name}")
        with ThreadPoolExecutor(1) as feeder, rig.report.step(f"latency: {regime.name}", events) as progress:
            appended_s = feeder.submit(_feed, rig, stream, events, per_s)
            answers = _read(stream, events, progress)
            steady = _where_time_went(answers, appended_s.result(), skip=int(events * _WARM_UP))
    total = np.array([parts["total"] for parts in steady])
    p50, p99 = np.percentile(total, [50, 99])
    slowest = [parts for parts in steady if parts["total"] >= p99]
    waits_s = InferenceSettings().max_wait_s, KafkaSettings().commit_interval_s, 2 * inference_s
    bound = " + ".join(f"{1000 * wait:.0f}" for wait in waits_s)
    add = rig.report.add
    add(Measure("load", per_s, "events/s", parts={"events": events}))
    typical = _mean(steady)
    note = f"mean ms: {_words(typical)}; target: wait + commit interval + 2 inference times = {bound} ms"
    add(Measure("p50", float(p50), "ms", 1000 * sum(waits_s), at_most=True, parts=typical, note=note))
    rare = _mean(slowest)
    add(Measure("p99", float(p99), "ms", parts=rare, note=f"mean ms of the slowest percent: {_words(rare)}"))
    add(Measure("worst", float(total.max()), "ms"))


def _feed(rig: Rig, stream: Stream, events: int, per_s: float) -> list[float]:
    """Events spaced evenly, but for ticks; the time at which the broker stamped each."""
    images = list(rig.images.first(_IMAGES))
    appended_s = [0.0] * events
    producer = Producer({"bootstrap.servers": stream.bootstrap, "linger.ms": _LINGER_MS, "log_level": 0})

    def note(number: int) -> Callable[[object, Message], None]:
        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            kind, stamp_ms = message.timestamp()
            assert kind == TIMESTAMP_LOG_APPEND_TIME
            appended_s[number] = stamp_ms / 1000

        return delivered

    began = time.monotonic()
    for number in range(events):
        if (early_s := began + number / per_s - time.monotonic()) > 0:
            time.sleep(max(early_s, _TICK_S))
            producer.poll(0)
        image, place = images[number % _IMAGES], number % PARTITIONS
        producer.produce(
            stream.topic("images"),
            image,
            partition=place,
            headers=event_headers(number),
            on_delivery=note(number),
        )
    assert producer.flush(30) == 0
    return appended_s


def _read(stream: Stream, events: int, progress: Callable[[float], None]) -> dict[int, Answer]:
    """By the number of the event; each verdict once."""
    reader = Consumer(
        {
            "bootstrap.servers": stream.bootstrap,
            "group.id": f"{stream.prefix}-latency",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.error.backoff.ms": 5,
            "log_level": 0,
        }
    )
    reader.assign([TopicPartition(stream.topic("verdicts"), number, 0) for number in range(PARTITIONS)])
    read: list[tuple[float, bytes]] = []
    quiet_until = time.monotonic() + 60
    try:
        while len(read) < events:
            assert time.monotonic() < quiet_until, f"no verdict for a minute, {len(read)} of {events}"
            first = reader.poll(_PATIENCE_S)  # alone, since ``consume`` waits until it has all it was asked for
            now_s = time.time()
            messages = [first, *reader.consume(500, 0)] if first is not None else []
            for message in messages:
                assert not message.error(), message.error()
                read.append((now_s, message.value() or b""))
            if messages:
                quiet_until = time.monotonic() + 60
                progress(len(read))
    finally:
        reader.close()
    verdicts = [(now_s, json.loads(value)) for now_s, value in read]  # not before: it would take CPU from the worker
    answers = {int(verdict["event"]["id"]): Answer(now_s, verdict["timing_ms"]) for now_s, verdict in verdicts}
    assert len(answers) == len(read), f"{len(read)} verdicts on {len(answers)} events"
    return answers


def _where_time_went(answers: dict[int, Answer], appended_s: list[float], skip: int) -> list[dict[str, float]]:
    """Milliseconds of each event but the first ``skip``: the worker's stages, and what came before and after them.

    The worker counts ``total`` until the scores are there; what remains is the wait for the commit, the commit, and the
    reader's fetch. What ``total`` has beyond its stages is the queue between them.
    """
    found = []
    for number in range(skip, len(appended_s)):
        answer = answers[number]
        total = 1000 * (answer.read_s - appended_s[number])
        timing = dict(answer.timing_ms)
        scored = timing.pop("total")
        between = scored - sum(timing.values())
        found.append({**timing, "between stages": between, "publication": total - scored, "total": total})
    return found


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in parts])) for name in parts[0]}


def _words(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if name != "total")
