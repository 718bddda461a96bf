import gc
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from tests.hostile import records as hostile
from worker.errors import EventTooLarge, MemoryShort
from worker.kafka import record_batches
from worker.kafka.record_batches import (
    Allowance,
    AmplifiedHeaders,
    Ceilings,
    LenientRecords,
    Unread,
    read_leniently,
)
from worker.kafka.replay import ReplayBroker
from worker.kafka.span import Point, Span
from worker.messages.records import Partition, Record
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

TOPIC_PARTITION = TopicPartition("images", 0)
COUNT = 5
MAX_BYTES = 2**20
CEILINGS = Ceilings(batch=MAX_BYTES, poll=2**30, value=2**19)


def batch(base: int, *, codec: int = 0, producer: int | None = None, header: str = "name", padding: int = 0) -> bytes:
    """A batch of five records; their values are their offsets, filled up with zeros."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=producer is not None,
        producer_id=-1 if producer is None else producer,
        producer_epoch=-1 if producer is None else 0,
        base_sequence=-1 if producer is None else 0,
        batch_size=1 << 30,
    )
    for delta in range(COUNT):
        assert builder.append(
            delta, 1000 + delta, b"key", (b"%d" % (base + delta)).ljust(padding, b"\0"), [(header, b"value")]
        )
    return put(bytes(builder.build()), ">q", 0, base)


def mended(data: bytes) -> bytes:
    """The batch with a checksum that fits its bytes, as from a producer that wrote nonsense itself."""
    return put(data, ">I", DefaultRecordBatch.CRC_OFFSET, calc_crc32c(data[21:]))


def put(data: bytes, form: str, position: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, position, value)
    return bytes(changed)


def patched(data: bytes, find: bytes, by: bytes, times: int = 1) -> bytes:
    assert len(find) == len(by)
    assert find in data
    return data.replace(find, by, times)


def read(
    batches: Iterable[bytes], *, fetch_offset: int = 0, aborted: Iterable[Any] = (), ceilings: Ceilings = CEILINGS
) -> list[Any]:
    """Read as the client does: fetch from its position, again and again, until it is at the end."""
    log, fetched_part = list(batches), reader(ceilings)
    found: list[Any] = []
    for _ in range(10):
        fetched = [b for b in log if DefaultRecordBatch(b).next_offset > fetch_offset]
        part = fetched_part(fetched, fetch_offset, aborted)
        found += part.take(10_000)
        fetch_offset = part.next_fetch_offset
    return found


def reader(ceilings: Ceilings) -> Callable[..., Any]:
    """Makes the records of one fetch, as the client holds them."""
    fetcher = SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords, _append=None)
    read_leniently(SimpleNamespace(_fetcher=fetcher), Allowance(ceilings))

    def fetched_part(batches: Iterable[bytes], fetch_offset: int = 0, aborted: Iterable[Any] = ()) -> Any:
        return fetcher.PartitionRecords(
            fetch_offset,
            TOPIC_PARTITION,
            _Raw(b"".join(batches)),
            key_deserializer=None,
            value_deserializer=None,
            check_crcs=True,
            isolation_level=IsolationLevel.READ_COMMITTED,
            aborted_transactions=list(aborted),
            metric_aggregator=None,
            on_drain=lambda _: None,
        )

    return fetched_part


class _Raw:
    def __init__(self, data: bytes) -> None:
        self._buffer = data


def offsets(records: Iterable[Any]) -> list[int]:
    return [record.offset for record in records]


def unreadable(records: Iterable[Any]) -> list[int]:
    """Offsets that the stand-ins among the records answer for."""
    stand_ins = [record for record in records if isinstance(record.headers, Unread)]
    return [offset for r in stand_ins for offset in range(r.offset, r.headers.last_offset + 1)]


def answered(records: Iterable[Any]) -> list[int]:
    """Offsets that all records answer for."""
    return [
        offset
        for r in records
        for offset in (range(r.offset, r.headers.last_offset + 1) if isinstance(r.headers, Unread) else [r.offset])
    ]


def lenient(data: bytes, may_refetch: Callable[[int], bool] = lambda _: False) -> LenientRecords:
    return LenientRecords(data, Partition("images", 0), 0, may_refetch, Allowance(CEILINGS))


def test_good_batches_are_read_as_they_are() -> None:
    found = read([batch(0), batch(5, codec=1)])
    assert offsets(found) == list(range(10))
    assert [record.value for record in found] == [b"%d" % n for n in range(10)]
    assert found[7].headers == [("name", b"value")]
    assert not unreadable(found)


@pytest.mark.parametrize("codec", [0, 1])
def test_a_header_name_that_is_not_utf_8_is_read_with_escapes(codec: int) -> None:
    if codec:
        uncompressed = patched(batch(0), b"name", b"n\xff\xfee")
        data = uncompressed[: DefaultRecordBatch.HEADER_STRUCT.size]
        data += default_records.gzip_encode(uncompressed[DefaultRecordBatch.HEADER_STRUCT.size :])
        data = mended(put(put(data, ">i", 8, len(data) - 12), ">h", 21, codec))
    else:
        data = mended(patched(batch(0), b"name", b"n\xff\xfee"))
    found = read([data, batch(5)])
    assert offsets(found) == list(range(10))
    assert not unreadable(found)
    assert found[0].headers == [(r"n\xff\xfee", b"value")]
    assert found[0].value == b"0"
    assert found[1].headers == [("name", b"value")]


def test_a_record_with_lengths_that_do_not_fit_is_given_up_alone() -> None:
    data = batch(0)
    key = data.index(b"key", data.index(b"key") + 1) - 1  # the length before the second record's key
    found = read([mended(put(data, "B", key, 0x7E)), batch(5)])  # longer than the record
    assert offsets(found) == list(range(10))
    assert unreadable(found) == [1]
    assert found[1].value is None


def test_without_a_length_the_rest_of_its_batch_is_given_up() -> None:
    data = batch(0)
    first = DefaultRecordBatch.HEADER_STRUCT.size
    found = read([mended(put(data, ">H", first, 0xFD7F)), batch(5)])  # a length beyond the batch
    assert answered(found) == list(range(10))
    assert unreadable(found) == list(range(5))


def test_a_wrong_checksum_is_asked_for_again_and_then_given_up() -> None:
    harmed = patched(batch(5), b"value", b"VALUE")
    asked: list[int] = []

    def may(offset: int) -> bool:
        asked.append(offset)
        return len(asked) < 3

    records = lenient(batch(0) + harmed, may)
    assert records.next_batch() is not None
    assert records.next_batch() is None
    assert records.next_batch() is None
    assert answered(records.next_batch()) == list(range(5, 10))
    assert asked == [5, 5, 5]
    found = read([batch(0), harmed, batch(10)])
    assert answered(found) == list(range(15))
    assert unreadable(found) == list(range(5, 10))
    assert str(found[5].headers.why) == "the checksum of its batch is wrong"


def test_a_batch_harmed_on_its_way_once_loses_nothing() -> None:
    good, harmed = batch(0), patched(batch(0), b"value", b"VALUE")
    answers = iter([True, False])
    assert lenient(harmed, lambda _: next(answers)).next_batch() is None
    assert not unreadable(list(lenient(good, lambda _: next(answers)).next_batch()))


def test_offsets_of_a_harmed_header_come_from_the_next_batch() -> None:
    harmed = put(batch(5), ">i", 23, 1_000)  # last offset delta
    records = lenient(harmed + batch(10))
    assert answered(records.next_batch()) == list(range(5, 10))


@pytest.mark.parametrize("claimed", [-1, 2**30])
def test_offsets_that_nobody_knows_end_the_worker(claimed: int) -> None:
    harmed = put(batch(5), ">i", 23, claimed)
    with pytest.raises(CorruptRecordError, match=r"it claims|does not say"):
        lenient(harmed).next_batch()


def test_what_does_not_decompress_is_given_up() -> None:
    found = read([mended(put(batch(0), ">h", 21, 1)), batch(5)])  # says gzip, is none
    assert answered(found) == list(range(10))
    assert unreadable(found) == list(range(5))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_unpacks_to_too_much_is_given_up(codec: int) -> None:
    bomb = batch(0, codec=codec, padding=2 * MAX_BYTES)
    assert len(bomb) < MAX_BYTES
    found = read([bomb, batch(5, codec=codec)])
    assert answered(found) == list(range(10))
    assert unreadable(found) == list(range(5))
    assert str(found[0].headers.why) == f"its batch does not decompress: it unpacks to more than {MAX_BYTES} bytes"


def test_a_codec_that_is_not_here_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batch(0, codec=1)
    monkeypatch.setattr("kafka.codec.has_gzip", lambda: False)
    with pytest.raises(UnsupportedCodecError):
        read([data])


def test_too_little_memory_is_no_fault_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(record_batches, "unpack", unpack)
    with pytest.raises(MemoryShort):
        read([batch(0, codec=1)])


def test_a_partition_keeps_nothing_of_the_record_that_it_handed_on_last() -> None:
    size = CEILINGS.value
    headers = hostile.varint(1) + hostile.named(b"h", bytes(100_000))
    sent = hostile.record(0, bytes(size), key=bytes(100_000), headers=headers)
    part = reader(CEILINGS)([hostile.batch(sent, codec=0)])
    with traced() as allocated:
        [record] = part.take(1)
        assert (len(record.value), len(record.key), len(record.headers[0][1])) == (size, 100_000, 100_000)
        del record
        assert allocated() < 50_000


def test_what_says_why_a_record_was_left_out_keeps_nothing_of_its_batch() -> None:
    part = reader(CEILINGS)([hostile.batch(hostile.record(0, bytes(MAX_BYTES - 1000)))])
    with traced() as allocated:
        [record] = part.take(1)
        assert isinstance(record.headers.why, EventTooLarge)
        del part
        assert allocated() < 50_000


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """How many bytes are allocated since, and not freed."""
    tracemalloc.start()
    try:

        def allocated() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        yield allocated
    finally:
        tracemalloc.stop()


def test_aborted_transactions_stay_unread_also_when_they_are_harmed() -> None:
    aborted = type("Aborted", (), {"first_offset": 5, "producer_id": 7})()
    harmed = patched(batch(5, producer=7), b"value", b"VALUE")
    found = read([batch(0), harmed, batch(10)], aborted=[aborted])
    assert offsets(found) == [*range(5), *range(10, 15)]


def test_records_whose_harmed_batch_claims_to_be_a_marker_are_answered() -> None:
    data = batch(5)
    harmed = put(data, ">h", 21, DefaultRecordBatch.CONTROL_MASK)  # attributes; the checksum is as it was
    found = read([batch(0), harmed, batch(10)])
    assert answered(found) == list(range(15))
    assert unreadable(found) == list(range(5, 10))


def test_a_harmed_marker_ends_its_aborted_transaction_all_the_same() -> None:
    aborted = type("Aborted", (), {"first_offset": 0, "producer_id": 7})()
    attributes = DefaultRecordBatch.CONTROL_MASK | DefaultRecordBatch.TRANSACTIONAL_MASK
    marker = put(batch(5, producer=7), ">h", 21, attributes)
    committed = batch(10, producer=7)
    found = read([batch(0, producer=7), marker, committed], aborted=[aborted])
    assert unreadable(found) == list(range(5, 10))
    assert offsets(found)[-5:] == list(range(10, 15))
    good = mended(put(marker, ">h", 21, DefaultRecordBatch.TRANSACTIONAL_MASK))
    assert offsets(read([batch(0, producer=7), good, batch(10)], aborted=[aborted])) == list(range(10, 15))


@pytest.mark.parametrize("magic", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [26, 33, 60])
def test_a_batch_that_is_shorter_than_its_header_ends_the_worker(magic: int, size: int) -> None:
    short = put(put(batch(0)[:size], ">i", 8, size - 12), "B", 16, magic)
    with pytest.raises(CorruptRecordError):
        read([short.ljust(DefaultRecordBatch.HEADER_STRUCT.size, b"\0")])


def test_reading_begins_in_the_middle_of_a_batch() -> None:
    data = mended(patched(batch(0), b"name", b"n\xff\xfee"))
    assert offsets(read([data], fetch_offset=3)) == [3, 4]


@example(position=61, flip=254, good_checksum=True)
@given(st.integers(DefaultRecordBatch.HEADER_STRUCT.size, len(batch(0)) - 1), st.integers(1, 255), st.booleans())
def test_whatever_a_producer_writes_the_order_holds_and_the_next_batch_is_whole(
    position: int, flip: int, good_checksum: bool
) -> None:
    data = batch(0)
    data = put(data, "B", position, data[position] ^ flip)
    found = read([mended(data) if good_checksum else data, batch(5)])
    assert answered(found) == list(range(10))
    assert offsets(found)[-5:] == list(range(5, 10))
    assert not unreadable(found[-5:])


def test_offsets_that_go_back_are_not_believed() -> None:
    data = batch(0)
    second = data.index(b"key", data.index(b"key") + 1) - 2  # its offset delta
    assert data[second] == 2  # zigzag of 1
    found = read([mended(put(data, "B", second, 0))])
    assert offsets(found) == list(range(5))
    assert unreadable(found) == [1]


def test_a_record_that_compaction_removed_is_not_missed() -> None:
    compacted = put(batch(0), ">i", 23, 6)  # two more offsets than records
    assert offsets(read([mended(compacted), batch(7)])) == [*range(5), *range(7, 12)]


def many(count: int, *, codec: int = 4, size: int = 0) -> bytes:
    """A batch of records that have nothing but a value."""
    return hostile.batch(b"".join(hostile.record(delta, bytes(size)) for delta in range(count)), count, codec=codec)


@pytest.mark.parametrize(
    ("data", "offsets_together"),
    [
        (many(1024), 1),
        (many(1025), 1025),  # a few dozen bytes
        (many(2**16, codec=0), 1),
        (many(2**16 + 1, codec=0), 2**16 + 1),
        (many(2**20 + 1), 2**20 + 1),
    ],
)
def test_a_batch_of_more_records_than_it_paid_for_is_answered_as_one(data: bytes, offsets_together: int) -> None:
    found = lenient(data).next_batch()
    first = next(iter(found))
    assert first.offset == 0
    last = first.headers.last_offset if isinstance(first.headers, Unread) else first.offset
    assert last + 1 == offsets_together
    assert answered([first, *found]) == list(range(found.last_offset + 1))


def test_what_stands_for_many_offsets_begins_where_reading_does_and_goes_on_behind_them() -> None:
    found = read([batch(0), put(many(2000), ">q", 0, 5), batch(2005)], fetch_offset=700)
    assert [(r.offset, r.headers.last_offset) for r in found if isinstance(r.headers, Unread)] == [(700, 2004)]
    assert offsets(found) == [700, *range(2005, 2010)]


@pytest.mark.parametrize(
    ("headers", "key", "value", "why"),
    [
        (hostile.varint(3_000_000) + bytes(6_000_000), b"", b"", "3000000 headers"),
        (hostile.varint(1) + hostile.named(b"h", bytes(200_000)), b"", b"", "headers of 200005 bytes"),
        (hostile.varint(1) + hostile.named(bytes(2_000), b""), b"", b"", "header's name of 2000 bytes"),
        (b"\0", bytes(200_000), b"", "key of 200000 bytes"),
        (b"\0", b"", bytes(2**19 + 1), "value of 524289 bytes"),
    ],
)
def test_a_record_above_the_ceilings_is_too_large_and_its_neighbours_are_not(
    headers: bytes, key: bytes, value: bytes, why: str
) -> None:
    ceilings = Ceilings(batch=2**24, poll=2**30, value=2**19)
    records = [hostile.record(0, b"a"), hostile.record(1, value, key=key, headers=headers), hostile.record(2, b"c")]
    began = time.process_time()
    found = read([hostile.batch(b"".join(records), 3)], ceilings=ceilings)
    assert time.process_time() - began < 0.5  # header by header it took seconds
    assert [record.value for record in found] == [b"a", None, b"c"]
    assert isinstance(found[1].headers.why, EventTooLarge)
    assert str(found[1].headers.why).startswith(why)


def test_records_of_a_batch_that_was_sent_packed_say_so() -> None:
    assert [isinstance(r.headers, AmplifiedHeaders) for r in read([many(2, size=5000)])] == [True, True]
    assert not isinstance(read([many(1, size=5000, codec=0)])[0].headers, AmplifiedHeaders)


def test_batches_of_many_partitions_are_not_all_unpacked_at_a_time_and_a_poll_has_its_share() -> None:
    partitions = [Partition("images", number) for number in range(8)]
    logs = {partition: hostile.Log() for partition in partitions}
    for log in logs.values():
        log.append(many(60, size=100_000))  # 6 MB, in a kilobyte
    settings = KafkaSettings(max_batch_bytes=8_000_000, fetch_max_bytes=500_000, max_message_bytes=200_000)
    broker, consumer = hostile.broker_over(logs, settings, {})
    found, unpacked, turn = list[Record](), [0], 0
    while any(consumer.position(partition) < 60 for partition in partitions):
        broker.pause([partitions[turn % 8]])  # leaves its batch half read
        polled = broker.poll(0)
        assert sum(record.held_bytes for record in polled) < 500_000 + 110_000
        unpacked.append(broker._allowance.unpacked_bytes)
        found += polled
        turn += 1
    assert 8_000_000 < max(unpacked) <= 2 * 8_000_000
    for partition in partitions:
        own = [record for record in found if record.partition == partition]
        assert [record.offset for record in own] == list(range(60))
        assert {len(record.value or b"") for record in own} == {100_000}


def test_what_is_set_aside_for_paused_partitions_is_bounded_and_comes_again() -> None:
    partitions = [*(Partition("images", n) for n in range(6)), *(Partition("images.retry", n) for n in range(6))]
    logs = {partition: hostile.Log() for partition in partitions}
    for log in logs.values():
        for _ in range(10):
            log.append(many(1, size=90_000, codec=0))
    settings = KafkaSettings(fetch_max_bytes=100_000, max_poll_records=1)
    broker, consumer = hostile.broker_over(logs, settings, {})
    found, kept = list[Record](), [0]
    while any(consumer.position(partition) < 10 for partition in partitions):
        found += broker.poll(0)
        broker.pause([] if len(kept) % 3 else [record.partition for record in found[-8:]])
        fetcher = consumer._fetcher
        kept.append(len({*fetcher._paused_completed_fetches, *fetcher._paused_partition_records}))
    assert 1 < max(kept) <= 4
    for partition in partitions:
        assert [record.offset for record in found if record.partition == partition] == list(range(10))


def test_a_replay_answers_for_no_offset_beyond_its_span() -> None:
    inside, outside = Partition("images", 0), Partition("images", 1)
    logs = {inside: hostile.Log(), outside: hostile.Log()}
    for log in logs.values():
        log.append(many(2000))
    settings = KafkaSettings()
    broker = ReplayBroker(settings, Metrics(), Span(Point("0:10"), Point("0:1500")), lambda _: None, lambda *_: None)
    broker._ranges, broker._check_at = {inside: (10, 1500)}, float("inf")
    broker._consumer = hostile.Consumer(logs, settings, {inside: 10})
    broker._prepare_consumer()
    broker._epochs.update(dict.fromkeys(logs, 1))
    found = [record for _ in range(4) for record in broker.poll(0)]
    assert [(record.offset, record.next_offset) for record in found] == [(10, 1500)]
