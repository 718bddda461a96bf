"""Decompression of a record batch up to a ceiling, since kafka-python would unpack kilobytes to gigabytes.

The work is bounded as the result is: it grows with the bytes that go in and come out, in however many parts they are.
"""

import zlib
from collections.abc import Iterator

import lz4.frame
import snappy
import zstandard

_GZIP = 16 + zlib.MAX_WBITS
_XERIAL = b"\x82SNAPPY\x00"
"""The magic bytes of Java's Snappy: they, two version numbers, then blocks with their lengths."""
_XERIAL_HEADER = 16
_MOST_PARTS = 2**16
"""Most members of gzip and blocks of Snappy in a batch: each costs more than its bytes. Clients write one member, and
blocks of 32 KiB."""
_PORTION = 4 * 1024
"""Bytes that are given to gzip at a time: what follows the end of a member is copied."""


class TooLarge(ValueError):
    """The batch holds more than the ceiling."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"it unpacks to more than {max_bytes} bytes")


def unpack(codec: int, data: bytes, max_bytes: int) -> bytes | bytearray:
    """Decompress the records of a batch.

    Args:
        codec: Kafka's number: 1 gzip, 2 Snappy, 3 LZ4, 4 Zstandard.
        data: what follows the batch's header.
        max_bytes: most bytes of the result; hardly more is ever held.

    Raises:
        TooLarge: the result would have more than ``max_bytes``.
        ValueError, OSError, RuntimeError, zlib.error, zstandard.ZstdError, snappy.UncompressError: damaged data.
    """
    unpacked: bytes | bytearray
    match codec:
        case 1:
            unpacked = _gzip(data, max_bytes + 1)
        case 2:
            unpacked = _snappy(data, max_bytes)
        case 3:
            unpacked = _lz4(data, max_bytes + 1)
        case 4:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                unpacked = reader.read(max_bytes + 1)
        case _:
            raise ValueError(f"no codec has number {codec}")
    if len(unpacked) > max_bytes:
        raise TooLarge(max_bytes)
    return unpacked


def _gzip(data: bytes, most: int) -> bytearray:
    unpacked, position, members = bytearray(), 0, 0
    while position < len(data) and len(unpacked) < most:
        members = _counted(members)
        member = zlib.decompressobj(_GZIP)
        while not member.eof and len(unpacked) < most:
            portion = data[position : position + _PORTION]
            if not portion:
                raise ValueError("truncated data")
            unpacked += member.decompress(portion, most - len(unpacked))
            position += len(portion) - len(member.unused_data)
    return unpacked


def _lz4(data: bytes, most: int) -> bytes:
    frame = lz4.frame.LZ4FrameDecompressor()
    unpacked: bytes = frame.decompress(data, most)
    if not frame.eof and len(unpacked) < most:
        raise ValueError("truncated data")
    return unpacked


def _snappy(data: bytes, max_bytes: int) -> bytes:
    """Decompress Snappy blocks, whose lengths are known beforehand."""
    blocks = list(_xerial_blocks(data)) if data.startswith(_XERIAL) else [data]
    if sum(map(_snappy_length, blocks)) > max_bytes:
        raise TooLarge(max_bytes)
    return b"".join(snappy.decompress(block) for block in blocks)


def _xerial_blocks(data: bytes) -> Iterator[bytes]:
    position, blocks = _XERIAL_HEADER, 0
    while position < len(data):
        blocks = _counted(blocks)
        begin = position + 4
        position = begin + int.from_bytes(data[position:begin])
        if position > len(data):
            raise ValueError("truncated data")
        yield data[begin:position]


def _snappy_length(block: bytes) -> int:
    """The decompressed length at the head of a block: seven bits a byte, lowest first."""
    length = 0
    for shift, byte in zip(range(0, 35, 7), block, strict=False):
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length
    raise ValueError("a Snappy block without its length")


def _counted(parts: int) -> int:
    """One more than ``parts``, unless they are too many."""
    if parts >= _MOST_PARTS:
        raise ValueError(f"it has more than {_MOST_PARTS} parts")
    return parts + 1
