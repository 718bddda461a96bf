r"""Reading record batches so that one bad record takes no good one with it.

kafka-python (3.0.12) raises at the first record that it cannot decode, and its fetcher never gets past it. Here a
header name that is not UTF-8 is read with escapes (``\xff``), and a record that cannot be decoded at all comes out
with ``UndecodableHeaders`` at its offset, so that it is answered like any other event. Aborted transactions are left
out by kafka-python's fetcher, batch by batch, before it asks for records.
"""

import functools
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from worker.kafka.decompression import unpack

_REFETCHES = 3
"""How often a batch with a wrong checksum is fetched again: it may have been damaged on its way."""
_MOST_RECORDS = 2**20
"""A batch that claims more is corrupt, so that its offsets are unknown."""


class UndecodableHeaders(list[Any]):
    """Stands in place of the headers of a record that cannot be decoded, and says why."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


def read_leniently(consumer: Any, max_batch_bytes: int) -> None:
    """Make a ``KafkaConsumer`` read this way; it offers no public hook for it.

    Args:
        consumer: reads leniently from its next fetch on.
        max_batch_bytes: most bytes of a batch when it is decompressed.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - the class of its record iterators has no public setter
    fetcher.PartitionRecords = functools.partial(_PartitionRecords, refetched={}, max_batch_bytes=max_batch_bytes)


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """``refetched`` is shared by all: for each partition, the offset that was last fetched again, and how often."""

    def __init__(
        self,
        fetch_offset: int,
        tp: Any,
        records: Any,
        *,
        refetched: dict[Any, Any],
        max_batch_bytes: int,
        **options: Any,
    ) -> None:
        may_refetch = functools.partial(self._may_refetch, tp, refetched)
        data = records._buffer  # noqa: SLF001 - MemoryRecords has no public access to the fetched bytes
        lenient = LenientRecords(data, may_refetch, max_batch_bytes)
        super().__init__(fetch_offset, tp, lenient, **options)

    @staticmethod
    def _may_refetch(tp: Any, refetched: dict[Any, Any], offset: int) -> bool:
        before, times = refetched.get(tp, (offset, 0))
        times = times + 1 if before == offset else 1
        refetched[tp] = offset, times
        return bool(times <= _REFETCHES)


class LenientRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of one fetch.

    Args:
        data: the bytes as fetched.
        may_refetch: whether to end before the batch at this offset, so that the client fetches it again.
        max_batch_bytes: most bytes of a batch when it is decompressed.
    """

    __slots__ = ("_max_batch_bytes", "_may_refetch")

    # Private to kafka-python's MemoryRecords (3.0.12); used together with its method _cache_next.
    _buffer: Any
    _next_slice: Any
    _pos: int

    def __init__(self, data: Any, may_refetch: Any, max_batch_bytes: int) -> None:
        self._may_refetch, self._max_batch_bytes = may_refetch, max_batch_bytes
        super().__init__(data)

    def next_batch(self, *_: Any) -> Any:
        """The next batch; None at the end.

        Raises:
            CorruptRecordError: a batch whose offsets are unknown.
        """
        part = self._next_slice
        if part is None or len(part) < DefaultRecordBatch.HEADER_STRUCT.size or part[self.MAGIC_OFFSET] != 2:
            return super().next_batch()
        batch = LenientBatch(part, self._max_batch_bytes)
        if not batch.has_right_checksum():
            if self._may_refetch(batch.base_offset):
                return None
            batch.give_up("the checksum of its batch is wrong", self._following_offset())
        self._cache_next()
        return batch

    def _following_offset(self) -> int | None:
        end, buffer = self._pos, memoryview(self._buffer)
        return int.from_bytes(buffer[end : end + 8]) if len(buffer) >= end + self.LOG_OVERHEAD else None


class LenientBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that gives a record for each of its offsets, decodable or not."""

    # Private to kafka-python's DefaultRecordBatch (3.0.12); used together with its methods _maybe_uncompress, which is
    # overridden, and _assert_has_codec.
    _buffer: Any
    _decompressed: bool
    _header_data: tuple[Any, ...]
    _next_record_index: int
    _num_records: int
    _pos: int

    def __init__(self, data: Any, max_bytes: int) -> None:
        super().__init__(data)
        self._max_bytes = max_bytes
        self._why: str | None = None
        self._expected = self.base_offset
        self._next: Any = None

    def has_right_checksum(self) -> bool:
        """Whether the bytes are those that the producer sent."""
        return bool(super().validate_crc())

    def validate_crc(self) -> bool:
        """True: a batch with a wrong checksum has been given up by now (see ``give_up``)."""
        return True

    def give_up(self, why: str, following: int | None = None) -> None:
        """Treat all that is left of the batch as undecodable.

        Args:
            why: the reason, for people.
            following: offset of the next batch, where known, since the header of this one is not to be trusted.

        Raises:
            CorruptRecordError: the offsets of the batch are unknown.
        """
        header = list(self._header_data)
        if following is not None:
            header[6] = following - self.base_offset - 1
        elif header[6] + 1 < header[12]:
            raise CorruptRecordError(f"{why}, and it does not say how many records it has")
        if not 0 <= header[6] < _MOST_RECORDS:
            raise CorruptRecordError(f"{why}, and it claims {header[6] + 1} records")
        self._header_data = tuple(header)
        self._why = why

    def __iter__(self) -> "LenientBatch":
        if self._why is None:
            try:
                self._maybe_uncompress()
            except CorruptRecordError as error:
                self.give_up(str(error))
            except Exception as error:
                # A codec that is not installed is a fault of the installation, and the same for every batch.
                self._assert_has_codec(self.compression_type)
                self.give_up(f"its batch does not decompress: {error}")
        return self

    def __next__(self) -> Any:
        if self.is_control_batch and self._why is None:
            return super().__next__()
        last = self.last_offset
        if self._next is None and self._why is None and self._expected <= last:
            self._next = self._read(last) if self._next_record_index < self._num_records else None
        if self._next is not None and (self._next.offset == self._expected or not self._is_dense()):
            record, self._next = self._next, None
            self._expected = record.offset + 1
            return record
        if self._expected > last or (self._why is None and not self._is_dense()):
            raise StopIteration
        self._expected += 1
        return self._undecodable(self._expected - 1, "its batch does not hold it")

    def _maybe_uncompress(self) -> None:
        """Decompress as kafka-python does, but up to a ceiling."""
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            self._assert_has_codec(self.compression_type)
            packed = bytes(memoryview(self._buffer)[self._pos :])
            self._buffer, self._pos = bytearray(unpack(self.compression_type, packed, self._max_bytes)), 0
        self._decompressed = True

    def _is_dense(self) -> bool:
        """Whether compaction removed no record, so that each offset without a record is one that was lost."""
        return bool(self._num_records == self.last_offset_delta + 1)

    def _read(self, last: int) -> Any:
        """The next record, decodable or not, at an offset that the batch can have."""
        try:
            record = super().__next__()
        except CorruptRecordError:
            record = self._read_again()
        if self._expected <= record.offset <= last:
            return record
        return self._undecodable(self._expected, f"it claims offset {record.offset}")

    def _read_again(self) -> Any:
        if not isinstance(self._buffer, _EscapingBuffer):
            self._buffer = _EscapingBuffer(self._buffer)
        try:
            return super().__next__()
        except CorruptRecordError as error:
            return self._skip(str(error))

    def _skip(self, why: str) -> Any:
        """Skip a record by its length; where that is damaged, give up the rest of the batch."""
        try:
            length, begin = decode_varint(self._buffer, self._pos)
        except (ValueError, IndexError):
            length, begin = -1, 0
        if length < 0 or begin + length > len(self._buffer):
            self.give_up(why)
            return self._undecodable(self._expected, why)
        self._pos = begin + length
        self._next_record_index += 1
        return self._undecodable(self._expected, why)

    def _undecodable(self, offset: int, why: str) -> Any:
        headers = UndecodableHeaders(self._why or why)
        return DefaultRecord(0, offset, self.max_timestamp, self.timestamp_type, None, None, headers)


class _EscapingBuffer(bytearray):
    """A buffer whose slices decode bytes that are not UTF-8 to escapes."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _EscapingBytes(found) if isinstance(key, slice) else found


class _EscapingBytes(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)
