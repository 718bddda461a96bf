"""Does a long run leave nothing behind, and does memory stay under its ceiling with a backlog of large events?"""

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.backlog import Backlog
from tests.bench.drain import Watch
from tests.bench.estimates import slope
from tests.bench.images import padded
from tests.bench.machine import open_files, rss_bytes, threads
from tests.bench.regimes import PIPELINE_BOUND
from tests.bench.report import Measure
from tests.bench.rig import Rig
from tests.bench.throughput import await_joined, fill
from tests.integration.worker_process import PARTITIONS
from worker.settings import KafkaSettings, PipelineSettings

_MIB = 2**20
_EVENTS, _QUICK_EVENTS = 200_000, 10_000
_WARM_UP = 0.5
"""So many of them again come first: until the heap has the holes that it needs."""
_SMALL_FETCH_BYTES = 2**20
"""Largest fetch of the long run: with the default, responses of 16 MiB would come and go, and hide a small leak."""
_PORTION_BYTES = 128 * 1024
"""In which the C library asks the system for memory: one more or less is no finding."""
_SAMPLE_S, _QUICK_SAMPLE_S = 0.25, 0.05
_LARGE_EVENTS, _LARGE_BYTES = 5_000, 200_000
_IN_FLIGHT_BYTES, _DECODED_BYTES, _FETCH_BYTES = 64 * _MIB, 64 * _MIB, 8 * _MIB
"""Settings small enough to bind: at the defaults 512 events of 200 KB would never reach them."""


@dataclass(frozen=True)
class Sample:
    """One look at the worker."""

    verdicts: int
    rss_bytes: int
    open_files: int
    threads: int


@dataclass(frozen=True)
class Ceiling:
    """What a worker may hold at most, in bytes, from its settings."""

    base: int
    """Resident when it is ready and has had nothing to do."""
    in_flight: int
    """``pipeline.max_in_flight_bytes``, and the event that goes beyond it."""
    decoding: int
    """``images.memory_bytes``."""
    views: int
    """Prepared pixels of all events in flight."""
    prefetched: int
    """What the client holds for each partition that is paused: one fetch, ``kafka.fetch_max_bytes``."""
    fetching: int
    """A fetch under way: its response, and the same once more while that is taken apart."""
    polled: int
    """``kafka.max_poll_records`` that were taken over and not yet taken up."""

    @property
    def total(self) -> int:
        """All of it at once."""
        return sum(asdict(self).values())


def measure_memory(rig: Rig) -> None:
    """One worker process, pipeline-bound: nothing else turns over as many events."""
    with rig.report.section("memory"):
        _measure_growth(rig)
        _measure_ceiling(rig)


def _measure_growth(rig: Rig) -> None:
    events = rig.events(_EVENTS, _QUICK_EVENTS)
    warm_up = round(_WARM_UP * events)
    backlog = fill(rig, warm_up + events, held_back=False)  # there is one worker, which need not wait for another
    samples = _watch(rig, backlog, "memory: long run", KAFKA__FETCH_MAX_BYTES=str(_SMALL_FETCH_BYTES))
    after = [sample for sample in samples if sample.verdicts > warm_up]
    found = slope([sample.verdicts for sample in after], [sample.rss_bytes for sample in after], _PORTION_BYTES)
    first, last = after[0].rss_bytes / _MIB, after[-1].rss_bytes / _MIB
    note = f"± {found.error:.3g} (standard error), {first:.0f} to {last:.0f} MiB after warm-up, {len(after)} samples"
    parts = {**asdict(found), "mib": [round(sample.rss_bytes / _MIB, 2) for sample in samples]}
    name = f"growth over {events:,} events, at most 2 standard errors"
    rig.report.add(Measure(name, found.value, "bytes/event", 2 * found.error, at_most=True, parts=parts, note=note))
    for what in ("open_files", "threads"):
        counts = [getattr(sample, what) for sample in after]
        early, late = (statistics.median(part) for part in (counts[: len(counts) // 2], counts[len(counts) // 2 :]))
        note = f"{min(counts)} to {max(counts)}, medians of the halves {early:g} and {late:g}"
        name = f"{what.replace('_', ' ')} that the second half has more"
        rig.report.add(Measure(name, late - early, "", 0, at_most=True, note=note))


def _measure_ceiling(rig: Rig) -> None:
    backlog = Backlog(rig.stream())
    events = rig.events(_LARGE_EVENTS, 1_000)
    with rig.report.step(f"writing {events:,} events of 200 KB"):
        backlog.add(padded(image, _LARGE_BYTES) for image in rig.images.first(events))
        backlog.flush()
    settings = {
        "PIPELINE__MAX_IN_FLIGHT_BYTES": str(_IN_FLIGHT_BYTES),
        "IMAGES__MEMORY_BYTES": str(_DECODED_BYTES),
        "KAFKA__FETCH_MAX_BYTES": str(_FETCH_BYTES),
    }
    samples = _watch(rig, backlog, "memory: large events", **settings)
    ceiling = Ceiling(
        base=samples[0].rss_bytes,
        in_flight=_IN_FLIGHT_BYTES + _LARGE_BYTES,
        decoding=_DECODED_BYTES,
        views=PipelineSettings().max_in_flight * PIPELINE_BOUND.preprocessing.size**2 * 3,
        prefetched=PARTITIONS * _FETCH_BYTES,
        fetching=2 * _FETCH_BYTES,
        polled=KafkaSettings().max_poll_records * _LARGE_BYTES,
    )
    highest = max(sample.rss_bytes for sample in samples)
    note = "MiB: " + ", ".join(f"{name} {part / _MIB:.0f}" for name, part in asdict(ceiling).items())
    name = f"highest with {events:,} events of 200 KB waiting"
    parts = asdict(ceiling)
    rig.report.add(Measure(name, highest / _MIB, "MiB", ceiling.total / _MIB, at_most=True, parts=parts, note=note))


def _watch(rig: Rig, backlog: Backlog, what: str, **settings: str) -> list[Sample]:
    """From a worker that is ready until everything is answered; the first sample is before any event."""
    bundle: Path = rig.bundles[PIPELINE_BOUND.name]
    watch, samples = Watch(backlog.stream), list[Sample]()
    try:
        with (
            rig.workers(backlog.stream, bundle, 1, **settings) as [worker],
            rig.report.step(what, backlog.events) as done,
        ):
            await_joined(rig, backlog.stream, 1, what)
            samples.append(_sample(0, worker.pid))
            backlog.release()
            while samples[-1].verdicts < backlog.events:
                worker.require_running()
                samples.append(_sample(watch.verdicts(), worker.pid))
                done(samples[-1].verdicts)
                time.sleep(_QUICK_SAMPLE_S if rig.quick else _SAMPLE_S)
    finally:
        watch.close()
    return samples


def _sample(verdicts: int, pid: int | None) -> Sample:
    return Sample(verdicts, rss_bytes(pid), open_files(pid), threads(pid))
