"""Records that cost their sender nothing and their reader everything, and a consumer of them without a server."""

import gzip
import struct
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import zstandard
from kafka.codec import lz4_encode, snappy_encode
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c, encode_varint
from kafka.structs import TopicPartition

from worker.kafka.client import KafkaBroker
from worker.messages.records import BatchGuard, Partition
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

MIB = 2**20
CODECS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: gzip.compress,
    2: snappy_encode,
    3: lz4_encode,
    4: zstandard.ZstdCompressor().compress,
}


def varint(number: int) -> bytes:
    """A number as Kafka writes it."""
    written = bytearray()
    encode_varint(number, written.append)
    return bytes(written)


def record(delta: int, value: bytes | None = b"", *, key: bytes | None = b"", headers: bytes = b"\0") -> bytes:
    """A record; ``headers`` are their number and they themselves, as Kafka writes them."""
    body = b"\0\0" + varint(delta) + _sized(key) + _sized(value) + headers
    return varint(len(body)) + body


def named(name: bytes, text: bytes | None) -> bytes:
    """A header as Kafka writes it."""
    return _sized(name) + _sized(text)


def _sized(part: bytes | None) -> bytes:
    return varint(-1) if part is None else varint(len(part)) + part


def batch(records: bytes, count: int = 1, *, codec: int = 4, is_packed: bool = False) -> bytes:
    """A batch as a broker would take it; its offsets begin at 0."""
    packed = records if is_packed else CODECS[codec](records)
    header = DefaultRecordBatch.HEADER_STRUCT
    head = header.pack(0, header.size - 12 + len(packed), 0, 2, 0, codec, count - 1, 0, 0, -1, -1, -1, count)
    data = bytearray(head + packed)
    struct.pack_into(
        ">I", data, DefaultRecordBatch.CRC_OFFSET, calc_crc32c(data[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
    )
    return bytes(data)


class Log:
    """Batches of one partition, one after the other."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, bytes]] = []
        self.end = 0

    def append(self, data: bytes, count: int | None = None) -> None:
        """Append a batch, as a broker does: by setting its first offset.

        Args:
            data: the batch.
            count: of its offsets, if its header does not say the truth.
        """
        if count is None:
            count = DefaultRecordBatch.HEADER_STRUCT.unpack_from(data)[6] + 1
        self.end += count
        self._batches.append((self.end, struct.pack(">q", self.end - count) + data[8:]))

    def fetch(self, offset: int, max_bytes: int) -> bytes:
        """Batches from the one that holds an offset on, one at least."""
        found: list[bytes] = []
        for end, data in self._batches:
            if found and sum(map(len, found)) + len(data) > max_bytes:
                break
            if end > offset:
                found.append(data)
        return b"".join(found)


class Consumer:
    """kafka-python's own fetcher and positions over logs; only the network is missing."""

    def __init__(
        self, logs: Mapping[Partition, Log], settings: KafkaSettings, committed: Mapping[Partition, int]
    ) -> None:
        self._logs, self._max_bytes = logs, settings.fetch_max_bytes
        self._subscription = SubscriptionState("earliest")
        self._subscription.assign_from_user([TopicPartition(*partition) for partition in logs])
        for tp in self._subscription.assignment:
            self._subscription.seek(tp, committed.get(Partition(*tp), 0))
        client = SimpleNamespace(_manager=SimpleNamespace(_net=None))
        self._fetcher = Fetcher(client, self._subscription, max_poll_records=settings.max_poll_records)
        self._coordinator = SimpleNamespace(need_rejoin=lambda: False, _join_task=None)
        self._cluster = SimpleNamespace(topic_id=lambda _: None)

    def poll(self, timeout_ms: int) -> Any:
        """What ``KafkaConsumer.poll`` does, with an answer to a fetch always there."""
        assert timeout_ms >= 0
        if not self._fetcher._completed_fetches:
            self._fetcher._completed_fetches.extend(self._responses())
        records, _ = self._fetcher.fetched_records()
        return records

    def _responses(self) -> Iterator[CompletedFetch]:
        left = self._max_bytes
        for tp in self._fetcher._fetchable_partitions():
            log, position = self._logs[Partition(*tp)], self._subscription.position(tp).offset
            if left > 0 and (data := log.fetch(position, left)):
                left -= len(data)
                fields = {"error_code": 0, "high_watermark": log.end, "records": data, "aborted_transactions": None}
                response = SimpleNamespace(**fields, diverging_epoch=None, preferred_read_replica=-1)
                yield CompletedFetch(tp, position, 12, response, None)

    def position(self, partition: Partition) -> int:
        """The offset from which it goes on."""
        return int(self._subscription.position(TopicPartition(*partition)).offset)

    def assignment(self) -> set[TopicPartition]:
        """All partitions."""
        return set(self._subscription.assigned_partitions())

    def paused(self) -> set[TopicPartition]:
        """The paused ones."""
        return set(self._subscription.paused_partitions())

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these."""
        for tp in partitions:
            self._subscription.pause(tp)

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these again."""
        for tp in partitions:
            self._subscription.resume(tp)

    def group_metadata(self) -> Any:
        """A stable group."""
        return SimpleNamespace(member_id="member", generation_id=1)


def broker_over(
    logs: Mapping[Partition, Log],
    settings: KafkaSettings,
    committed: Mapping[Partition, int],
    guard: BatchGuard | None = None,
) -> tuple[KafkaBroker, Consumer]:
    """The worker's client as it is once started and assigned all partitions, from the offsets that are committed."""
    broker, consumer = KafkaBroker(settings, Metrics(), guard), Consumer(logs, settings, committed)
    broker._consumer = consumer
    broker._prepare_consumer()
    broker._epochs.update(dict.fromkeys(logs, 1))
    return broker, consumer
