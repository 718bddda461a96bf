"""What was in flight when the process was killed, in a small file that outlives it.

An event that kills the process (a crash in native code, the kernel when memory is short) would kill the next one that
reads it, and the next. So each event is noted before it is parsed, and struck out once its answer is known; and each
batch of records before it is unpacked, and struck out afterwards. What a start finds noted is suspected: until all of
those events are answered and those batches unpacked, the worker does one thing at a time. What was alone when a process
ended, ``KILLS`` times, is rejected unread.

Notes are written into mapped memory of the file: they cost no system call, and survive the process, not the machine.
An orderly end strikes out what was in flight; an exception that nobody foresaw counts as a kill.
"""

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import structlog

from worker.errors import StartupError, WorkerError
from worker.messages.records import Partition, Record

_log = structlog.get_logger(__name__)

KILLS: Final = 2
"""Processes that one event or batch may end while it is alone. Another may have ended before, with others in flight
too."""
_SLOT_BYTES: Final = 512
"""More than a note with the longest name of a topic (249 characters) has."""
_BLANK: Final = b" " * _SLOT_BYTES


class Suspect(NamedTuple):
    """A record, or a batch of records, by its first offset."""

    partition: Partition
    offset: int
    is_batch: bool = False


class Journal:
    """Notes of records and batches; used by the pipeline's thread alone. Without a path nothing is noted.

    Args:
        path: the file; it is made if it is not there.
        slots: most records and batches that are noted at a time; more are not.
    """

    def __init__(self, path: Path | None, slots: int) -> None:
        self._path = path
        self._slots = slots
        self._held = contextlib.ExitStack()
        self._memory: mmap.mmap | None = None
        self._free = list(range(slots))
        self._noted: dict[Suspect, int] = {}
        """The slot of each record or batch."""
        self._in_flight: set[Suspect] = set()
        self.suspects: dict[Suspect, int] = {}
        """What was noted when a process ended, with how many ended while it was alone."""

    def __enter__(self) -> Self:
        """Open the file and read what an earlier process left.

        Raises:
            StartupError: the file cannot be used, or another process uses it.
        """
        if self._path is None:
            return self
        try:
            self._memory = self._mapped(self._path)
        except BlockingIOError as error:
            raise StartupError(f"pipeline.journal={self._path}: another worker uses this file") from error
        except OSError as error:
            raise StartupError(f"pipeline.journal={self._path}: {error.strerror}") from error
        self._read(self._memory)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close the file; strike out what was in flight, unless an exception that nobody foresaw ends the process."""
        if error is None or isinstance(error, WorkerError):
            for key in self._noted.keys() - self.suspects.keys():
                self._strike(key)
            for key in self.suspects.keys() & self._noted.keys():
                self._write(key, in_flight=False, alone=False)
        self._held.close()
        self._memory = None

    def note(self, record: Record, *, alone: bool) -> None:
        """Note that a record is in flight; ``alone`` if no other is."""
        self._write(Suspect(record.partition, record.offset), in_flight=True, alone=alone)

    def strike(self, record: Record) -> None:
        """Strike a record out: its answer is known, or another worker has it now."""
        self._strike(Suspect(record.partition, record.offset))

    def release(self, record: Record) -> None:
        """Note that a record is in flight no longer, and not answered: it is as suspect as it was before."""
        key = Suspect(record.partition, record.offset)
        if key in self.suspects:
            self._write(key, in_flight=False, alone=False)
        else:
            self._strike(key)

    def kills(self, record: Record) -> int:
        """How many processes ended while this record was in flight alone."""
        return self.suspects.get(Suspect(record.partition, record.offset), 0)

    def begin_batch(self, partition: Partition, offset: int) -> bool:
        """See ``BatchGuard``."""
        batch = Suspect(partition, offset, is_batch=True)
        if self.suspects.get(batch, 0) >= KILLS:
            return False
        self._write(batch, in_flight=True, alone=not self._in_flight)
        return True

    def end_batch(self, partition: Partition, offset: int) -> None:
        """See ``BatchGuard``."""
        self._strike(Suspect(partition, offset, is_batch=True))

    def suspects_batch_of(self, partitions: Collection[Partition]) -> bool:
        """Whether a batch of these is suspected that will be unpacked once more."""
        return any(
            suspect.is_batch and kills < KILLS and suspect.partition in partitions
            for suspect, kills in self.suspects.items()
        )

    def forget(self, partition: Partition, before: int | None = None, *, spare_rejected: bool = False) -> None:
        """Suspect nothing of a partition any more, or nothing before an offset.

        With ``spare_rejected`` what is to be rejected stays: a batch begins before its first record that is left.
        """
        for suspect, kills in list(self.suspects.items()):
            is_before = suspect.partition == partition and (before is None or suspect.offset < before)
            if is_before and not (spare_rejected and kills >= KILLS):
                self._strike(suspect)

    def forget_batches(self, partition: Partition) -> None:
        """Suspect no batch of a partition any more, since all were unpacked, but those that are rejected unread."""
        for suspect, kills in list(self.suspects.items()):
            if suspect.partition == partition and suspect.is_batch and kills < KILLS:
                self._strike(suspect)

    def _mapped(self, path: Path) -> mmap.mmap:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, self._slots * _SLOT_BYTES)
        return self._held.enter_context(contextlib.closing(mmap.mmap(descriptor, 0)))

    def _read(self, memory: mmap.mmap) -> None:
        """Suspect what is noted, and note all of it anew."""
        for slot in range(self._slots):
            with contextlib.suppress(ValueError, TypeError):  # an empty slot, or one that was being written
                text = memory[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES].strip(b" \0")
                topic, number, offset, is_batch, kills, in_flight, alone = json.loads(text)
                suspect = Suspect(Partition(str(topic), int(number)), int(offset), bool(is_batch))
                self.suspects[suspect] = int(kills) + bool(in_flight and alone)
        memory[:] = _BLANK * self._slots
        for key in self.suspects:
            self._write(key, in_flight=False, alone=False)
        if self.suspects:
            _log.warning("an earlier process was killed: one event at a time", suspects=len(self.suspects))

    def _write(self, key: Suspect, *, in_flight: bool, alone: bool) -> None:
        if self._memory is None:
            return
        if key not in self._noted:
            if not self._free:
                return
            self._noted[key] = self._free.pop()
        if in_flight:
            self._in_flight.add(key)
        else:
            self._in_flight.discard(key)
        (topic, number), offset, is_batch = key
        text = json.dumps([topic, number, offset, is_batch, self.suspects.get(key, 0), in_flight, alone])
        begin = self._noted[key] * _SLOT_BYTES
        self._memory[begin : begin + _SLOT_BYTES] = text.encode().ljust(_SLOT_BYTES)

    def _strike(self, key: Suspect) -> None:
        self.suspects.pop(key, None)
        self._in_flight.discard(key)
        slot = self._noted.pop(key, None)
        if slot is not None and self._memory is not None:
            self._memory[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = _BLANK
            self._free.append(slot)
