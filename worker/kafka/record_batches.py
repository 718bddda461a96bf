r"""Reading record batches so that neither a damaged record nor one that would unpack to gigabytes stops the client.

kafka-python (3.0.12) raises at the first record that it cannot decode, and its fetcher never gets past it; and it
unpacks whatever it gets. Here a header name that is not UTF-8 is read with escapes (``\xff``). A record that cannot be
decoded, or is larger than any event may be, comes out with ``Unread`` headers at its offset; so does, once for all its
offsets, what cannot be listed record by record: a batch that is damaged, unpacks to too much or holds too many records.
All are answered like any other event. Aborted transactions are left out by kafka-python's fetcher, batch by batch,
before it asks for records.

One ``Allowance`` bounds what all partitions of a consumer hold unpacked, and what one poll unpacks and returns.
"""

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from worker.errors import EventError, EventTooLarge, MemoryShort, UndecodableRecord, WorkerKilled
from worker.kafka.decompression import unpack
from worker.messages.events import ENVELOPE_MAX_BYTES, HEADER_NAME_MAX_BYTES, MAX_HEADERS
from worker.messages.records import BatchGuard, Partition, held_bytes
from worker.settings import KafkaSettings

MAX_RECORDS = 2**16
"""Most records of a batch that are answered one by one."""
_FEW_RECORDS, _LEAST_RECORD_BYTES = 1024, 4
"""Above so many records each must have been sent in so many bytes: a kilobyte can hold a million records, each with an
answer of its own. (An event's id alone has more, however well it is compressed.)"""
_REFETCHES = 3
"""How often a batch with a wrong checksum is fetched again: it may have been damaged on its way."""
_MOST_CLAIMED = 2**20
"""A harmed batch that claims more, and that no other follows, has unknown offsets: a position beyond the end of the log
would send the client back to its beginning."""
_AMPLIFIED = 16
"""A batch that is so many times larger when unpacked: its records cost their sender much less than a copy of them."""


class Unread(list[Any]):
    """Stands in place of the headers of what was not read, up to ``last_offset``, and says why."""

    def __init__(self, why: EventError, last_offset: int) -> None:
        super().__init__()
        self.why, self.last_offset = why, last_offset


class AmplifiedHeaders(list[Any]):
    """Headers of a record from a batch that was a small part of its size when it was packed."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How much is unpacked of what producers send, in bytes."""

    batch: int
    """One batch; and together all others that were unpacked and are not yet read to their ends."""
    poll: int
    """One poll ends once it has returned so much, or has unpacked so much and read the last of that; it returns one
    record at least."""
    value: int
    """The value of one record."""

    @classmethod
    def of(cls, settings: KafkaSettings) -> "Ceilings":
        """The ceilings under these settings; a value may be an image of ``max_message_bytes`` in base64."""
        value = settings.max_message_bytes * 4 // 3 + ENVELOPE_MAX_BYTES
        return cls(settings.max_batch_bytes, settings.fetch_max_bytes, value)


class Allowance:
    """What one consumer has unpacked, of all partitions, and in the poll under way.

    Args:
        ceilings: how much it may be.
        guard: remembers the batch that is being unpacked.
    """

    def __init__(self, ceilings: Ceilings, guard: BatchGuard | None = None) -> None:
        self.ceilings, self.guard = ceilings, guard
        self._returned = self._spent = 0
        self._latest: LenientBatch | None = None
        self._unpacked: WeakKeyDictionary[LenientBatch, int] = WeakKeyDictionary()  # the one unpacked last comes last

    def begin_poll(self) -> None:
        """Allow another poll's worth."""
        self._returned = self._spent = 0
        self._latest = None

    @property
    def is_spent(self) -> bool:
        """Whether the poll has to end; not before what it has unpacked is read, or that may be unpacked for nothing."""
        if self._returned >= self.ceilings.poll:
            return True
        return self._spent >= self.ceilings.poll and not (self._latest and self._latest.has_more)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of all batches that are unpacked."""
        return sum(self._unpacked.values())

    def spend(self, size: int) -> None:
        """Count ``size`` bytes that were unpacked."""
        self._spent += size

    def hand_on(self, size: int) -> None:
        """Count ``size`` bytes that were returned."""
        self._returned += size

    def make_room(self) -> None:
        """Before a batch is unpacked: forget what was unpacked first, down to a batch's worth; it is unpacked again."""
        for batch in list(self._unpacked):
            if self.unpacked_bytes > self.ceilings.batch:
                batch.forget_unpacked()
                del self._unpacked[batch]

    def hold(self, batch: "LenientBatch", size: int) -> None:
        """Note an unpacked batch."""
        self.spend(size)
        self._unpacked[batch] = size
        self._latest = batch


def read_leniently(consumer: Any, allowance: Allowance) -> None:
    """Make a ``KafkaConsumer`` read this way from its next fetch on; it offers no public hook for it."""
    fetcher = consumer._fetcher  # noqa: SLF001 - neither its class of record iterators nor its loop has a public hook
    fetcher.PartitionRecords = functools.partial(PartitionRecords, refetched={}, allowance=allowance)
    append = fetcher._append  # noqa: SLF001 - what is wrapped

    def append_within(drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        """Append, and say that no more records are wanted once the poll has its share."""
        count: int = append(drained, part, max_records, update_offsets)
        return max_records if allowance.is_spent else count

    fetcher._append = append_within  # noqa: SLF001 - wraps it


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one response for one partition, as long as the poll may return more.

    ``refetched`` is shared by all: for each partition, the offset that was last fetched again, and how often.
    """

    def __init__(
        self,
        fetch_offset: int,
        tp: Any,
        records: Any,
        *,
        refetched: dict[Any, Any],
        allowance: Allowance,
        **options: Any,
    ) -> None:
        may_refetch = functools.partial(self._may_refetch, tp, refetched)
        data = records._buffer  # noqa: SLF001 - MemoryRecords has no public access to the fetched bytes
        self.fetched_bytes = len(data)
        lenient = LenientRecords(data, Partition(*tp), fetch_offset, may_refetch, allowance)
        super().__init__(fetch_offset, tp, lenient, **options)
        self._allowance, self._records = allowance, self.record_iterator
        self.record_iterator: Any = self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next record of this poll; unlike a generator's, its end is not final."""
        if self._allowance.is_spent:
            raise StopIteration
        record = _taken(next(self._records))
        if isinstance(record.headers, Unread):
            self.next_fetch_offset = record.headers.last_offset + 1
        self._allowance.hand_on(held_bytes(record.key, record.value, record.headers))
        return record

    def drain(self) -> None:
        """Let go of all records."""
        self._records = iter(())
        super().drain()

    def _contains_abort_marker(self, batch: Any) -> bool:
        """Whether it ends an aborted transaction. A lost marker may; that another one has ended changes nothing."""
        is_lost = isinstance(batch, LenientBatch) and batch.is_lost_marker
        return is_lost or bool(super()._contains_abort_marker(batch))

    @staticmethod
    def _may_refetch(tp: Any, refetched: dict[Any, Any], offset: int) -> bool:
        before, times = refetched.get(tp, (offset, 0))
        times = times + 1 if before == offset else 1
        refetched[tp] = offset, times
        return bool(times <= _REFETCHES)


class _Once:
    """Key or value of a record until it is handed on: kafka-python's iterator keeps the last one that it returned.

    With a partition set aside that would be a message's worth each, for as long as it waits for its turn.
    """

    __slots__ = ("_data", "_size")

    def __init__(self, data: bytes) -> None:
        self._data, self._size = data, len(data)

    def __len__(self) -> int:
        return self._size

    def take(self) -> bytes:
        """The bytes, once."""
        data, self._data = self._data, b""
        return data


def _taken(record: Any) -> Any:
    """A record as kafka-python's iterator returns it, of which the iterator then holds nothing."""
    key, value = (part.take() if isinstance(part, _Once) else part for part in (record.key, record.value))
    headers = record.headers
    if headers and not isinstance(headers, Unread):
        headers = type(headers)(headers)
        record.headers.clear()
    return record._replace(key=key, value=value, headers=headers)


class LenientRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of one fetch.

    Args:
        data: the bytes as fetched.
        partition: where they were fetched.
        fetch_offset: records before it are not wanted.
        may_refetch: whether to end before the batch at this offset, so that the client fetches it again.
        allowance: what may be unpacked.
    """

    __slots__ = ("_allowance", "_fetch_offset", "_may_refetch", "_partition")

    # Private to kafka-python's MemoryRecords (3.0.12); used together with its method _cache_next.
    _buffer: Any
    _next_slice: Any
    _pos: int

    def __init__(
        self, data: Any, partition: Partition, fetch_offset: int, may_refetch: Any, allowance: Allowance
    ) -> None:
        self._partition, self._fetch_offset = partition, fetch_offset
        self._may_refetch, self._allowance = may_refetch, allowance
        super().__init__(data)

    def next_batch(self, *_: Any) -> Any:
        """The next batch; None at the end.

        Raises:
            CorruptRecordError: a batch whose offsets are unknown.
        """
        part = self._next_slice
        if part is None or len(part) < DefaultRecordBatch.HEADER_STRUCT.size or part[self.MAGIC_OFFSET] != 2:
            try:
                return super().next_batch()
            except (struct.error, AssertionError) as error:
                raise CorruptRecordError(f"a batch of {len(part)} bytes holds no whole header") from error
        batch = LenientBatch(part, self._partition, self._fetch_offset, self._allowance)
        if not batch.has_right_checksum():
            if self._may_refetch(batch.base_offset):
                return None
            batch.distrust("the checksum of its batch is wrong", self._following_offset())
        self._cache_next()
        return batch

    def _following_offset(self) -> int | None:
        end, buffer = self._pos, memoryview(self._buffer)
        return int.from_bytes(buffer[end : end + 8]) if len(buffer) >= end + self.LOG_OVERHEAD else None


class LenientBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that answers for each of its offsets from ``fetch_offset`` on, readable or not."""

    # Private to kafka-python's DefaultRecordBatch (3.0.12); used together with its method _assert_has_codec.
    _buffer: Any
    _header_data: tuple[Any, ...]
    _next_record_index: int
    _num_records: int
    _pos: int

    def __init__(self, data: Any, partition: Partition, fetch_offset: int, allowance: Allowance) -> None:
        size = self.HEADER_STRUCT.size
        super().__init__(data[:size])
        self._buffer = memoryview(data)  # not a copy
        self._packed = self._buffer[size:]
        self._partition, self._fetch_offset, self._allowance = partition, fetch_offset, allowance
        self._is_amplified = False
        self._why: EventError | None = None
        self._expected = self.base_offset
        self._ahead: Any = None

    def has_right_checksum(self) -> bool:
        """Whether the bytes are those that the producer sent."""
        return bool(super().validate_crc())

    def validate_crc(self) -> bool:
        """True: a batch with a wrong checksum has been given up by now (see ``distrust``)."""
        return True

    def distrust(self, why: str, following: int | None) -> None:
        """Give up a batch whose header may be wrong.

        Args:
            why: the reason, for people.
            following: offset of the next batch, where known.

        Raises:
            CorruptRecordError: the offsets of the batch are unknown.
        """
        header = list(self._header_data)
        if following is not None:
            header[6] = following - self.base_offset - 1
        elif header[6] + 1 < header[12]:
            raise CorruptRecordError(f"{why}, and it does not say how many records it has")
        elif header[6] >= _MOST_CLAIMED:
            raise CorruptRecordError(f"{why}, and it claims {header[6] + 1} records")
        self._header_data = tuple(header)
        self._give_up(why)

    @property
    def is_control_batch(self) -> bool:
        """Whether it holds a transaction's marker and no events; what is given up is answered, since it may lie."""
        return self._why is None and bool(super().is_control_batch)

    @property
    def is_lost_marker(self) -> bool:
        """Whether it says that it is a marker, and is given up."""
        return self._why is not None and bool(super().is_control_batch)

    @property
    def has_more(self) -> bool:
        """Whether it has records that were not read yet."""
        return self._why is None and self._next_record_index < self._num_records

    def forget_unpacked(self) -> None:
        """Free the memory of the unpacked records; the next one that is read unpacks them again."""
        self._buffer = None

    def __iter__(self) -> "LenientBatch":
        most = min(MAX_RECORDS, max(_FEW_RECORDS, len(self._packed) // _LEAST_RECORD_BYTES))
        if self._why is None and self._num_records > most:
            self._give_up(
                f"its batch has {self._num_records} records in {len(self._packed)} bytes, at most {most} may be"
            )
        elif self._why is None and self.compression_type != self.CODEC_NONE:
            self._pos = 0
            self.forget_unpacked()
            self._unpack()
        return self

    def __next__(self) -> Any:
        if self.is_control_batch:
            return super().__next__()
        last = self.last_offset
        if self._ahead is None and self._why is None and self._expected <= last:
            self._ahead = self._read(last)
        record = self._ahead
        if record is None:
            if self._expected > last or (self._why is None and not self._is_dense()):
                raise StopIteration
            return self._unread(self._why or UndecodableRecord("its batch does not hold it"), last)
        if record.offset > self._expected and self._is_dense():
            return self._unread(UndecodableRecord("its batch does not hold it"), record.offset - 1)
        self._ahead = None
        self._expected = record.offset + 1
        return record

    def _give_up(self, why: str | EventError) -> None:
        """Treat all that is left of the batch as undecodable, or as what another error says."""
        if self.last_offset_delta < 0:
            raise CorruptRecordError(f"{why}, and it claims {self.last_offset_delta + 1} records")
        self._why = UndecodableRecord(why) if isinstance(why, str) else why
        self.forget_unpacked()

    def _unpack(self) -> None:
        """Decompress as kafka-python does, up to a ceiling; give the batch up if that cannot or must not be done."""
        guard = self._allowance.guard
        if guard is None:
            self._decompress()
        elif guard.begin_batch(self._partition, self.base_offset):
            try:
                self._decompress()
            finally:
                guard.end_batch(self._partition, self.base_offset)
        else:
            self._give_up(WorkerKilled("processes ended while its batch was unpacked and nothing else was in flight"))

    def _decompress(self) -> None:
        most = self._allowance.ceilings.batch
        self._allowance.make_room()
        try:
            self._assert_has_codec(self.compression_type)
            unpacked = unpack(self.compression_type, bytes(self._packed), most)
        except CorruptRecordError as error:
            self._give_up(str(error))
        except MemoryError as error:
            raise MemoryShort(f"no memory for a record batch of {self._partition} at {self.base_offset}") from error
        except Exception as error:
            # A codec that is not installed is a fault of the installation, and the same for every batch.
            self._assert_has_codec(self.compression_type)
            self._allowance.spend(most)  # the time that it took, at most
            self._give_up(f"its batch does not decompress: {error}")
        else:
            self._is_amplified = len(unpacked) > _AMPLIFIED * len(self._packed)
            self._allowance.hold(self, len(unpacked))
            self._buffer = unpacked

    def _is_dense(self) -> bool:
        """Whether compaction removed no record, so that each offset without a record is one that was lost."""
        return bool(self._num_records == self.last_offset_delta + 1)

    def _read(self, last: int) -> Any:
        """The next wanted record, readable or not, at an offset that the batch can have; None if there is none."""
        if self._buffer is None:
            self._unpack()
        while self._why is None and self._next_record_index < self._num_records:
            try:
                length, begin = decode_varint(self._buffer, self._pos)
            except (ValueError, IndexError):
                length, begin = -1, 0
            if length < 0 or begin + length > len(self._buffer):
                self._give_up("the length of a record does not fit into its batch")
                break
            self._pos = begin + length
            self._next_record_index += 1
            try:
                record = self._record(begin, self._pos, last)
            except EventTooLarge as error:
                return self._undecoded(error)
            except (ValueError, IndexError) as error:
                return self._undecoded(UndecodableRecord(f"it cannot be decoded: {error}"))
            if record is not None:
                return record
        return None

    def _record(self, begin: int, end: int, last: int) -> Any:
        """The record between two positions; None if it lies before the offsets that are wanted.

        Raises:
            EventTooLarge: nothing of it was copied beyond the ceilings.
            ValueError, IndexError: its parts do not fit.
        """
        buffer = self._buffer
        delta_ms, pos = decode_varint(buffer, begin + 1)  # a byte of attributes comes first
        delta, pos = decode_varint(buffer, pos)
        offset = self.base_offset + delta
        if not self._expected <= offset <= last:
            raise ValueError(f"it claims offset {offset}")
        if offset < self._fetch_offset:
            self._expected = offset + 1
            return None
        most = 2 * ENVELOPE_MAX_BYTES  # the worker's own headers come on top of an event's
        key, pos = _part(buffer, "key", pos, end, most)
        value, pos = _part(buffer, "value", pos, end, self._allowance.ceilings.value)
        count, pos = decode_varint(buffer, pos)
        if count > 2 * MAX_HEADERS:
            raise EventTooLarge(f"{count} headers, the ceiling is {MAX_HEADERS}")
        if end - pos > most:
            raise EventTooLarge(f"headers of {end - pos} bytes, the ceiling is {ENVELOPE_MAX_BYTES}")
        rest, pos = bytes(buffer[pos:end]), 0
        headers: list[Any] = AmplifiedHeaders() if self._is_amplified else []
        for _ in range(count):
            size, pos = decode_varint(rest, pos)
            if size < 0:
                raise ValueError("a header has no name")
            if size > HEADER_NAME_MAX_BYTES:
                raise EventTooLarge(f"header's name of {size} bytes, the ceiling is {HEADER_NAME_MAX_BYTES}")
            name = rest[pos : pos + size].decode("utf-8", "backslashreplace")
            pos += size
            size, pos = decode_varint(rest, pos)
            headers.append((name, rest[pos : pos + size] if size >= 0 else None))
            pos += max(0, size)
        if count < 0 or pos != len(rest):
            raise ValueError("its length is not that of its parts")
        log_append = self.timestamp_type == self.LOG_APPEND_TIME
        timestamp = self.max_timestamp if log_append else self.first_timestamp + delta_ms
        parts = (None if part is None else _Once(part) for part in (key, value))
        return DefaultRecord(end - begin, offset, timestamp, self.timestamp_type, *parts, headers)

    def _undecoded(self, why: EventError) -> Any:
        """A record in place of one that was skipped."""
        return self._stand_in(self._expected, why, self._expected)

    def _unread(self, why: EventError, last: int) -> Any:
        """A record in place of all up to an offset."""
        first, self._expected = self._expected, last + 1
        return self._stand_in(min(max(first, self._fetch_offset), last), why, last)

    def _stand_in(self, offset: int, why: EventError, last: int) -> Any:
        why.with_traceback(None)  # its frames would keep the unpacked batch for as long as the event is in flight
        return DefaultRecord(0, offset, self.max_timestamp, self.timestamp_type, None, None, Unread(why, last))


def _part(buffer: Any, what: str, pos: int, end: int, max_bytes: int) -> tuple[bytes | None, int]:
    """Bytes with their length before them, and the position behind them."""
    length, pos = decode_varint(buffer, pos)
    if length < 0:
        return None, pos
    if length > end - pos:
        raise ValueError(f"a {what} of {length} bytes does not fit into it")
    if length > max_bytes:
        raise EventTooLarge(f"{what} of {length} bytes, the ceiling is {max_bytes}")
    return bytes(buffer[pos : pos + length]), pos + length
