"""Decoders: processes of their own that turn the bytes of strangers into views, so that none of these ends the worker.

::

    worker                                              decoder (worker.images.decoder), one for each core
      image ──── shared memory, a request by pipe ───>  header; asks before it takes more memory than was granted
      views <─── shared memory, an answer by pipe ────  pixels, views

A decoder that crashes, outruns its deadline or its memory is replaced, and its image is tried once more, in the fresh
process; an image that ends two of them is rejected. An end on several small images, in one request, is nobody's fault
yet: each is taken alone afterwards.
A fresh process must give the pixels of the bundle's probe before it is used: while none does, the fault is the worker's
(too little memory, a throttled CPU, a kernel that forbids what decoding needs), and images wait instead of being
rejected.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

import structlog

from bundle.errors import ImageError, ImageTooLarge, TooManyPixels
from bundle.preprocess import Limits, pixels_digest
from bundle.store import Bundle
from worker.errors import DecoderCrashed, DecoderError, StartupError
from worker.images.decoder import Needs
from worker.images.decoder_process import COMMAND, DEADLINE_S, DecodedViews, DecoderProcess
from worker.images.memory import MemoryBudget
from worker.images.prepare import PreparedImage
from worker.settings import Settings

_log = structlog.get_logger(__name__)

_GRANTED_BYTES = 16 * 2**20
"""Most decoded bytes that are granted before the header is read, so that ordinary images take one request."""
_TRIES = 2
_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Between attempts to get a decoder that works; the last one repeats."""


class DecoderPool:
    """``Decoders`` in processes of their own; ``command`` starts one of them, ``ended`` hears of each that ended."""

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        ended: Callable[[DecoderError], object] = lambda _: None,
        command: Sequence[str] = COMMAND,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._bundle = bundle
        self._settings = settings.images
        self._limits = Limits(
            max_bytes=max(settings.events.inline_max_bytes, settings.fetch.max_bytes),
            max_pixels=settings.images.max_pixels,
        )
        self._ended = ended
        self._command = command
        self._deadline_s = deadline_s
        models = bundle.manifest.models
        self._preprocessings = tuple(dict.fromkeys(model.preprocessing for model in models))
        self._places = {model.name: self._preprocessings.index(model.preprocessing) for model in models}
        """Of each model's views among those of an image."""
        count = self._settings.decode_processes
        self._budget = MemoryBudget(self._settings.memory_bytes)
        self._granted_bytes = min(_GRANTED_BYTES, self._settings.memory_bytes // count)
        self._slots = [_Slot(self._process()) for _ in range(count)]
        self._idle: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self._slots:
            self._idle.put(slot)
        self._closed = threading.Event()

    @property
    def held_bytes(self) -> int:
        """See ``Decoders``."""
        return self._budget.held_bytes

    @property
    def waiting(self) -> int:
        """See ``Decoders``."""
        return sum(slot.waits for slot in self._slots)

    @property
    def unprotected(self) -> int:
        """See ``Decoders``."""
        return sum(slot.unprotected for slot in self._slots)

    def start(self) -> None:
        """See ``Decoders``."""
        try:
            with ThreadPoolExecutor(len(self._slots)) as starting:
                list(starting.map(self._fill, self._slots))
        except DecoderError as error:
            raise StartupError(f"images cannot be decoded here: {error}") from error

    def prepare(self, data: bytes) -> PreparedImage:
        """See ``Decoders``."""
        with self._slot() as slot:
            found = self._decode(slot, data)
        if isinstance(found, ImageError):
            raise found
        return self._prepared(found)

    def prepare_small(self, images: Sequence[bytes]) -> list[PreparedImage | ImageError | None]:
        """See ``Decoders``."""
        try:
            with self._slot() as slot:
                try:
                    found = self._request(slot.process, images)
                except DecoderError as error:
                    self._replace(slot, error)
                    raise
        except DecoderError:
            return [None] * len(images)
        return [self._prepared(each) if isinstance(each, DecodedViews) else _if_fault(each) for each in found]

    @contextmanager
    def _slot(self) -> Iterator["_Slot"]:
        """A decoder that runs.

        Raises:
            DecoderCrashed: the pool is closed.
        """
        slot = self._idle.get()
        try:
            if not (self._closed.is_set() or slot.process.is_running()):  # it ended while it had nothing to do
                self._refill(slot)
            self._assert_open()
            yield slot
        finally:
            self._idle.put(slot)

    def _assert_open(self) -> None:
        if self._closed.is_set():
            raise DecoderCrashed("the decoders are closed")

    def _prepared(self, decoded: DecodedViews) -> PreparedImage:
        return PreparedImage(decoded.facts, {name: decoded.views[place] for name, place in self._places.items()})

    def close(self) -> None:
        """See ``Decoders``."""
        if self._closed.is_set():
            return
        self._closed.set()
        for slot in self._slots:
            slot.process.kill()
        for slot in [self._idle.get() for _ in self._slots]:  # each comes back when its call has ended
            slot.process.close()
            self._idle.put(slot)

    def _decode(self, slot: "_Slot", data: bytes) -> DecodedViews | ImageError:
        tries = 0
        while True:
            try:
                return self._once(slot.process, data)
            except DecoderError as error:
                tries = tries + 1 if self._replace(slot, error) else 0
                if tries == _TRIES:
                    raise
                self._assert_open()

    def _once(self, process: DecoderProcess, data: bytes) -> DecodedViews | ImageError:
        [found] = self._request(process, [data])
        if isinstance(found, Needs):
            with self._budget.reserve(found.peak_bytes):
                return process.decode_large(data, found)
        return found

    def _request(self, process: DecoderProcess, images: Sequence[bytes]) -> list[DecodedViews | ImageError | Needs]:
        with self._budget.reserve(self._granted_bytes):
            return process.decode(images)

    def _replace(self, slot: "_Slot", error: DecoderError) -> bool:
        """Replace a process that has ended, as ``_refill`` does."""
        self._ended(error)
        _log.warning("a decoder ended", reason=error.reason, why=str(error))
        return self._refill(slot)

    def _refill(self, slot: "_Slot") -> bool:
        """Give a slot a process that works, however long that takes; whether the first attempt gave one."""
        for pause_s in itertools.chain((0.0,), _PAUSES_S, itertools.repeat(_PAUSES_S[-1])):
            if self._closed.wait(pause_s):
                break
            try:
                self._fill(slot)
            except DecoderError as error:
                _log.error("no decoder works: images wait", why=str(error))
                slot.waits = True
            else:
                at_once, slot.waits = not slot.waits, False
                return at_once
        return False

    def _fill(self, slot: "_Slot") -> None:
        """Replace the process of a slot, and try the new one on the bundle's probe."""
        slot.process.close()
        slot.process = self._process()
        why = slot.process.start()
        slot.unprotected = why is not None
        if why is not None and self._settings.sandbox == "required":
            raise DecoderCrashed(f"images.sandbox=required, but the kernel does not let it give up its rights: {why}")
        if why is not None:
            _log.warning("decoders run without their sandbox", why=why)
        self._check(slot.process)

    def _check(self, process: DecoderProcess) -> None:
        probe = self._bundle.probe
        for index, (name, data) in enumerate(probe.images.items()):
            match self._once(process, data):
                case DecodedViews(views=views):
                    pixels = {model: pixels_digest(views[place]) for model, place in self._places.items()}
                    if any(digest != probe.pixels[model][index] for model, digest in pixels.items()):
                        raise DecoderCrashed(f"it decodes {name} of the bundle's probe to other pixels than the worker")
                case ImageTooLarge() | TooManyPixels():
                    pass  # by settings that refuse it to events too
                case error:
                    raise DecoderCrashed(f"it refuses {name} of the bundle's probe: {error}")

    def _process(self) -> DecoderProcess:
        return DecoderProcess(
            self._preprocessings, self._limits, self._granted_bytes, command=self._command, deadline_s=self._deadline_s
        )


def _if_fault(answer: ImageError | Needs) -> ImageError | None:
    return answer if isinstance(answer, ImageError) else None


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for one process."""

    process: DecoderProcess
    waits: bool = False
    """Whether no process works."""
    unprotected: bool = False
    """Whether the process kept its rights."""
