"""The stages between an event and its scores, each on threads or processes of its own, so that they overlap.

::

    fetch (event loop) ──┐
                         ├──> look-up (1 thread: sha256, cache) ──> decode (n processes) ──> inference (1 thread)
    inline image ────────┘              └── known already ──────────────────┐                     │
                                                                            └──> completed <──────┘

An error of one image becomes its completion; a fault of the worker itself ends the pipeline.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue

import structlog

from bundle.errors import ImageError
from bundle.store import sha256
from worker.decision.attribution import ScoredImage
from worker.errors import DecoderError, InferenceError, OverShare, Sha256Mismatch, WorkerError
from worker.fairness import Turns
from worker.images.fetch import Fetch, Fetcher
from worker.images.prepare import BATCH_IMAGE_BYTES, BATCH_IMAGES, Decoders, PreparedImage
from worker.messages.events import ClaimCheck, InlineImage
from worker.messages.verdict import TimingPart
from worker.operations.metrics import Metrics
from worker.pipeline.batcher import Batcher
from worker.pipeline.lanes import InFlight
from worker.scoring.cache import CachedScores, ScoreCache
from worker.scoring.engine import Engine
from worker.scoring.gpu import Upload
from worker.settings import Settings

_log = structlog.get_logger(__name__)

_LOOKUP_BATCH = 64
_MAX_PENDING_WRITES = 64


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of an event's way through the stages: its scores, or the error instead of them."""

    item: InFlight
    result: ScoredImage | WorkerError | ImageError


@dataclass(frozen=True, slots=True)
class _Received:
    item: InFlight
    data: bytes
    fetch_s: float | None
    """None where the event carries the image itself."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits for a decoder."""

    received: _Received
    digest: str
    alone: bool = False
    """Whether it may not be decoded together with others."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: InFlight
    digest: str
    image: PreparedImage
    fetch_s: float | None
    decode_s: float
    ready: float
    """Monotonic time at which it was decoded."""


class Stages:
    """Runs events through the stages; ``completed`` returns them in any order."""

    def __init__(
        self,
        settings: Settings,
        decoders: Decoders,
        engine: Engine,
        cache: ScoreCache,
        fetcher: Fetcher,
        metrics: Metrics,
    ) -> None:
        self._decoders = decoders
        self._engine, self._cache, self._fetcher, self._metrics = engine, cache, fetcher, metrics
        self._received: Batcher[_Received] = Batcher(_LOOKUP_BATCH, 0)
        self._turns: Turns[InFlight] = Turns(settings.images.decode_processes)
        self._to_decode: dict[InFlight, _Waiting] = {}
        """What waits for its turn."""
        self._patience_s = settings.fetch.deadline_s
        """How long events of other tenants wait behind what one fetches; the same holds for what it has decoded."""
        self._prepared: Batcher[_Prepared] = Batcher(settings.inference.batch_size, settings.inference.max_wait_s)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        self._write_slots = threading.BoundedSemaphore(_MAX_PENDING_WRITES)
        self._fetches: dict[InFlight, Fetch] = {}
        """Fetches under way: the pipeline's thread adds, the thread that completes one removes, nothing iterates."""
        self._completed: deque[Completion] = deque()
        self._news = threading.Event()
        """Set when something has completed or failed, cleared by ``completed``."""
        self._failure: BaseException | None = None
        self._stage: dict[InFlight, str] = {}
        """Where those are that wait in a queue whose length others decide."""
        self._moved = dict.fromkeys(("decode", "inference"), 0.0)
        """Monotonic time at which something entered or left such a stage."""
        self._declare_gauges()
        self._decoding = [self._thread("decode", self._decode) for _ in range(settings.images.decode_processes)]
        """A thread for each decoder, which waits for its answer."""
        self._lookup = self._thread("lookup", self._look_up)
        self._inference = self._thread("inference", self._infer)

    def start(self) -> None:
        """Start threads and decoders.

        Raises:
            StartupError: images cannot be decoded here.
        """
        self._decoders.start()
        self._fetcher.start()
        self._lookup.start()
        for thread in self._decoding:
            thread.start()
        self._inference.start()

    def _declare_gauges(self) -> None:
        """Declare gauges that read the queues' lengths when metrics are scraped."""
        queues: dict[str, Callable[[], float]] = {
            "fetch": lambda: self._fetcher.under_way,
            "lookup": lambda: len(self._received),
            "decode": lambda: len(self._turns),
            "inference": lambda: len(self._prepared),
        }
        for name, length in queues.items():
            self._metrics.queue_events.labels(name).set_function(length)
        self._metrics.decoding_bytes.set_function(lambda: self._decoders.held_bytes)
        self._metrics.decoders_waiting.set_function(lambda: self._decoders.waiting)
        self._metrics.decoders_unprotected.set_function(lambda: self._decoders.unprotected)
        self._metrics.fetched_bytes.set_function(lambda: self._fetcher.held_bytes)
        self._metrics.sources_unreadable.set_function(lambda: len(self._fetcher.unreadable))

    def submit(self, item: InFlight) -> None:
        """Begin with an event whose content is parsed; never blocks."""
        assert item.event is not None
        match item.event.content:
            case InlineImage(data):
                self._received.put(_Received(item, data, fetch_s=None))
            case ClaimCheck(uri):
                started = time.monotonic()
                fetch = self._fetcher.fetch(uri, tenant=item.tenant or "", deferred=item.delivery.attempt > 1)
                self._fetches[item] = fetch
                fetch.future.add_done_callback(lambda future: self._fetched(item, started, future))

    def give_up_fetch(self, item: InFlight) -> None:
        """Defer an event if its image is still being fetched; otherwise do nothing."""
        fetch = self._fetches.get(item)
        if fetch is not None:
            fetch.give_up()

    @property
    def is_behind(self) -> bool:
        """Whether the images of some tenant that wait for a decoder will take long."""
        return self._turns.longest_wait_s > self._patience_s

    def give_up_decoding(self, item: InFlight) -> None:
        """Defer an event if its image still waits for a decoder, and so do too many of its tenant's."""
        tenant = item.tenant or ""
        if self._turns.wait_s(tenant) > self._patience_s and self._turns.withdraw(tenant, item):
            self._release(self._to_decode.pop(item).received)
            self._done(Completion(item, OverShare("its tenant's images take long to decode, others wait behind it")))

    def since(self, item: InFlight) -> float:
        """Monotonic time at which an event without an answer, or the queue that it waits in, last moved on."""
        stage = self._stage.get(item)
        return item.admitted if stage is None else max(item.admitted, self._moved[stage])

    def completed(self) -> list[Completion]:
        """All completions so far.

        Raises:
            WorkerError, Exception: a stage failed by the worker's own fault; the process must end.
        """
        self._news.clear()  # first, so that what completes meanwhile sets it again
        if self._failure is not None:
            raise self._failure
        completed = [self._completed.popleft() for _ in range(len(self._completed))]
        for completion in completed:
            self._stage.pop(completion.item, None)
        return completed

    @property
    def paused(self) -> str | None:
        """None, or why events wait inside the stages without a fault of theirs."""
        return "no decoder works: images wait" if self._decoders.waiting else None

    @property
    def impaired(self) -> str | None:
        """None, or what cannot be done while everything else goes on."""
        sources = self._fetcher.unreadable
        return f"nothing can be read of {', '.join(sources)}: access denied" if sources else None

    def wait(self, timeout_s: float) -> None:
        """Wait until something has completed or failed, or until the time is up."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """Stop the threads, in the order of the flow; events that are still in them are dropped."""
        self._fetcher.close()
        self._received.close()
        _join(self._lookup)
        self._turns.close()
        self._decoders.close()
        for thread in self._decoding:
            _join(thread)
        self._prepared.close()
        _join(self._inference)
        self._writer.shutdown(wait=True, cancel_futures=True)

    def _fetched(self, item: InFlight, started: float, future: "Future[bytes]") -> None:
        del self._fetches[item]
        if future.cancelled():
            return  # only when the worker stops
        error = future.exception()
        if error is None:
            self._metrics.fetches.labels("ok").inc()
            self._received.put(_Received(item, future.result(), fetch_s=time.monotonic() - started))
        elif isinstance(error, WorkerError):
            self._metrics.fetches.labels(error.reason).inc()
            self._done(Completion(item, error))
        else:
            self._fail(error)

    def _look_up(self) -> None:
        while batch := self._received.take():
            digests = [sha256(received.data) for received in batch]
            for received, digest, known in zip(batch, digests, self._cache.get(digests), strict=True):
                item = received.item
                assert item.event is not None
                content = item.event.content
                declared = content.sha256 if isinstance(content, ClaimCheck) else None
                if declared not in (None, digest):
                    error = Sha256Mismatch(f"the bytes have sha256 {digest}, the event declares {declared}")
                    self._done(Completion(item, error))
                    self._release(received)
                elif known is not None:
                    self._complete(item, digest, known, cached=True, fetch_s=received.fetch_s)
                    self._release(received)
                else:
                    self._move(item, "decode")
                    self._wait_for_turn(_Waiting(received, digest))

    def _wait_for_turn(self, waiting: _Waiting) -> None:
        item = waiting.received.item
        self._to_decode[item] = waiting
        self._turns.put(item.tenant or "", item)

    def _is_small(self, item: InFlight) -> bool:
        waiting = self._to_decode[item]
        return not waiting.alone and len(waiting.received.data) <= BATCH_IMAGE_BYTES

    def _decode(self) -> None:
        while turns := self._turns.take(BATCH_IMAGES, self._is_small):
            taken = [self._to_decode.pop(turn.work) for turn in turns]
            wanted = []
            for waiting in taken:
                if waiting.received.item.dropped:
                    self._drop(waiting.received.item)
                    self._release(waiting.received)
                else:
                    wanted.append(waiting)
            if wanted:
                self._decode_together(wanted)
            self._turns.done(turns)

    def _decode_together(self, wanted: Sequence[_Waiting]) -> None:
        started = time.monotonic()
        images: Sequence[PreparedImage | ImageError | DecoderError | None]
        match wanted:
            case [alone]:
                images = [self._decode_alone(alone.received.data)]
            case _:
                images = self._decoders.prepare_small([waiting.received.data for waiting in wanted])
        ready = time.monotonic()
        for waiting, image in zip(wanted, images, strict=True):
            if image is None:
                self._wait_for_turn(replace(waiting, alone=True))
                continue
            received = waiting.received
            self._release(received)
            if isinstance(image, PreparedImage):
                self._move(received.item, "inference")
                decode_s = (ready - started) / len(wanted)
                self._prepared.put(_Prepared(received.item, waiting.digest, image, received.fetch_s, decode_s, ready))
            else:
                self._done(Completion(received.item, image))

    def _decode_alone(self, data: bytes) -> PreparedImage | ImageError | DecoderError:
        try:
            return self._decoders.prepare(data)
        except (ImageError, DecoderError) as error:
            return error.with_traceback(None)

    def _move(self, item: InFlight, stage: str) -> None:
        """Note that an event enters a stage, and leaves the one that it was in."""
        self._leave(item)
        self._stage[item] = stage
        self._moved[stage] = time.monotonic()

    def _leave(self, item: InFlight) -> None:
        """Note that an event leaves the stage that it is in; where it is told only changes with the next."""
        if (stage := self._stage.get(item)) is not None:
            self._moved[stage] = time.monotonic()

    def _drop(self, item: InFlight) -> None:
        self._leave(item)
        self._stage.pop(item, None)

    def _done(self, completion: Completion) -> None:
        self._leave(completion.item)
        self._completed.append(completion)
        self._news.set()

    def _release(self, received: _Received) -> None:
        if received.fetch_s is not None:
            self._fetcher.release(len(received.data), tenant=received.item.tenant or "")

    def _infer(self) -> None:
        for batch, upload in self._uploads():
            self._metrics.batch_images.observe(len(batch))
            answers = self._engine.score([prepared.image for prepared in batch], upload)
            new: list[tuple[str, CachedScores]] = []
            for prepared, answer in zip(batch, answers, strict=True):
                if isinstance(answer, InferenceError):
                    self._done(Completion(prepared.item, answer))
                    continue
                entry = CachedScores(prepared.image.facts, answer)
                self._complete(
                    prepared.item,
                    prepared.digest,
                    entry,
                    cached=False,
                    fetch_s=prepared.fetch_s,
                    decode_s=prepared.decode_s,
                    inference_s=time.monotonic() - prepared.ready,
                )
                new.append((prepared.digest, entry))
            self._write_later(new)

    def _batches(self) -> Iterator[list[_Prepared]]:
        while batch := self._prepared.take():
            for prepared in batch:
                if prepared.item.dropped:
                    self._drop(prepared.item)
            if left := [prepared for prepared in batch if not prepared.item.dropped]:
                yield left

    def _uploads(self) -> Iterator[tuple[list[_Prepared], Upload | None]]:
        """Batches, each with its upload where the engine copies ahead, on a thread of its own; else with None."""
        if not self._engine.uploads_ahead:
            yield from ((batch, None) for batch in self._batches())
            return
        ready: SimpleQueue[tuple[list[_Prepared], Upload | None] | None] = SimpleQueue()

        def upload() -> None:
            try:
                for batch in self._batches():
                    ready.put((batch, self._engine.upload([prepared.image for prepared in batch])))
            finally:
                ready.put(None)

        self._thread("upload", upload).start()
        while (found := ready.get()) is not None:
            yield found

    def _complete(
        self,
        item: InFlight,
        digest: str,
        entry: CachedScores,
        *,
        cached: bool,
        fetch_s: float | None,
        decode_s: float = 0.0,
        inference_s: float = 0.0,
    ) -> None:
        timing = TimingPart(
            queue=round(item.queue_ms, 3),
            fetch=round((fetch_s or 0.0) * 1000, 3),
            decode=round(decode_s * 1000, 3),
            inference=round(inference_s * 1000, 3),
            total=round(item.queue_ms + (time.monotonic() - item.admitted) * 1000, 3),
            clock="broker" if item.record.is_broker_time else "producer",
        )
        self._done(Completion(item, ScoredImage(digest, entry.facts, entry.scores, cached, timing)))

    def _write_later(self, entries: list[tuple[str, CachedScores]]) -> None:
        """Write to the cache on another thread; skip it while too many are pending, so that inference never waits."""
        if not entries or not self._write_slots.acquire(blocking=False):
            return

        def write() -> None:
            try:
                self._cache.put(entries)
            finally:
                self._write_slots.release()

        self._writer.submit(self._guarded(write))

    def _thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._guarded(run), name=name, daemon=True)

    def _guarded(self, run: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: object) -> None:
            try:
                run(*arguments)
            except BaseException as error:
                self._fail(error)

        return guarded

    def _fail(self, error: BaseException) -> None:
        _log.error("a stage failed", thread=threading.current_thread().name, error=repr(error)[:500])
        self._failure = self._failure or error
        self._news.set()


def _join(thread: threading.Thread) -> None:
    if thread.is_alive():
        thread.join(timeout=5)
