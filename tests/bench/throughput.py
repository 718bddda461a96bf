"""Backlogs: three regimes against their limit and against the naive loop."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import TypeVar

from tests.bench.backlog import Backlog, await_members
from tests.bench.drain import Run, drain
from tests.bench.limit import Limit, measure_limit
from tests.bench.regimes import REGIMES, Regime
from tests.bench.relay import KafkaCost, measure_kafka
from tests.bench.report import Measure
from tests.bench.rig import Rig
from tests.integration.worker_process import PARTITIONS, ROOT, Stream, WorkerProcess, clean_environment

T = TypeVar("T")

_NAIVE_SHARE = 0.1
"""Share of the regime's events for the naive loop, which is slow, and steady at once."""
_QUICK_NAIVE = 600
_RELEASED = 10_000
"""Events of a backlog that is not held back, at a time."""


@dataclass(frozen=True)
class Round:
    """Limit and worker, measured one right after the other."""

    limit: Limit
    runs: dict[int, Run]
    """By the number of processes."""

    def share(self, count: int) -> float:
        """What share of the limit it is."""
        return self.runs[count].verdicts_per_s / self.limit.per_s


class Throughput:
    """What the worker does with a backlog; everything is measured once, when it is first asked for."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._kafka = cache(self._measure_kafka)
        self._rounds = cache(self._measure_rounds)
        self._other_run = cache(self._measure_run)

    def limit(self, regime: Regime) -> Limit:
        """That of the middle."""
        return _middle([one.limit for one in self._rounds(regime)], lambda limit: limit.per_s)

    def run(self, regime: Regime, count: int) -> Run:
        """That with the middle rate; numbers of processes that are not the regime's are tried once."""
        if count not in regime.processes:
            return self._other_run(regime, count)
        return _middle([one.runs[count] for one in self._rounds(regime)], lambda run: run.verdicts_per_s)

    def report(self) -> None:
        """All regimes."""
        for regime in REGIMES:
            with self._rig.report.section(f"{regime.name}: {regime.model}"):
                self._report(regime)

    def _report(self, regime: Regime) -> None:
        add, limit, first = self._rig.report.add, self.limit(regime), regime.processes[0]
        add(Measure("limit", limit.per_s, "images/s", parts=asdict(limit), note=limit.summary))
        naive = {count: self._naive(regime, count) for count in ((1, first) if regime.over_naive else ())}
        for count in regime.processes:
            run, where = self.run(regime, count), processes(count)
            wanted = count == first
            add(throughput(f"worker, {where}", run, regime.verdicts_per_s if wanted else None))
            add(self._share(regime, count, regime.of_limit if wanted else None))
        for count, run in naive.items():
            add(throughput(f"naive loop, {processes(count)}", run))
            ratio = self.run(regime, first).verdicts_per_s / run.verdicts_per_s
            add(
                Measure(
                    f"worker to naive loop, {processes(count)}", ratio, "x", regime.over_naive if count == 1 else None
                )
            )

    def _share(self, regime: Regime, count: int, target: float | None) -> Measure:
        shares = [one.share(count) for one in self._rounds(regime)]
        note = f"rounds: {', '.join(f'{share:.2f}' for share in shares)}" if len(shares) > 1 else ""
        name = f"share of the limit, {processes(count)}"
        return Measure(name, median(shares), "", target, parts={"rounds": shares}, note=note)

    def _measure_kafka(self) -> KafkaCost:
        with self._rig.report.step("limit: Kafka alone"):
            return measure_kafka(self._rig)

    def _measure_rounds(self, regime: Regime) -> list[Round]:
        return [
            Round(self._measure_limit(regime), {count: self._measure_run(regime, count) for count in regime.processes})
            for _ in range(regime.rounds)
        ]

    def _measure_limit(self, regime: Regime) -> Limit:
        kafka = self._kafka()
        with self._rig.report.step(f"limit: decoding, inference, hashing, {regime.name}"):
            return measure_limit(self._rig, self._rig.bundles[regime.name], kafka)

    def _measure_run(self, regime: Regime, count: int) -> Run:
        rig = self._rig
        backlog = fill(rig, rig.events(regime.events, regime.quick_events))
        with rig.workers(backlog.stream, rig.bundles[regime.name], count) as workers:
            return drain_with(rig, backlog, workers, f"{regime.name}: worker, {processes(count)}")

    def _naive(self, regime: Regime, count: int) -> Run:
        rig = self._rig
        backlog = fill(rig, count * rig.events(int(regime.events * _NAIVE_SHARE), _QUICK_NAIVE))
        with _naive_loops(rig, backlog.stream, regime, count) as loops:
            await_members(backlog.stream, backlog.stream.prefix, count, PARTITIONS)
            backlog.release()

            def require_running() -> None:
                assert all(loop.poll() is None for loop in loops), "a naive loop ended"

            with rig.report.step(f"{regime.name}: naive loop, {processes(count)}", backlog.events) as progress:
                pids = [loop.pid for loop in loops]
                return drain(backlog, pids, rig.kafka.pid, progress, require_running=require_running)


def _middle(found: Sequence[T], rate: Callable[[T], float]) -> T:
    return sorted(found, key=rate)[len(found) // 2]


@contextmanager
def _naive_loops(rig: Rig, stream: Stream, regime: Regime, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    names = stream.prefix, stream.topic("images"), stream.topic("verdicts")
    arguments = [stream.bootstrap, *names, str(rig.bundles[regime.name]), rig.device]
    command = [sys.executable, "-m", "tests.bench.naive", *arguments]
    loops = [subprocess.Popen(command, cwd=ROOT, env=clean_environment()) for _ in range(count)]
    try:
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def fill(rig: Rig, events: int, *, held_back: bool = True) -> Backlog:
    """So many different images; those that are not held back may take longer than a transaction may be open."""
    backlog = Backlog(rig.stream())
    with rig.report.step(f"writing {events:,} events", events) as progress:
        for image in rig.images.first(events):
            backlog.add([image])
            progress(backlog.events)
            if not held_back and backlog.events % _RELEASED == 0:
                backlog.release()
        backlog.flush()
    return backlog


def drain_with(rig: Rig, backlog: Backlog, workers: list[WorkerProcess], what: str) -> Run:
    """Release a backlog to workers that have all joined."""
    await_joined(rig, backlog.stream, len(workers), what)
    backlog.release()

    def require_running() -> None:
        for worker in workers:
            worker.require_running()

    with rig.report.step(what, backlog.events) as progress:
        pids = [worker.pid for worker in workers]
        return drain(backlog, pids, rig.kafka.pid, progress, require_running=require_running)


def await_joined(rig: Rig, stream: Stream, workers: int, what: str) -> None:
    """Wait until all partitions are dealt, and say so if the images' are not dealt evenly: it explains figures."""
    both = 2 * PARTITIONS  # of the images and of the deferred ones
    shares = await_members(stream, stream.prefix, workers, both)
    if max(shares) - min(shares) > 1:
        rig.report.say(f"{what}: partitions of the images are dealt {sorted(shares)}")


def throughput(name: str, run: Run, target: float | None = None) -> Measure:
    """As a figure of the report."""
    note = f"CPU µs per image: worker {1e6 * run.worker_cpu_s:,.0f}, broker {1e6 * run.broker_cpu_s:,.0f}"
    return Measure(name, run.verdicts_per_s, "verdicts/s", target, parts=asdict(run), note=note)


def processes(count: int) -> str:
    """In words."""
    return f"{count} process{'es' if count > 1 else ''}"
