"""One decoder as the worker sees it: a process, two pipes and two pieces of shared memory.

Whatever it answers is checked, as the answer may come from code that an image has taken over.
"""

import mmap
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, Final

import numpy as np
from pydantic import ValidationError

from bundle.containers import FORMATS
from bundle.errors import ImageError
from bundle.manifest import Preprocessing
from bundle.preprocess import ImageFacts, Limits, check_encoded_bytes
from bundle.views import MAX_PIXELS_CEILING, Views
from worker.errors import DecodeMemory, DecoderCrashed, DecoderError, DecodeTimeout
from worker.images.decoder import (
    ANSWERS,
    MESSAGE_MAX_BYTES,
    Answer,
    Decoded,
    Job,
    Needs,
    Ready,
    Refused,
    pack_request,
)
from worker.images.prepare import BATCH_IMAGE_BYTES, BATCH_IMAGES

COMMAND: Final = (sys.executable, "-I", "-m", "worker.images.decoder")
"""How a decoder is started; its job is appended."""
_START_S = 60.0
DEADLINE_S: Final = 5.0
_DEADLINE_S_A_MEGAPIXEL = 0.5
"""Both together are more than ten times what the slowest format takes on one core."""
_GRACE_S = 10.0
"""A decoder that outlives its deadline by so much has lost its worker, and ends by itself."""
_SLACK_BYTES = 128 * 2**20
"""Address space beyond what is granted: the encoded image, and what the allocator keeps for the next one."""
_LEAST_BYTES_A_PIXEL, _MOST_BYTES_A_PIXEL = 3, 64
"""Of decoded pixels; the second with room for all that turning and resizing hold beside them."""
_KEPT_BYTES = 2**20
"""Shared memory that stays allocated between images."""
_LAST_WORDS = 300
_IMAGE_ERRORS: Final = {error.__name__: error for error in ImageError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class DecodedViews:
    """Facts of an image, and its views in the order of the preprocessings."""

    facts: ImageFacts
    views: list[Views]


class DecoderProcess:
    """Decodes images one after another, for one thread at a time. After a ``DecoderError`` it can only be closed.

    Decoding may hold ``granted_bytes`` before the worker has been asked; see ``bundle.preprocess`` for what it takes.
    """

    def __init__(
        self,
        preprocessings: Sequence[Preprocessing],
        limits: Limits,
        granted_bytes: int,
        command: Sequence[str] = COMMAND,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._command = tuple(command)
        self._deadline_s = deadline_s
        self._preprocessings = tuple(preprocessings)
        self._shapes = [(each.most_views, each.size) for each in preprocessings]
        self._limits = limits
        self._granted_bytes = granted_bytes
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._address_bytes = 0
        self._peak_bytes = -1

    def start(self) -> str | None:
        """Start the process; None, or why the kernel does not let it give up its rights.

        Raises:
            DecoderError: it does not start.
        """
        with ExitStack() as theirs:
            requests, self._requests = _pipe(theirs, self._held)
            self._answer_pipe, answers = _pipe(self._held, theirs)
            self._answered = select.poll()
            self._answered.register(self._answer_pipe, select.POLLIN)
            view_bytes = self._view_bytes([most for most, _ in self._shapes])
            images, self._images = self._shared(theirs, max(self._limits.max_bytes, BATCH_IMAGES * BATCH_IMAGE_BYTES))
            views, self._views = self._shared(theirs, BATCH_IMAGES * view_bytes)
            self._stderr: BinaryIO = self._held.enter_context(os.fdopen(os.memfd_create("decoder-stderr"), "w+b"))
            job = Job(
                requests=requests,
                answers=answers,
                images=images,
                views=views,
                preprocessings=self._preprocessings,
                max_bytes=self._limits.max_bytes,
                max_pixels=self._limits.max_pixels,
            )
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [*self._command, job.model_dump_json()],
                    env={},
                    pass_fds=(requests, answers, images, views),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    start_new_session=True,  # Ctrl-C is for the worker
                )
            except OSError as error:
                raise DecoderCrashed(f"it does not start: {error}") from error
        ready = self._answers(_START_S)[0]
        if not isinstance(ready, Ready):
            raise DecoderCrashed("its answer makes no sense")
        self._address_bytes = ready.address_bytes
        return ready.unprotected

    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def decode(self, images: Sequence[bytes]) -> list[DecodedViews | ImageError | Needs]:
        """Decode images as ``Decoders.prepare_small`` gets them, or a single one.

        Returns:
            For each image, in order: its views, its own fault, or what it needs beyond the bytes that are granted and
            that the views of those before it have left; then ``decode_large``.

        Raises:
            DecoderError: the process has ended or is of no use any more.
        """
        faults = [_fault(data, self._limits) for data in images]
        answers = iter(self._ask([data for data, fault in zip(images, faults, strict=True) if fault is None]))
        return [fault or next(answers) for fault in faults]

    def decode_large(self, image: bytes, needs: Needs) -> DecodedViews | ImageError:
        """Decode an image with the memory that it needs.

        Raises:
            DecoderError: as ``decode``.
        """
        [found] = self._ask([image], needs)
        if isinstance(found, Needs):
            raise DecoderCrashed("its answer makes no sense")
        return found

    def kill(self) -> None:
        """End the process, whatever it does; from any thread. A call under way raises a ``DecoderError``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the process and free its memory; safe to call twice."""
        self.kill()
        self._held.close()

    def _shared(self, theirs: ExitStack, size: int) -> tuple[int, mmap.mmap]:
        """Memory that both processes see: a file descriptor for the decoder, and the mapping of this process."""
        descriptor = os.memfd_create("decoder-images")  # /dev/shm has 64 MiB in a container
        theirs.callback(os.close, descriptor)
        os.ftruncate(descriptor, max(1, size))
        mapping = mmap.mmap(descriptor, 0)
        self._held.callback(mapping.close)
        return descriptor, mapping

    def _grant(self, peak_bytes: int) -> None:
        """Limit the address space of the process to what it had at its start, and so many bytes more."""
        assert self._process is not None  # start
        if peak_bytes == self._peak_bytes:
            return
        self._peak_bytes = peak_bytes
        most = self._address_bytes + peak_bytes + _SLACK_BYTES
        with suppress(ProcessLookupError):  # it has just ended, as the next request will tell
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_AS)
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (soft, hard))

    def _ask(self, images: Sequence[bytes], needs: Needs | None = None) -> list[DecodedViews | ImageError | Needs]:
        if not images:
            return []
        granted_bytes = needs.peak_bytes if needs else self._granted_bytes
        pixels = needs.pixels if needs else granted_bytes // _LEAST_BYTES_A_PIXEL
        self._grant(granted_bytes)
        sizes = [len(data) for data in images]
        for data, end in zip(images, accumulate(sizes), strict=True):
            self._images[end - len(data) : end] = data
        limit_s = self._deadline_s + _DEADLINE_S_A_MEGAPIXEL * pixels / 1e6
        try:
            os.write(self._requests, pack_request(sizes, granted_bytes, limit_s + _GRACE_S))
        except BrokenPipeError:
            raise self._ended() from None
        results = self._results(self._answers(limit_s), sizes, granted_bytes)
        written = sum(views.nbytes for found in results if isinstance(found, DecodedViews) for views in found.views)
        for mapping, used in ((self._images, sum(sizes)), (self._views, needs.peak_bytes if needs else written)):
            if used > _KEPT_BYTES and len(mapping) > _KEPT_BYTES:
                mapping.madvise(mmap.MADV_REMOVE, _KEPT_BYTES)
        return results

    def _answers(self, limit_s: float) -> list[Answer]:
        """One answer at least."""
        if not self._answered.poll(limit_s * 1000):
            raise DecodeTimeout(f"no answer within {limit_s:.0f} s")
        text = os.read(self._answer_pipe, MESSAGE_MAX_BYTES)
        if not text:
            raise self._ended()
        with suppress(ValidationError):
            if answers := ANSWERS.validate_json(text):
                return answers
        raise DecoderCrashed("its answer makes no sense")

    def _results(
        self, answers: list[Answer], sizes: Sequence[int], granted_bytes: int
    ) -> list[DecodedViews | ImageError | Needs]:
        found: list[DecodedViews | ImageError | Needs] = []
        offset = 0
        if len(answers) != len(sizes):
            raise DecoderCrashed("its answer makes no sense")
        for answer, encoded_bytes in zip(answers, sizes, strict=True):
            match answer:
                case Decoded(facts=facts, counts=counts) if self._is_possible(facts, counts, encoded_bytes):
                    begin, offset = offset, offset + self._view_bytes(counts)
                    if offset > granted_bytes:  # an honest one counts its views
                        raise DecoderCrashed("its answer makes no sense")
                    found.append(DecodedViews(facts, self._copied(counts, begin)))
                case Needs() if self._may_need(answer, granted_bytes - offset):
                    found.append(answer)
                case Refused(error=name, detail=detail) if name in _IMAGE_ERRORS:
                    found.append(_IMAGE_ERRORS[name](detail))
                case Refused(error=MemoryError.__name__):
                    raise DecodeMemory(f"decoding takes more than {granted_bytes + _SLACK_BYTES} bytes")
                case _:
                    raise DecoderCrashed("its answer makes no sense")
        return found

    def _may_need(self, needs: Needs, granted_bytes: int) -> bool:
        """Whether an honest decoder could need so much."""
        views = self._view_bytes([most for most, _ in self._shapes])
        most = _MOST_BYTES_A_PIXEL * MAX_PIXELS_CEILING + 2 * views + 4 * len(self._images)
        return 0 < needs.pixels <= self._limits.max_pixels and granted_bytes < needs.peak_bytes <= most

    def _is_possible(self, facts: ImageFacts, counts: tuple[int, ...], encoded_bytes: int) -> bool:
        """Whether an honest decoder could answer this for an image of so many bytes."""
        return (
            facts.format in FORMATS
            and facts.bytes == encoded_bytes
            and facts.width > 0
            and 0 < facts.width * facts.height <= self._limits.max_pixels
            and len(counts) == len(self._shapes)
            and all(0 <= count <= most for count, (most, _) in zip(counts, self._shapes, strict=True))
        )

    def _view_bytes(self, counts: Sequence[int]) -> int:
        return sum(count * size**2 * 3 for count, (_, size) in zip(counts, self._shapes, strict=True))

    def _copied(self, counts: tuple[int, ...], offset: int) -> list[Views]:
        found = []
        for (_, size), count in zip(self._shapes, counts, strict=True):
            views = np.ndarray((count, size, size, 3), np.uint8, self._views, offset)
            found.append(views.copy())
            offset += views.nbytes
        return found

    def _ended(self) -> DecoderError:
        """The error of a process that is no longer there."""
        assert self._process is not None  # start
        status = self._process.wait()
        if status == -signal.SIGALRM:
            return DecodeTimeout("it ended itself after its deadline")
        if status == -signal.SIGKILL:
            return DecodeMemory("its process was killed, as the kernel does when memory is short")
        how = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last_words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return DecoderCrashed(f"its process ended with {how}: {last_words[:_LAST_WORDS]}".rstrip(": "))


def _fault(data: bytes, limits: Limits) -> ImageError | None:
    """What is wrong with an image by its length alone, if anything."""
    try:
        check_encoded_bytes(data, limits)
    except ImageError as error:
        return error.with_traceback(None)
    return None


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """A pipe's two ends, each closed by its own stack."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends
