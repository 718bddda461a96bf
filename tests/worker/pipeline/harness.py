"""A whole worker in one process: the real pipeline, stages, engine and bundle, on the broker in memory."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bundle.preprocess import Limits
from bundle.store import Bundle
from tests.worker.images.in_process import InProcess
from tests.worker.messages.edges import MemoryEdge, until
from tests.worker.pipeline.memory_broker import MemoryBroker, Stored
from worker.decision.attribution import Attributor
from worker.images.fetch import Fetcher
from worker.images.prepare import Decoders
from worker.messages.records import Headers
from worker.operations.health import Health
from worker.operations.metrics import Metrics
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stages import Stages
from worker.scoring.cache import CachedScores, NoCache, ScoreCache
from worker.scoring.engine import Engine
from worker.settings import Settings


class DictionaryCache:
    """A cache that never forgets."""

    def __init__(self) -> None:
        self.entries: dict[str, CachedScores] = {}

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        return [self.entries.get(digest) for digest in digests]

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        self.entries.update(entries)

    def close(self) -> None:
        pass


@dataclass
class Worker:
    """A pipeline to start, with ways to send events and read answers."""

    settings: Settings
    edge: MemoryEdge
    broker: MemoryBroker
    pipeline: Pipeline
    metrics: Metrics
    health: Health
    engine: Engine
    failures: list[BaseException] = field(default_factory=list)

    def send(
        self, value: bytes | None, content_type: str | None = "image/png", *, number: int = 0, headers: Headers = ()
    ) -> None:
        """Append an event without CloudEvents attributes: its identity is its origin."""
        own: Headers = () if content_type is None else (("content-type", content_type.encode()),)
        topic = self.settings.kafka.images_topic
        self.edge.produce(topic, key=b"k", value=value, headers=(*own, *headers), number=number)

    @contextmanager
    def running(self) -> Iterator[threading.Event]:
        """Run the pipeline on a thread until the block ends; its exception, if any, is raised here."""
        stop = threading.Event()

        def run() -> None:
            try:
                self.pipeline.run(stop)
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()
        if self.failures:
            raise self.failures[0]

    def answer(self, count: int) -> None:
        """Run until ``count`` events have an outcome, or the pipeline ends with an error."""
        with self.running():
            self.until(lambda: len(self.outcomes()) >= count, f"{count} outcomes")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait while it runs, or until it has ended by itself."""
        tick = threading.Event()
        until(lambda: self.ended() or condition() or tick.wait(0.01), what)

    def ended(self) -> bool:
        """Whether the pipeline has ended by itself."""
        return bool(self.failures)

    def outcomes(self) -> list[Stored]:
        """Verdicts and dead letters."""
        return self.stored("verdicts_topic") + self.stored("dead_topic")

    def stored(self, topic: str) -> list[Stored]:
        """Records of a topic, given by the name of its setting."""
        return self.edge.read(getattr(self.settings.kafka, topic), 0)

    def verdicts(self) -> list[dict[str, Any]]:
        """Verdicts in order of publication within each partition."""
        return [json.loads(stored.value or b"") for stored in self.stored("verdicts_topic")]

    def dead(self) -> list[tuple[Stored, dict[str, str]]]:
        """Dead letters with their headers as text."""
        return [(s, {n: (v or b"").decode(errors="replace") for n, v in s.headers}) for s in self.stored("dead_topic")]


def make_worker(
    bundle: Bundle, cache: ScoreCache | None = None, decoders: Decoders | None = None, **sections: dict[str, Any]
) -> Worker:
    """A worker with quick defaults, under settings given as ``section={"name": value}``."""
    quick: dict[str, dict[str, Any]] = {
        "kafka": {"commit_interval_s": 0.01},
        "inference": {"device": "cpu", "batch_size": 8, "max_wait_s": 0.005, "threads": 1},
        "images": {"decode_processes": 2},
        "fetch": {"sources": ("http://",), "allow_private_addresses": True, "deadline_s": 0.5},
    }
    merged = {name: {**quick.get(name, {}), **sections.get(name, {})} for name in quick.keys() | sections.keys()}
    settings = Settings.model_validate(merged)
    metrics = Metrics()
    engine = Engine(bundle, settings.inference)
    engine.start()
    edge = MemoryEdge()
    broker = MemoryBroker(edge.cluster, settings.kafka)
    fetcher = Fetcher(settings.fetch, fairness=settings.fairness)
    limits = Limits(settings.fetch.max_bytes, settings.images.max_pixels)
    decoders = decoders or InProcess(bundle.manifest.models, limits)
    stages = Stages(settings, decoders, engine, cache or NoCache(), fetcher, metrics)
    attributor = Attributor(bundle, settings.policy, settings.run_id)
    health = Health(settings.pipeline.stall_s)
    pipeline = Pipeline(settings, broker, stages, attributor, health, metrics)
    return Worker(settings, edge, broker, pipeline, metrics, health, engine)
