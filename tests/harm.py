"""Changing what Apache Kafka has stored, as a bad disk or a bad producer would."""

import struct
from pathlib import Path

from kafka.record.util import calc_crc32c

_LENGTH, _CHECKSUM, _CHECKED = 8, 17, 21
"""Places in a record batch: its length, its checksum, and where that begins."""
_OVERHEAD = 12


def harm_batch(segment: Path, find: bytes, by: bytes, *, checksum: bool) -> int:
    """Replace bytes in every batch that has them, and count those; with a right ``checksum`` it was the producer."""
    assert len(find) == len(by)
    data = bytearray(segment.read_bytes())
    begin = harmed = 0
    while begin + _OVERHEAD < len(data) and (length := struct.unpack_from(">i", data, begin + _LENGTH)[0]):
        end = begin + _OVERHEAD + length
        batch = data[begin:end]
        if find in batch:
            harmed += 1
            batch = batch.replace(find, by)
            if checksum:
                struct.pack_into(">I", batch, _CHECKSUM, calc_crc32c(bytes(batch[_CHECKED:])))
            data[begin:end] = batch
        begin = end
    with segment.open("r+b") as file:  # the same file: the broker has it open
        file.write(data)
    return harmed
