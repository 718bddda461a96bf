"""Judging hostile bytes in a process of its own, which may hang, crash or eat memory without taking us with it."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from bundle.errors import ImageError
from bundle.manifest import Model
from bundle.preprocess import EncodedImage, Limits, pixels_digest
from tests.worker.images.in_process import InProcess
from worker.settings import EventSettings, ImageSettings

_SLACK_BYTES = 64 * 2**20
"""Beside the reserved bytes: four times the encoded ones, and what interpreter and allocators take for themselves."""

LIMITS = Limits(EventSettings().inline_max_bytes, ImageSettings().max_pixels)
"""Limits of a worker whose settings nobody has touched."""


@dataclass(frozen=True)
class Finding:
    """Something that must not happen, with the bytes that did it."""

    what: str
    data: bytes


@dataclass(frozen=True)
class Judged:
    """``ok`` or a reason, what came out, how long it took and how far memory grew beyond what was reserved."""

    outcome: str
    result: str
    seconds: float
    excess_bytes: int


class Task(Protocol):
    """What the worker does with bytes of strangers."""

    def run(self, data: bytes) -> tuple[str, str]:
        """``ok`` or the reason of an error of ours, and what came out, as far as it is compared.

        Raises:
            Exception: a finding.
        """

    def reserved_bytes(self, data: bytes) -> int:
        """Memory that was reserved for it."""


@dataclass(frozen=True)
class Preparation:
    """From the bytes of an image to the views of these models; what comes out is a digest of them."""

    models: tuple[Model, ...]

    def run(self, data: bytes) -> tuple[str, str]:
        """See ``Task``."""
        try:
            views = InProcess(self.models, LIMITS).prepare(data).views
        except ImageError as error:
            return error.reason, ""
        return "ok", " ".join(pixels_digest(views[model.name]) for model in self.models)

    def reserved_bytes(self, data: bytes) -> int:
        """See ``Task``."""
        try:
            return EncodedImage(data, LIMITS).peak_bytes(model.preprocessing for model in self.models)
        except ImageError:
            return 0


class Judge:
    """Does a task as the worker does, in a child; each time it has ``deadline_s``.

    Args:
        task: what is done.
        deadline_s: for one input.
        spoil: for tests of the judge itself: called in the child with each input before the task.
    """

    def __init__(self, task: Task, deadline_s: float, spoil: "Spoil | None" = None) -> None:
        self._task, self._deadline_s, self._spoil = task, deadline_s, spoil
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def judge(self, inputs: Sequence[bytes]) -> Iterator[Judged | Finding]:
        """One answer for each, in order; after a finding a new child goes on with the next."""
        for data in inputs:
            try:
                self._pipe.send_bytes(data)
                if not self._pipe.poll(self._deadline_s):
                    self._end()
                    self._start()
                    yield Finding(f"no answer within {self._deadline_s:g} s", data)
                    continue
                answer = self._pipe.recv()
            except (EOFError, OSError):
                self._child.join(5)
                status = self._child.exitcode or 0
                self._end()
                self._start()
                yield Finding(f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit {status}", data)
                continue
            if isinstance(answer, str):
                yield Finding(answer, data)
            elif answer.excess_bytes > _SLACK_BYTES + 4 * len(data):
                yield Finding(f"{answer.excess_bytes / 2**20:.0f} MiB beyond what was reserved", data)
                self._end()  # the peak never goes down again in that process
                self._start()
            else:
                yield answer

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._child = self._context.Process(target=_serve, args=(theirs, self._task, self._spoil), daemon=True)
        self._child.start()
        theirs.close()
        assert self._pipe.poll(60), "the child did not start"
        self._pipe.recv()

    def _end(self) -> None:
        self._child.kill()
        self._child.join()
        self._pipe.close()


class Spoil:
    """What a test plants in the child."""

    def __call__(self, data: bytes) -> None:
        """May do anything."""


def _serve(pipe: Connection, task: Task, spoil: Spoil | None) -> None:
    pipe.send("ready")
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        _reset_peak()
        before, began = _peak_bytes(), time.monotonic()
        try:
            if spoil is not None:
                spoil(data)
            outcome, result = task.run(data)
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}"[:300])
            continue
        grown = _peak_bytes() - before
        pipe.send(Judged(outcome, result, time.monotonic() - began, grown - task.reserved_bytes(data)))


def _reset_peak() -> None:
    """Linux counts the peak anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
