import struct
from collections.abc import Callable, Iterable
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

from worker.kafka.record_batches import Allowance, Ceilings, LenientRecords, Unread, read_leniently

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


def read(batches: Iterable[bytes], *, fetch_offset: int = 0, aborted: Iterable[Any] = ()) -> list[Any]:
    """Read as the client does: fetch from its position, again and again, until it is at the end."""
    fetcher = SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords, _append=None)
    read_leniently(SimpleNamespace(_fetcher=fetcher), Allowance(CEILINGS))
    log = list(batches)
    found: list[Any] = []
    for _ in range(10):
        fetched = b"".join(b for b in log if DefaultRecordBatch(b).next_offset > fetch_offset)
        part = fetcher.PartitionRecords(
            fetch_offset,
            TOPIC_PARTITION,
            _Raw(fetched),
            key_deserializer=None,
            value_deserializer=None,
            check_crcs=True,
            isolation_level=IsolationLevel.READ_COMMITTED,
            aborted_transactions=list(aborted),
            metric_aggregator=None,
            on_drain=lambda _: None,
        )
        found += part.take(10_000)
        fetch_offset = part.next_fetch_offset
    return found


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
    return LenientRecords(data, 0, may_refetch, Allowance(CEILINGS))


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


def test_aborted_transactions_stay_unread_also_when_they_are_harmed() -> None:
    aborted = type("Aborted", (), {"first_offset": 5, "producer_id": 7})()
    harmed = patched(batch(5, producer=7), b"value", b"VALUE")
    found = read([batch(0), harmed, batch(10)], aborted=[aborted])
    assert offsets(found) == [*range(5), *range(10, 15)]


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
