"""A broker in memory: the protocol of ``worker.messages.records`` without a server, for tests of the pipeline.

It is held to the same conformance suite as kafka-python on real brokers, so what the pipeline learns here holds there.
"""

import itertools
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from worker.errors import MessageRefused, PublishAborted, TopicMissing
from worker.messages.records import Headers, Lag, Message, Partition, Progress, Record
from worker.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Stored:
    """A record in a log."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


@dataclass
class MemoryCluster:
    """Topics, committed offsets and group members."""

    logs: dict[Partition, list[Stored]] = field(default_factory=dict)
    committed: dict[tuple[str, Partition], int] = field(default_factory=dict)
    members: defaultdict[str, list["MemoryBroker"]] = field(default_factory=lambda: defaultdict(list))

    def create(self, topic: str, partitions: int) -> None:
        for number in range(partitions):
            self.logs[Partition(topic, number)] = []

    def partitions(self, topic: str) -> list[Partition]:
        return sorted(partition for partition in self.logs if partition.topic == topic)

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, number: int | None) -> None:
        partitions = self.partitions(topic)
        chosen = zlib.crc32(key or b"") % len(partitions) if number is None else number
        self.logs[Partition(topic, chosen)].append(Stored(key, value, headers, int(time.time() * 1000)))


class MemoryBroker:
    """``worker.messages.records.Broker`` on a ``MemoryCluster``.

    ``failures`` makes the next publications fail, one exception each, before anything is visible. ``refuses`` tells
    which messages it does not take; like a broker without errors of single records it does not say which they are.
    """

    def __init__(self, cluster: MemoryCluster, settings: KafkaSettings) -> None:
        self.failures: list[Exception] = []
        self.refuses: Callable[[Message], bool] = lambda _: False
        self.publications: list[list[Progress]] = []
        self._cluster = cluster
        self._settings = settings
        self._epochs: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._paused: frozenset[Partition] = frozenset()
        self._counter = itertools.count(1)

    def start(self) -> None:
        s = self._settings
        for topic in (s.images_topic, s.retry_topic, s.dead_topic, s.verdicts_topic):
            if not self._cluster.partitions(topic):
                raise TopicMissing(f"no topic {topic}")
        self._cluster.members[s.group_id].append(self)

    def poll(self, timeout_s: float) -> list[Record]:
        self._rebalance()
        records = []
        for partition, epoch in self._epochs.items():
            if partition in self._paused:
                continue
            log, position = self._cluster.logs[partition], self._positions[partition]
            for offset in range(position, min(len(log), position + self._settings.max_poll_records)):
                stored = log[offset]
                records.append(
                    Record(partition, offset, epoch, stored.timestamp_ms, stored.key, stored.value, stored.headers)
                )
                self._positions[partition] = offset + 1
        if not records:
            time.sleep(min(timeout_s, 0.005))
        return records

    @property
    def max_message_bytes(self) -> int:
        return self._settings.max_message_bytes

    def owned(self) -> Mapping[Partition, int]:
        return dict(self._epochs)

    def joined(self) -> bool:
        return self in self._cluster.members[self._settings.group_id]

    def pause(self, partitions: Collection[Partition]) -> None:
        self._paused = frozenset(partitions)

    def publish(self, progress: Sequence[Progress]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if not self.joined():
            raise PublishAborted("not a member")
        current = [part for part in progress if self._epochs.get(part.partition) == part.epoch]
        messages = [message for part in current for message in part.messages]
        for message in messages:
            if len(message.value) > self._settings.max_message_bytes:
                raise MessageRefused([message], f"{len(message.value)} bytes")
        if refused := next(filter(self.refuses, messages), None):
            raise MessageRefused([m for m in messages if m.topic == refused.topic], "a rule of the topic")
        for message in messages:
            self._cluster.append(message.topic, message.key, message.value, message.headers, None)
        for part in current:
            self._cluster.committed[self._settings.group_id, part.partition] = part.next_offset
        self.publications.append(list(current))

    def read_again(self, partition: Partition, epoch: int, offset: int) -> int | None:
        if self._epochs.get(partition) != epoch:
            return None
        self._epochs[partition], self._positions[partition] = next(self._counter), offset
        return self._epochs[partition]

    def lag(self) -> Mapping[Partition, Lag] | None:
        return {p: Lag(len(self._cluster.logs[p]) - self._positions[p]) for p in self._epochs}

    def close(self) -> None:
        members = self._cluster.members[self._settings.group_id]
        if self in members:
            members.remove(self)
        self._epochs.clear()

    def _rebalance(self) -> None:
        """Assign partitions in turn; one that stays keeps its epoch, a new one begins at its committed offset."""
        s = self._settings
        members = self._cluster.members[s.group_id]
        dealt = self._cluster.partitions(s.images_topic) + self._cluster.partitions(s.retry_topic)
        mine = set(dealt[members.index(self) :: len(members)]) if self in members else set()
        for partition in list(self._epochs):
            if partition not in mine:
                del self._epochs[partition]
        for partition in sorted(mine - self._epochs.keys()):
            self._epochs[partition] = next(self._counter)
            self._positions[partition] = self._cluster.committed.get((s.group_id, partition), 0)
