"""Decompression of what kafka-python's own encoders write."""

import time
import tracemalloc
import zlib
from contextlib import suppress

import pytest
import snappy
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka import codec as kafka_codec

from worker.kafka.decompression import TooLarge, unpack

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
ENCODERS = {
    GZIP: kafka_codec.gzip_encode,
    SNAPPY: kafka_codec.snappy_encode,
    LZ4: kafka_codec.lz4_encode,
    ZSTD: kafka_codec.zstd_encode,
}
MAX_BYTES = 2**16
BOMB = bytes(64 * 2**20)


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("size", [0, 1, 1000, MAX_BYTES - 1, MAX_BYTES])
def test_what_fits_comes_out_whole(codec: int, size: int) -> None:
    data = bytes(n * n % 251 for n in range(size))
    assert unpack(codec, ENCODERS[codec](data), MAX_BYTES) == data


@pytest.mark.parametrize("codec", ENCODERS)
def test_one_byte_too_many_is_refused(codec: int) -> None:
    with pytest.raises(TooLarge, match="more than 65536 bytes"):
        unpack(codec, ENCODERS[codec](bytes(MAX_BYTES + 1)), MAX_BYTES)


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_bomb_takes_no_more_memory_than_the_ceiling(codec: int) -> None:
    packed = ENCODERS[codec](BOMB)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            unpack(codec, packed, MAX_BYTES)
        assert tracemalloc.get_traced_memory()[1] < len(packed) + 20 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_snappy_as_other_clients_write_it() -> None:
    """Snappy without Java's blocks."""
    assert unpack(SNAPPY, snappy.compress(b"x" * 1000), MAX_BYTES) == b"x" * 1000


def test_gzip_in_several_members() -> None:
    assert unpack(GZIP, kafka_codec.gzip_encode(b"a") + kafka_codec.gzip_encode(b"b"), MAX_BYTES) == b"ab"


def test_many_parts_cost_no_more_than_their_bytes() -> None:
    xerial = b"\x82SNAPPY\x00" + bytes(8)
    block = snappy.compress(b"xy")
    parts = {GZIP: zlib.compress(b"xy", wbits=31), SNAPPY: len(block).to_bytes(4) + block}
    began = time.process_time()
    for codec, part in parts.items():
        head = xerial if codec == SNAPPY else b""
        assert unpack(codec, head + part * 30_000, MAX_BYTES) == b"xy" * 30_000
        with pytest.raises(ValueError, match="more than 65536 parts"):
            unpack(codec, head + part * 600_000, 2**30)
    assert time.process_time() - began < 5  # gzip took half a minute for an eighth of that


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4])
def test_truncated_data_is_an_error(codec: int) -> None:
    """A truncated Zstandard frame gives the data up to there, so that the batch lacks records; others are errors."""
    with pytest.raises((ValueError, OSError, RuntimeError, zlib.error)):
        unpack(codec, ENCODERS[codec](bytes(range(256)) * 100)[:-20], MAX_BYTES)


@given(st.sampled_from(list(ENCODERS)), st.binary(max_size=200), st.integers(0, 199), st.integers(1, 255))
def test_damage_is_an_error_or_bounded_bytes(codec: int, data: bytes, position: int, flip: int) -> None:
    packed = bytearray(ENCODERS[codec](data))
    packed[position % len(packed)] ^= flip
    with suppress(ValueError, OSError, RuntimeError, zlib.error, zstandard.ZstdError, snappy.UncompressError):
        assert len(unpack(codec, bytes(packed), MAX_BYTES)) <= MAX_BYTES


def test_an_unknown_codec_is_an_error() -> None:
    with pytest.raises(ValueError, match="no codec has number 5"):
        unpack(5, b"", MAX_BYTES)
