"""All metrics of the worker, declared once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector

from worker.errors import (
    DecodeMemory,
    DecoderCrashed,
    DecodeTimeout,
    DeviceFailed,
    InferenceFailed,
    InvalidOutput,
    WorkerKilled,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STAGES = ("queue", "fetch", "decode", "inference", "total")
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Declaration:
    """One metric, as the documentation lists it."""

    name: str
    """The name that Prometheus shows."""
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """Counters, gauges and histograms on a registry of their own.

    The values of labels are bounded: topics and partitions of the worker, the reasons in ``worker.errors`` and
    ``bundle.errors``, the labels of the bundle.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declaration] = []
        """All of them, in the order of this file."""
        self.events = self._counter("events", "Events answered, by outcome (verdict, deferred, rejected).", ["outcome"])
        self.decisions = self._counter(
            "decisions", "Verdicts by decision and source ('none' without one).", ["decision", "source"]
        )
        self.score = self._histogram(
            "score",
            "Calibrated probability that an image is generated, of verdicts that have one, by decision.",
            _SHARES,
            ["decision"],
        )
        self.reasons = self._counter(
            "reasons", "Reasons given in verdicts: why unsure, and what else a reviewer should know.", ["reason"]
        )
        self.rejects = self._counter("rejects", "Dead letters by reason.", ["reason"])
        self.deferrals = self._counter(
            "deferrals",
            f"Events deferred, by reason and by the attempt that failed ('{_MOST_ATTEMPTS}+' from there on).",
            ["reason", "attempt"],
        )
        self.stage_seconds = self._histogram(
            "stage_seconds",
            "Time an event spends in a stage: queue (record's timestamp to admission), fetch, decode (of images that "
            "are decoded together, in equal parts), inference (batching included), total (record's timestamp to "
            "verdict). A timestamp is the broker's, or see genprint_producer_timestamps_total.",
            _SECONDS,
            ["stage"],
        )
        self.producer_timestamps = self._counter(
            "producer_timestamps",
            "Verdicts whose queue and total times count from their producer's clock, which may be wrong, since the "
            "topic has not message.timestamp.type=LogAppendTime. The timestamp counts as no earlier than the last time "
            "at which the worker had read all of the partition, and no earlier than a day ago.",
        )
        self.batch_images = self._histogram("batch_images", "Images in one inference batch.", _BATCH)
        self.in_flight = self._gauge("in_flight_events", "Events admitted and not yet published.")
        self.in_flight_bytes = self._gauge(
            "in_flight_bytes", "Bytes of those events, of polled ones that wait, and of their answers."
        )
        self.queue_events = self._gauge(
            "queue_events",
            "Events that wait: for a slot (polled), for the fetch of their image (fetch), for the cache (lookup), for "
            "a decoder (decode), for a batch (inference).",
            ["queue"],
        )
        self.fetched_bytes = self._gauge(
            "fetched_bytes", "Bytes of claim checks that have arrived, and are not yet decoded."
        )
        self.decoding_bytes = self._gauge("decoding_bytes", "Bytes reserved for decoding.")
        self.decoder_ends = self._counter(
            "decoder_ends",
            "Decoders that ended on an image and were replaced, by reason (decoder_crashed, decode_timeout, "
            "decode_memory); the image is tried twice before it is rejected.",
            ["reason"],
        )
        self.decoders_waiting = self._gauge(
            "decoders_waiting",
            "Decoders that cannot be started, or do not give the pixels of the bundle's probe; images wait meanwhile.",
        )
        self.decoders_unprotected = self._gauge(
            "decoders_unprotected", "Decoders that the kernel did not let give up their rights (images.sandbox)."
        )
        self.cache = self._counter("cache", "Cache look-ups: hit, miss, corrupt, error.", ["result"])
        self.cache_breaker = self._gauge(
            "cache_breaker_open",
            "1 while the cache is bypassed after failures in a row, for reads or writes; absent without a cache.",
            ["what"],
        )
        self.fetches = self._counter("fetches", "Claim checks by result ('ok' or a reason).", ["result"])
        self.sources_unreadable = self._gauge(
            "sources_unreadable",
            "Entries of fetch.sources that have denied everything lately; their events are deferred until something "
            "can be read again.",
        )
        self.lag = self._gauge("lag_records", "Unanswered records of an owned partition.", ["topic", "partition"])
        self.withheld = self._gauge(
            "withheld_records",
            "Records at the end of an owned partition that a transaction which is not finished keeps from being read.",
            ["topic", "partition"],
        )
        self.stopped = self._gauge(
            "partition_stopped",
            "1 while an owned partition is not read, since its offset lies beyond its end (kafka.beyond_end).",
            ["topic", "partition"],
        )
        self.positions = self._counter(
            "positions",
            "Assigned partitions by what the group had for them: an offset of ours (committed) or of another client "
            "(foreign), none yet (new), none although there are verdicts already (vanished).",
            ["found"],
        )
        self.records_lost = self._counter(
            "records_lost_to_retention", "Offsets that were removed before they were read.", ["topic"]
        )
        self.log_changes = self._counter(
            "log_changes",
            "Partitions whose log was not the one that had been read: topic_made_again, log_cut (its end was lost), "
            "beyond_end (the offset is beyond the end).",
            ["what"],
        )
        self.publications = self._counter(
            "publications", "Transactions or commits by result (committed, aborted).", ["result"]
        )
        self.answers_refused = self._counter(
            "answers_refused",
            "Answers that the broker did not take, by their size or another rule of the topic: a verdict becomes a "
            "dead letter, a dead letter a pointer, anything else waits.",
            ["topic"],
        )
        self.publish_seconds = self._histogram("publish_seconds", "Time of one publication.", _SECONDS)
        self.rebalances = self._counter("rebalances", "Changes of the assignment, by kind.", ["kind"])
        self.last_verdict = self._gauge(
            "last_verdict_timestamp_seconds", "Unix time at which a verdict was last published."
        )
        self.device_memory = self._gauge(
            "device_memory_bytes", "Memory of the GPU, of all processes (used, total); absent on a CPU.", ["kind"]
        )
        meaning = (
            "The bundle being served: name, version, digest; version of its template library, as verdicts give it "
            "(library_version); device it runs on (cuda, cpu) and the one requested (cuda, cpu, auto)."
        )
        self._declare("bundle_info", "info", ("name", "version", "digest", "library", "device", "asked"), meaning)
        self.bundle = Info("genprint_bundle", meaning, registry=self.registry)
        self._begin_at_zero()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.declared.append(Declaration("process_*", "gauge", (), "CPU time, memory and open files of the process."))
        self.declared.append(
            Declaration("python_info", "info", ("version",), "Version of Python that runs the worker.")
        )

    def _begin_at_zero(self) -> None:
        """Create series that alerts watch: one that begins with its first event shows no increase, and is missed."""
        for result in ("committed", "aborted"):
            self.publications.labels(result)
        for kind in ("assigned", "revoked", "lost"):
            self.rebalances.labels(kind)
        for error in (InvalidOutput, InferenceFailed, DecoderCrashed, DecodeTimeout, DecodeMemory, WorkerKilled):
            self.rejects.labels(error.reason)
        for end in (DecoderCrashed, DecodeTimeout, DecodeMemory):
            self.decoder_ends.labels(end.reason)
        for found in ("committed", "foreign", "new", "vanished"):
            self.positions.labels(found)
        for what in ("topic_made_again", "log_cut", "beyond_end"):
            self.log_changes.labels(what)

    def deferred(self, reason: str, attempt: int) -> Counter:
        """The counter of deferrals for this reason after this attempt."""
        return self.deferrals.labels(reason, str(attempt) if attempt < _MOST_ATTEMPTS else f"{_MOST_ATTEMPTS}+")

    def watch_device_memory(self, memory: Callable[[], tuple[int, int]]) -> None:
        """Call ``memory`` at each scrape: bytes used on the device, and in total."""

        def read(index: int) -> float:
            try:
                return memory()[index]
            except DeviceFailed:
                return math.nan  # that ends the worker; until then its metrics can be read

        self.device_memory.labels("used").set_function(lambda: read(0))
        self.device_memory.labels("total").set_function(lambda: read(1))

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        self._declare(f"{name}_total", "counter", labels, meaning)
        return Counter(f"genprint_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        self._declare(name, "gauge", labels, meaning)
        return Gauge(f"genprint_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        self._declare(name, "histogram", labels, meaning)
        return Histogram(f"genprint_{name}", meaning, labels, registry=self.registry, buckets=buckets)

    def _declare(self, name: str, kind: str, labels: Sequence[str], meaning: str) -> None:
        self.declared.append(Declaration(f"genprint_{name}", kind, tuple(labels), meaning))
