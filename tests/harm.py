"""Harm: what Apache Kafka has stored, changed as by a bad disk or producer, and a codec that kills its process."""

import os
import signal
import struct
from pathlib import Path
from typing import Any

from kafka.record.util import calc_crc32c

from worker.kafka import record_batches
from worker.kafka.decompression import unpack

DEADLY_BATCH = b"this kills what unpacks it"
"""Kills the process that unpacks a batch which holds it, after ``make_unpacking_deadly``."""

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


def make_unpacking_deadly() -> None:
    """Let batches with ``DEADLY_BATCH`` kill this process (SIGKILL), as faulty native code would."""

    def unpacked(*arguments: Any) -> Any:
        data = unpack(*arguments)
        if DEADLY_BATCH in data:
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    setattr(record_batches, "unpack", unpacked)  # noqa: B010 - a name that the module imports
