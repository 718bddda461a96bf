"""Events that are there beforehand and become readable at a word, when every worker has its partitions.

They are written in one transaction that stays open until then. Workers that were started on a backlog would rather be
measured while they come up one by one: the first takes everything, and gives half of it back in the middle of its work.
"""

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests.integration.worker_process import PARTITIONS, Stream

_OPEN_MS = 600_000
_TICK_S = 0.1
Headers = list[tuple[str, str | bytes | None]]


class Backlog:
    """Inline events on a stream, dealt to the partitions in turn."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.events = 0
        self._producer = Producer(
            {
                "bootstrap.servers": stream.bootstrap,
                "transactional.id": f"{stream.prefix}-backlog",
                "transaction.timeout.ms": _OPEN_MS,
                "linger.ms": 20,
                "queue.buffering.max.kbytes": 64 * 1024,
                "message.max.bytes": 2**21,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(30)
        self._producer.begin_transaction()

    def add(self, images: Iterable[bytes]) -> None:
        """Send them, unseen by those who read only what is committed."""
        topic = self.stream.topic("images")
        for image in images:
            number = self.events
            while True:
                try:
                    self._producer.produce(
                        topic, image, str(number), partition=number % PARTITIONS, headers=event_headers(number)
                    )
                    break
                except BufferError:
                    self._producer.poll(_TICK_S)
            self._producer.poll(0)
            self.events += 1

    def release(self) -> None:
        """Now they are there; those that come after are held back again."""
        self._producer.commit_transaction(60)
        self._producer.begin_transaction()

    def flush(self) -> None:
        """Wait until the broker has them all."""
        assert self._producer.flush(120) == 0


def event_headers(number: int) -> Headers:
    """The headers of an inline image event."""
    return [
        ("content-type", "image/jpeg"),
        ("ce_specversion", "1.0"),
        ("ce_type", "genprint.image.v1"),
        ("ce_source", "urn:bench"),
        ("ce_id", str(number)),
    ]


def await_members(stream: Stream, group: str, members: int, partitions: int, timeout_s: float = 60) -> list[int]:
    """Wait until a group of so many members is stable and has all ``partitions``; image partitions of each member."""
    deadline = time.monotonic() + timeout_s
    with AdminClient({"bootstrap.servers": stream.bootstrap, "log_level": 0}) as admin:
        while True:
            found = _described(admin, group)
            if found is not None and found.state is ConsumerGroupState.STABLE and len(found.members) == members:
                owned = [[tp.topic for tp in member.assignment.topic_partitions] for member in found.members]
                if sum(map(len, owned)) == partitions:
                    return [topics.count(stream.topic("images")) for topics in owned]
            assert time.monotonic() < deadline, f"group {group}: {members} members with {partitions} partitions wanted"
            time.sleep(_TICK_S)


def _described(admin: AdminClient, group: str) -> Any:
    try:
        return admin.describe_consumer_groups([group])[group].result()
    except KafkaException:  # no such group yet
        return None
