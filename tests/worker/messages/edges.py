"""The implementations of ``Broker`` under test, each with its way to create topics, write records and read results.

Real brokers are written to and read by confluent-kafka, so that kafka-python is never its own witness.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.local.topics import create_topics
from tests.worker.pipeline.memory_broker import MemoryBroker, MemoryCluster, Stored
from worker.kafka.client import KafkaBroker
from worker.messages.records import Broker, Headers
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

PARTITIONS = 2
DEADLINE_S = 90.0
"""Room for a machine with ten times the work that it can do; where all is well it costs nothing."""


def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition that does its own waiting (a poll), or fail naming it."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what}"


class Edge(Protocol):
    """Fresh topics on some broker, and the capabilities of that broker."""

    settings: KafkaSettings
    atomic: bool
    """Whether an aborted publication is invisible to ``read_committed`` readers."""
    rebalances: bool
    """Whether partitions move between members within the deadline."""

    def broker(self, settings: KafkaSettings | None = None) -> Broker:
        """A new member of the group; not started."""

    def produce(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers, number: int) -> None:
        """Append to one partition."""

    def read(self, topic: str, count: int) -> list[Stored]:
        """Committed records of a topic, at least ``count`` of them unless the deadline passes."""

    def close(self) -> None:
        """Disconnect what it produces with; its members are closed by those who made them."""


class MemoryEdge:
    """The broker of ``tests.worker.pipeline.memory_broker``."""

    atomic = True
    rebalances = True

    def __init__(self) -> None:
        self.settings = KafkaSettings()
        self.cluster = MemoryCluster()
        for topic in topics(self.settings):
            self.cluster.create(topic, PARTITIONS)

    def broker(self, settings: KafkaSettings | None = None) -> MemoryBroker:
        return MemoryBroker(self.cluster, settings or self.settings)

    def produce(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers, number: int) -> None:
        self.cluster.append(topic, key, value, headers, number)

    def read(self, topic: str, count: int) -> list[Stored]:  # noqa: ARG002 - nothing to wait for
        return [stored for partition in self.cluster.partitions(topic) for stored in self.cluster.logs[partition]]

    def close(self) -> None:
        """Nothing is connected."""


@dataclass
class KafkaEdge:
    """The client of ``worker.kafka.client`` on a real broker."""

    bootstrap: str
    atomic: bool
    rebalances: bool

    def __post_init__(self) -> None:
        prefix = uuid.uuid4().hex[:8]
        self.settings = KafkaSettings(
            bootstrap_servers=self.bootstrap,
            group_id=prefix,
            images_topic=f"{prefix}.images",
            retry_topic=f"{prefix}.retry",
            dead_topic=f"{prefix}.dead",
            verdicts_topic=f"{prefix}.verdicts",
            delivery="exactly_once" if self.atomic else "at_least_once",
            session_timeout_s=6,
        )
        create_topics(self.bootstrap, dict.fromkeys(topics(self.settings), PARTITIONS))
        self._producer = Producer(
            {"bootstrap.servers": self.bootstrap, "message.max.bytes": 20_000_000, "log_level": 0}
        )

    def broker(self, settings: KafkaSettings | None = None) -> KafkaBroker:
        return KafkaBroker(settings or self.settings, Metrics())

    def produce(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers, number: int) -> None:
        self._producer.produce(topic, value, key, number, headers=list(headers))
        assert self._producer.flush(DEADLINE_S) == 0

    def produce_many(self, topic: str, values: Sequence[bytes], *, number: int) -> None:
        for value in values:
            self._producer.produce(topic, value, partition=number)
        assert self._producer.flush(DEADLINE_S) == 0

    def read(self, topic: str, count: int) -> list[Stored]:
        options = {
            "bootstrap.servers": self.bootstrap,
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
        }
        reader = Consumer({**options, "enable.partition.eof": True, "enable.auto.commit": False, "log_level": 0})
        reader.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        found: list[Stored] = []
        ended: set[int | None] = set()
        deadline = time.monotonic() + DEADLINE_S
        try:
            # Until all ends are seen and enough has come; a later end is seen again after more records.
            while time.monotonic() < deadline and (len(found) < count or len(ended) < PARTITIONS):
                message = reader.poll(0.2)
                if message is None:
                    continue
                if message.error():
                    ended.add(message.partition())
                    continue
                headers: Any = message.headers() or ()  # typed as for sending; read, it is a list of pairs
                found.append(Stored(message.key(), message.value(), tuple(headers), message.timestamp()[1]))
        finally:
            reader.close()
        return found

    def close(self) -> None:
        self._producer.close()


def topics(settings: KafkaSettings) -> tuple[str, str, str, str]:
    """The four topics of a worker."""
    return settings.images_topic, settings.retry_topic, settings.dead_topic, settings.verdicts_topic
