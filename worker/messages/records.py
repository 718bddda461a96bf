"""Kafka as the pipeline sees it: values and one protocol, no client.

The protocol is implemented by ``worker.kafka.client`` over kafka-python and by the tests' in-memory broker; one
conformance suite tests both.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from worker.errors import EventError

Headers = tuple[tuple[str, bytes | None], ...]

_RECORD_BYTES, _HEADER_BYTES = 512, 160
"""What Python needs to hold a record or message, and one of its headers, beside their bytes."""


def held_bytes(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Bytes of memory that a record or message takes."""
    parts = sum(len(name) + len(text or b"") for name, text in headers)
    return len(key or b"") + len(value or b"") + parts + len(headers) * _HEADER_BYTES + _RECORD_BYTES


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        """``topic/partition``, as people read it."""
        return f"{self.topic}/{self.number}"


@dataclass(frozen=True, slots=True)
class Record:
    """A consumed record.

    ``epoch`` counts the assignments of the partition to this process: once the partition was taken away and given
    back, answers to records of the earlier assignment must not be published.
    """

    partition: Partition
    offset: int
    epoch: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    unread: EventError | None = None
    """Why it was not read; then only its coordinates are known."""
    count: int = 1
    """Offsets that it stands for; more than one where a batch could not be listed record by record."""
    amplified: bool = False
    """Whether it came in a batch that was a small part of its size."""
    topic_id: str | None = None
    """Which topic of that name it was read from, in hexadecimal; None where the broker gives no ids."""
    leader_epoch: int = -1
    """The leader epoch in which it was written; -1 if unknown."""
    is_broker_time: bool = False
    """Whether ``timestamp_ms`` is the broker's time of its arrival, and not what its producer says."""

    @property
    def next_offset(self) -> int:
        """The offset that follows the last one that it stands for."""
        return self.offset + self.count

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return held_bytes(self.key, self.value, self.headers)

    @property
    def coordinates(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that it takes; more than it has on its way."""
        return held_bytes(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Progress:
    """Messages that answer a run of consumed records, and the offset that follows the last of them."""

    partition: Partition
    epoch: int
    next_offset: int
    messages: tuple[Message, ...]
    leader_epoch: int = -1
    """Of the last of those records; -1 if unknown."""


class Lag(NamedTuple):
    """How far a worker is behind the end of a partition."""

    behind: int
    """Records from its position to the end of those that can be read."""
    withheld: int = 0
    """Records after them, which a transaction that is not finished keeps from being read."""
    is_stopped: bool = False
    """Whether the partition is not read, since the position lies beyond its end (``kafka.beyond_end``)."""


class BatchGuard(Protocol):
    """Remembers, beyond the end of the process, which batch of records is being unpacked."""

    def begin_batch(self, partition: Partition, offset: int) -> bool:
        """Note that the batch which begins at an offset is about to be unpacked; False if it must not be any more."""

    def end_batch(self, partition: Partition, offset: int) -> None:
        """Note that it is unpacked, and the process still there."""

    def forget(self, partition: Partition) -> None:
        """Forget what was noted of a partition: its offsets mean other records now."""


class Broker(Protocol):
    """Consume, answer, commit. Owned by one thread; nothing here may be called from another."""

    def start(self) -> None:
        """Connect, check that the topics exist, subscribe.

        Raises:
            BrokerUnreachable, TopicMissing: start-up must stop.
        """

    def poll(self, timeout_s: float) -> list[Record]:
        """Records of owned partitions, each partition in order; keeps the group membership alive.

        Raises:
            UndecodableBatch: records at unknown offsets that cannot be decoded; do not poll again.
        """

    @property
    def max_message_bytes(self) -> int:
        """Largest message that may be published, key and headers included; known once started."""

    def owned(self) -> Mapping[Partition, int]:
        """Partitions that are assigned to this worker now, with the epoch of their assignment."""

    def joined(self) -> bool:
        """Whether the group has given this worker an assignment (an empty one counts)."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Make poll return no records of exactly these partitions, until the next call."""

    def publish(self, progress: Sequence[Progress]) -> None:
        """Publish messages and commit offsets: all or nothing when exactly once, offsets last when at least once.

        Partitions that were taken away meanwhile, or assigned anew, are left out.

        Raises:
            PublishAborted: nothing was committed; call again with the same (GroupUnstable: nothing was sent).
            MessageRefused: nothing was committed; replace one of the messages named, or leave it out, and call again.
            Fenced, PublishUncertain, BrokerUnreachable: the process must end.
        """

    def read_again(self, partition: Partition, epoch: int, offset: int) -> int | None:
        """Read an owned partition again from its first offset that is not committed.

        Returns:
            Its new epoch; None, and nothing happens, if it is not assigned as it was in that epoch any more.
        """

    def lag(self) -> Mapping[Partition, Lag] | None:
        """How far each owned partition is behind its end; None if the broker gave no answer in time."""

    def close(self) -> None:
        """Leave the group and disconnect; safe to call twice."""
