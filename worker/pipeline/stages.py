"""The stages between an event and its scores, each on threads of its own, so that they overlap.

::

    fetch (event loop) ──┐
                         ├──> look-up (1 thread: sha256, cache) ──> decode (n threads) ──> inference (1 thread)
    inline image ────────┘              └── known already ──────────────────┐                   │
                                                                            └──> completed <────┘

Whatever goes wrong with one image becomes its completion; whatever is wrong with the worker itself ends the pipeline.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import structlog

from bundle.errors import ImageError
from bundle.preprocess import Limits
from bundle.store import Bundle, sha256
from worker.decision.attribution import ScoredImage
from worker.errors import InferenceError, Sha256Mismatch, WorkerError
from worker.images.fetch import Fetcher
from worker.images.prepare import MemoryBudget, PreparedImage, prepare
from worker.messages.events import ClaimCheck, InlineImage
from worker.messages.verdict import TimingPart
from worker.operations.metrics import Metrics
from worker.pipeline.batcher import Batcher
from worker.pipeline.lanes import InFlight
from worker.scoring.cache import CachedScores, ScoreCache
from worker.scoring.engine import Engine, Scores
from worker.scoring.gpu import Upload
from worker.settings import Settings

_log = structlog.get_logger(__name__)

_LOOKUP_BATCH = 64
_MAX_PENDING_WRITES = 64


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of an event: its scores, or why there are none."""

    item: InFlight
    result: ScoredImage | WorkerError | ImageError


@dataclass(frozen=True, slots=True)
class _Received:
    item: InFlight
    data: bytes
    fetched: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: InFlight
    digest: str
    image: PreparedImage
    ready: float


class Stages:
    """Runs events through the stages; completions come out of ``completed`` in any order."""

    def __init__(
        self, settings: Settings, bundle: Bundle, engine: Engine, cache: ScoreCache, fetcher: Fetcher, metrics: Metrics
    ) -> None:
        self._models = bundle.manifest.models
        self._limits = Limits(
            max_bytes=max(settings.events.inline_max_bytes, settings.fetch.max_bytes),
            max_pixels=settings.images.max_pixels,
        )
        self._engine, self._cache, self._fetcher, self._metrics = engine, cache, fetcher, metrics
        self._budget = MemoryBudget(settings.images.memory_bytes)
        self._received: Batcher[_Received] = Batcher(_LOOKUP_BATCH, 0)
        self._decoders = ThreadPoolExecutor(settings.images.decode_threads, thread_name_prefix="decode")
        self._prepared: Batcher[_Prepared] = Batcher(settings.inference.batch_size, settings.inference.max_wait_s)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        self._pending_writes = 0
        self._completed: deque[Completion] = deque()
        self._news = threading.Event()
        """Set when something completed or failed, until it is asked for."""
        self._failure: BaseException | None = None
        self._measure()
        self._lookup = self._thread("lookup", self._look_up)
        self._inference = self._thread("inference", self._infer)

    def start(self) -> None:
        """Start the threads."""
        self._fetcher.start()
        self._lookup.start()
        self._inference.start()

    def _measure(self) -> None:
        """Queues tell their length when somebody asks."""
        decoders = self._decoders._work_queue  # noqa: SLF001 - there is no public way
        queues: dict[str, Callable[[], float]] = {
            "fetch": lambda: self._fetcher.under_way,
            "lookup": lambda: len(self._received),
            "decode": decoders.qsize,
            "inference": lambda: len(self._prepared),
        }
        for name, length in queues.items():
            self._metrics.queue_events.labels(name).set_function(length)
        self._metrics.decoding_bytes.set_function(lambda: self._budget.held_bytes)
        self._metrics.fetched_bytes.set_function(lambda: self._fetcher.held_bytes)

    def submit(self, item: InFlight) -> None:
        """Begin with an event whose content is parsed; never blocks."""
        assert item.event is not None
        match item.event.content:
            case InlineImage(data):
                self._received.put(_Received(item, data, fetched=False))
            case ClaimCheck(uri):
                started = time.monotonic()
                item.fetch = self._fetcher.fetch(uri, deferred=item.delivery.attempt > 1)
                item.fetch.future.add_done_callback(lambda future: self._fetched(item, started, future))

    def completed(self) -> list[Completion]:
        """All completions so far.

        Raises:
            WorkerError, Exception: a stage failed by our own fault; the process must end.
        """
        self._news.clear()  # first: what comes meanwhile is news again
        if self._failure is not None:
            raise self._failure
        return [self._completed.popleft() for _ in range(len(self._completed))]

    def wait(self, timeout_s: float) -> None:
        """Until there is something for ``completed`` to say."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """Stop the threads, in the order of the flow; what is still in them is dropped."""
        self._fetcher.close()
        self._received.close()
        _join(self._lookup)
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._prepared.close()
        _join(self._inference)
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _fetched(self, item: InFlight, started: float, future: "Future[bytes]") -> None:
        item.fetch_s = time.monotonic() - started
        item.fetch = None
        if future.cancelled():
            return  # only when the worker stops
        error = future.exception()
        if error is None:
            self._metrics.fetches.labels("ok").inc()
            self._received.put(_Received(item, future.result(), fetched=True))
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
                    self._complete(item, digest, known, cached=True)
                    self._release(received)
                else:
                    self._decoders.submit(self._guarded(self._decode), received, digest)

    def _decode(self, received: _Received, digest: str) -> None:
        if received.item.dropped:
            self._release(received)
            return
        started = time.monotonic()
        try:
            image = prepare(received.data, self._models, self._limits, self._budget)
        except ImageError as error:
            self._done(Completion(received.item, error))
            return
        finally:
            self._release(received)
        ready = time.monotonic()
        received.item.decode_s = ready - started
        self._prepared.put(_Prepared(received.item, digest, image, ready))

    def _done(self, completion: Completion) -> None:
        self._completed.append(completion)
        self._news.set()

    def _release(self, received: _Received) -> None:
        if received.fetched:
            self._fetcher.release(len(received.data))

    def _infer(self) -> None:
        for batch, upload in self._uploads():
            self._metrics.batch_images.observe(len(batch))
            answers = self._engine.score([prepared.image for prepared in batch], upload)
            new: list[tuple[str, CachedScores]] = []
            for prepared, answer in zip(batch, answers, strict=True):
                prepared.item.inference_s = time.monotonic() - prepared.ready
                if isinstance(answer, InferenceError):
                    self._done(Completion(prepared.item, answer))
                    continue
                entry = CachedScores(prepared.image.facts, answer)
                self._complete(prepared.item, prepared.digest, entry, cached=False)
                new.append((prepared.digest, entry))
            self._write_later(new)

    def _batches(self) -> Iterator[list[_Prepared]]:
        while batch := self._prepared.take():
            if left := [prepared for prepared in batch if not prepared.item.dropped]:
                yield left

    def _uploads(self) -> Iterator[tuple[list[_Prepared], Upload | None]]:
        """Batches; where it is worth it they are on the device already, copied on a thread of their own."""
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

    def _complete(self, item: InFlight, digest: str, entry: CachedScores, *, cached: bool) -> None:
        scores: Scores = entry.scores
        timing = TimingPart(
            queue=round(item.queue_ms, 3),
            fetch=round(item.fetch_s * 1000, 3),
            decode=round(item.decode_s * 1000, 3),
            inference=round(item.inference_s * 1000, 3),
            total=round(item.queue_ms + (time.monotonic() - item.taken_up) * 1000, 3),
        )
        self._done(Completion(item, ScoredImage(digest, entry.facts, scores, cached, timing)))

    def _write_later(self, entries: list[tuple[str, CachedScores]]) -> None:
        """A slow cache must not hold up inference: with too many writes pending, these are not kept."""
        if not entries or self._pending_writes >= _MAX_PENDING_WRITES:
            return
        self._pending_writes += 1

        def write() -> None:
            try:
                self._cache.put(entries)
            finally:
                self._pending_writes -= 1

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
