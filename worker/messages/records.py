"""Kafka as the pipeline sees it: values and one protocol, no client.

The protocol is implemented by ``worker.kafka.client`` over kafka-python and by the tests' in-memory broker; one
conformance suite tests both.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


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
    undecodable: str | None = None
    """Why the record could not be decoded; then only its coordinates are known."""

    @property
    def coordinates(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.partition.topic}/{self.partition.number}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Messages that answer a run of consumed records, and the offset that follows the last of them."""

    partition: Partition
    epoch: int
    next_offset: int
    messages: tuple[Message, ...]


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
            MessageTooLarge: nothing was committed; replace the message named and call again.
            Fenced, PublishUncertain, BrokerUnreachable: the process must end.
        """

    def lag(self) -> Mapping[Partition, int] | None:
        """Records from the position of each owned partition to its end; None if the broker gave no answer in time."""

    def close(self) -> None:
        """Leave the group and disconnect; safe to call twice."""
