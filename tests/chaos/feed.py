"""Sending events while the faults happen, and keeping what was sent by its origin."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.chaos.events import Event
from tests.integration.worker_process import PARTITIONS


@dataclass(frozen=True)
class Sent:
    """An event that the broker has acknowledged, and when (monotonic)."""

    at: float
    expected: float | str


class Feed:
    """Sends on a thread of its own, round the partitions; idempotent, so that each event has one origin."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.max.bytes": 12 * 2**20,
                "queue.buffering.max.kbytes": 256 * 1024,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failure: str | None = None
        self._unplaced: defaultdict[int, list[Sent]] = defaultdict(list)
        """By partition, in their order: a broker that gets an event again after a failure may not tell its offset."""
        self.sent: dict[str, Sent] = {}
        """By origin (``topic/partition/offset``)."""

    def send(self, events: Iterable[Event], per_s: float | None = None, partition: int | None = None) -> None:
        """Begin to send, at that rate or as fast as it goes, round the partitions or to one of them."""
        thread = threading.Thread(target=self._run, args=(events, per_s, partition), name="feed", daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def done(self) -> bool:
        """Whether everything is acknowledged.

        Raises:
            RuntimeError: an event was not accepted; that is no finding about the worker.
        """
        if self._failure:
            raise RuntimeError(self._failure)
        if any(thread.is_alive() for thread in self._threads):
            return False
        for partition in list(self._unplaced):
            self._place(partition, self._unplaced.pop(partition))
        return True

    def note(self, origin: str, expected: float | str) -> None:
        """Add what somebody else has sent."""
        self.sent[origin] = Sent(time.monotonic(), expected)

    def close(self) -> None:
        """Give up what is not sent yet."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._producer.purge()
        self._producer.close()

    def _run(self, events: Iterable[Event], per_s: float | None, partition: int | None) -> None:
        began = time.monotonic()
        try:
            for number, event in enumerate(events):
                while per_s is not None and (ahead := number / per_s - (time.monotonic() - began)) > 0:
                    self._producer.poll(min(ahead, 0.05))
                    if self._stop.is_set():
                        return
                self._produce(number, event, number % PARTITIONS if partition is None else partition)
            while self._producer.flush(0.2) and not self._stop.is_set():
                pass
        except Exception as error:
            self._failure = f"feed: {error!r}"

    def _place(self, partition: int, events: list[Sent]) -> None:
        """Give events the offsets of their partition that no other has; these come in the order of sending."""
        reader = Consumer({"bootstrap.servers": self._bootstrap, "group.id": "feed", "log_level": 0})
        try:
            _, end = reader.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=60)
        finally:
            reader.close()
        free = [origin for at in range(end) if (origin := f"{self._topic}/{partition}/{at}") not in self.sent]
        if len(free) != len(events):
            raise RuntimeError(
                f"feed: {len(events)} events without an offset, and {len(free)} offsets without an event"
            )
        self.sent.update(zip(free, events, strict=True))

    def _produce(self, number: int, event: Event, partition: int) -> None:
        def acknowledged(error: Any, message: Any) -> None:
            if error:
                self._failure = f"feed: {error}"
            elif message.offset() is None:
                self._unplaced[message.partition()].append(Sent(time.monotonic(), event.expected))
            else:
                self.note(f"{message.topic()}/{message.partition()}/{message.offset()}", event.expected)

        while not self._stop.is_set():
            try:
                self._producer.produce(
                    self._topic,
                    event.value,
                    str(number),
                    partition=partition,
                    headers=list(event.headers),
                    on_delivery=acknowledged,
                )
                self._producer.poll(0)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return
