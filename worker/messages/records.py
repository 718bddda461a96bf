"""The border to Kafka as the pipeline sees it: values and one protocol, no client.

Implemented by ``worker.kafka.client`` over kafka-python and by the tests' in-memory broker; one conformance suite runs
over both.
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
    """What was consumed.

    ``epoch`` counts the assignments of the partition to this process: after the partition was taken away and given
    back, what was read before must not be published any more.
    """

    partition: Partition
    offset: int
    epoch: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    undecodable: str | None = None
    """Why nothing but its place could be read."""

    @property
    def coordinates(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.partition.topic}/{self.partition.number}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be produced."""

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
            UndecodableBatch: records that cannot be read and do not say where they are; poll no more.
        """

    @property
    def max_message_bytes(self) -> int:
        """Largest message that may be published, key and headers included; known once started."""

    def owned(self) -> Mapping[Partition, int]:
        """Partitions that are ours now, with the epoch of their assignment."""

    def joined(self) -> bool:
        """Whether the group has given us an assignment (an empty one counts)."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Poll returns nothing of exactly these partitions, until called again with others."""

    def publish(self, progress: Sequence[Progress]) -> None:
        """Publish messages and commit offsets: all or nothing when exactly once, offsets last when at least once.

        Partitions that are no longer ours, or ours anew, are left out.

        Raises:
            PublishAborted: nothing was committed; call again with the same (GroupUnstable: it was not even tried).
            MessageTooLarge: nothing was committed; replace the message named and call again.
            Fenced, PublishUncertain, BrokerUnreachable: the process must end.
        """

    def lag(self) -> Mapping[Partition, int] | None:
        """Records between the position of each owned partition and its end; None: no answer in time."""

    def close(self) -> None:
        """Leave the group and disconnect; safe to call twice."""
