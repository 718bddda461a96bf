"""The program of a decoder's process: images in, views out, by shared memory; see ``worker.images.decoder_pool``.

It is started as a module of its own with an empty environment, loads what decoding needs, gives up its rights
(``worker.images.sandbox``) and then answers one request after another. The worker believes nothing that it says: every
answer is checked there.
"""

import contextlib
import io
import mmap
import os
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bundle.containers import FORMATS
from bundle.errors import ImageError
from bundle.manifest import Preprocessing
from bundle.preprocess import EncodedImage, ImageFacts, Limits, make_views
from bundle.text import printable
from bundle.views import Views
from worker.images.sandbox import give_up_rights

MESSAGE_MAX_BYTES: Final = 4096
"""A pipe hands out so many bytes in one piece (PIPE_BUF)."""
_DETAIL: Final = 300
_REQUEST: Final = struct.Struct("=Qd")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Job(_Message):
    """What a decoder does, given on its command line."""

    requests: int
    """File descriptors: of the pipe of requests, of that of answers, of the memory for images and of that for views."""
    answers: int
    images: int
    views: int
    preprocessings: tuple[Preprocessing, ...]
    max_bytes: int
    max_pixels: int


class Ready(_Message):
    """The first message: the process's address space in bytes, and what keeps it out of the sandbox, if anything."""

    kind: Literal["ready"] = "ready"
    address_bytes: int
    unprotected: str | None


class Needs(_Message):
    """By its header, decoding the image needs more memory than was granted."""

    kind: Literal["needs"] = "needs"
    peak_bytes: int
    pixels: int


class Decoded(_Message):
    """The views of each preprocessing lie in the mapping, in this order and behind those of the images before.

    ``counts`` are their numbers.
    """

    kind: Literal["decoded"] = "decoded"
    facts: ImageFacts
    counts: tuple[int, ...]


class Refused(_Message):
    """The image's own fault, by the name of its error class; or ``MemoryError``."""

    kind: Literal["refused"] = "refused"
    error: str
    detail: str


Answer = Ready | Needs | Decoded | Refused
ANSWERS: Final = TypeAdapter(list[Annotated[Answer, Field(discriminator="kind")]])


def pack_request(encoded_bytes: Sequence[int], granted_bytes: int, limit_s: float) -> bytes:
    """A request, in a few bytes.

    Args:
        encoded_bytes: of each image; they lie in the mapping one after another.
        granted_bytes: decoded bytes that may be held, the views of all of them included.
        limit_s: after so many seconds the process ends itself, in case that the worker is no longer there to end it.
    """
    return _REQUEST.pack(granted_bytes, limit_s) + struct.pack(f"={len(encoded_bytes)}Q", *encoded_bytes)


def unpack_request(request: bytes) -> tuple[Sequence[int], int, float]:
    """The arguments of ``pack_request``."""
    granted_bytes, limit_s = _REQUEST.unpack_from(request)
    return memoryview(request)[_REQUEST.size :].cast("Q").tolist(), granted_bytes, limit_s


class Decoding:
    """One image after another, from the header to the views."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._limits = Limits(job.max_bytes, job.max_pixels)
        self._images = _mapped(job.images)
        self._views = _mapped(job.views)
        self._written = 0

    def answers(self, encoded_bytes: Sequence[int], granted_bytes: int) -> list[Answer]:
        """The answers to one request."""
        self._written = 0
        ends = [0, *accumulate(encoded_bytes)]
        return [self._answer(self._images[begin:end], granted_bytes) for begin, end in pairwise(ends)]

    def _answer(self, data: bytes, granted_bytes: int) -> Answer:
        try:
            encoded = EncodedImage(data, self._limits)
            peak_bytes = encoded.peak_bytes(self._job.preprocessings)
            if peak_bytes > granted_bytes - self._written:
                return Needs(peak_bytes=peak_bytes, pixels=encoded.facts.width * encoded.facts.height)
            decoded = encoded.decode(opaque=any(each.drops_alpha for each in self._job.preprocessings))
            counts = self._write(make_views(decoded, each) for each in self._job.preprocessings)
            return Decoded(facts=encoded.facts, counts=counts)
        except (ImageError, MemoryError) as error:
            name = MemoryError.__name__ if _short_of_memory(error) else type(error).__name__
            return Refused(error=name, detail=brief_ascii(str(error)))

    def _write(self, parts: Iterable[Views]) -> tuple[int, ...]:
        counts, offset = [], self._written
        for part in parts:
            np.ndarray(part.shape, np.uint8, self._views, offset)[...] = part
            counts.append(len(part))
            offset += part.nbytes
        self._written = offset
        return tuple(counts)


def main() -> None:
    """Answer requests until the worker closes its end of the pipe."""
    job = Job.model_validate_json(sys.argv[1])
    with contextlib.suppress(OSError):  # where memory is short, a decoder ends before its worker does
        Path("/proc/self/oom_score_adj").write_text("1000")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for each core
    decoding = Decoding(job)
    _load_everything(job)
    address_bytes = _address_bytes()
    _say(job.answers, [Ready(address_bytes=address_bytes, unprotected=give_up_rights())])
    while request := os.read(job.requests, MESSAGE_MAX_BYTES):
        encoded_bytes, granted_bytes, limit_s = unpack_request(request)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        answers = decoding.answers(encoded_bytes, granted_bytes)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(job.answers, answers)


def _mapped(descriptor: int) -> mmap.mmap:
    mapping = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    return mapping


def _load_everything(job: Job) -> None:
    """Decode an image of each format, and a damaged one: later no module can be imported and no library loaded."""
    Image.init()
    for name in Image.SAVE.keys() & set(FORMATS):  # Pillow may have been built without AVIF
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.new("RGB", (16, 16)).save(buffer, name, exif=exif)
        for data in (buffer.getvalue(), buffer.getvalue()[:-40]):
            with contextlib.suppress(ImageError):
                decoded = EncodedImage(data, Limits()).decode()
                for preprocessing in job.preprocessings:
                    make_views(decoded, preprocessing)


def _say(pipe: int, answers: list[Answer]) -> None:
    text = ANSWERS.dump_json(answers)
    assert len(text) <= MESSAGE_MAX_BYTES  # one write, and one read
    os.write(pipe, text)


def brief_ascii(text: str) -> str:
    """A text that fits into a message beside others, whatever it says."""
    return printable(text).encode("ascii", "backslashreplace")[:_DETAIL].decode()


def _short_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that there was too little memory."""
    return (
        isinstance(error, MemoryError)
        or "out of memory" in str(error).lower()
        or (error.__cause__ is not None and _short_of_memory(error.__cause__))
    )


def _address_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


if __name__ == "__main__":
    main()
