"""Answering a backlog: how fast, at what cost in CPU seconds, and whether everything was answered exactly once."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition

from tests.bench.backlog import Backlog
from tests.bench.estimates import Steady, steady
from tests.bench.machine import cpu_s
from tests.integration.worker_process import PARTITIONS, Stream

_TICK_S = 0.5
"""Not more often: what we ask the broker costs CPU that the workers could have."""


@dataclass(frozen=True)
class Run:
    """What some processes did with a backlog, in the steady part of the run."""

    verdicts_per_s: float
    verdicts: int
    steady_s: float
    worker_cpu_s: float
    """CPU seconds per image, all processes together."""
    broker_cpu_s: float
    """The broker's CPU seconds per image."""
    cached: float
    """Share of verdicts whose scores were known already."""
    verdict_bytes: float


class Watch:
    """How many verdicts are there by now, asked without reading them: the reader must not take part in the race."""

    def __init__(self, stream: Stream) -> None:
        self._topic = stream.topic("verdicts")
        self._consumer = Consumer({"bootstrap.servers": stream.bootstrap, "group.id": "watch", "log_level": 0})

    def verdicts(self) -> int:
        """Records in the topic, and markers of transactions among them: some more than there are verdicts."""
        ends = (self._consumer.get_watermark_offsets(TopicPartition(self._topic, n), 10) for n in range(PARTITIONS))
        return sum(high for _, high in ends)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


class Meter:
    """CPU seconds of some processes over time; sampled with the wall clock, which is the broker's clock too."""

    def __init__(self, pids: Sequence[int | None]) -> None:
        self._pids = pids
        self._moments: list[float] = []
        self._seconds: list[list[float]] = []

    def sample(self) -> None:
        """Now."""
        self._moments.append(time.time())
        self._seconds.append([cpu_s(pid) for pid in self._pids])

    def between(self, began_s: float, ended_s: float) -> list[float]:
        """CPU seconds of each process between two moments."""
        columns = np.array(self._seconds).T
        return [float(np.diff(np.interp([began_s, ended_s], self._moments, column))[0]) for column in columns]


def drain(
    backlog: Backlog,
    pids: Sequence[int | None],
    broker_pid: int | None,
    progress: Callable[[float], None],
    *,
    require_running: Callable[[], None],
    deadline_s: float = 900,
) -> Run:
    """Wait until a backlog that was released is answered.

    Args:
        backlog: all of its events must be answered with a verdict.
        pids: the processes that answer it.
        broker_pid: whose cost is counted apart.
        progress: told the number of verdicts.
        require_running: raises if one of the processes has ended.
        deadline_s: for all of it.
    """
    watch, meter = Watch(backlog.stream), Meter([broker_pid, *pids])
    deadline = time.monotonic() + deadline_s
    try:
        while (found := watch.verdicts()) < backlog.events:
            meter.sample()
            progress(found)
            require_running()
            assert time.monotonic() < deadline, f"{found} of {backlog.events} verdicts after {deadline_s:g} s"
            time.sleep(_TICK_S)
        meter.sample()
        answers = backlog.stream.answers(backlog.events, deadline_s=120)
    finally:
        watch.close()
    meter.sample()
    assert not answers["dead"], f"{len(answers['dead'])} of the benchmark's own images were rejected"
    return _judged(answers["verdicts"], backlog, meter)


def _judged(messages: list[Any], backlog: Backlog, meter: Meter) -> Run:
    verdicts = [json.loads(message.value()) for message in messages]
    events = {verdict["event"]["id"] for verdict in verdicts}
    assert len(events) == backlog.events == len(verdicts), (
        f"{backlog.events} events, {len(verdicts)} verdicts, on {len(events)} different events"
    )
    middle = steady(_appended_s(messages, verdicts))
    broker, *workers = meter.between(middle.began_s, middle.ended_s)
    return Run(
        verdicts_per_s=middle.per_s,
        verdicts=middle.verdicts,
        steady_s=_seconds(middle),
        worker_cpu_s=sum(workers) / middle.verdicts,
        broker_cpu_s=broker / middle.verdicts,
        cached=float(np.mean([verdict["cached"] for verdict in verdicts])),
        verdict_bytes=float(np.mean([len(message.value()) for message in messages])),
    )


def _appended_s(messages: list[Any], verdicts: list[dict[str, Any]]) -> dict[int, list[float]]:
    """By input partition: when the broker appended the verdicts (their transactions end a moment later, all alike)."""
    found = defaultdict(list)
    for message, verdict in zip(messages, verdicts, strict=True):
        kind, appended_ms = message.timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        partition = int(verdict["event"]["origin"].split("/")[-2])
        found[partition].append(appended_ms / 1000)
    return found


def _seconds(middle: Steady) -> float:
    return middle.ended_s - middle.began_s
