"""A capacity model of worker processes on a machine, fitted to the benchmark's file and checked against it.

An image costs CPU seconds. Four parts are measured without a worker (``make bench``, *the limit*): decoding, inference,
Kafka's client, hashing. The rest is the worker's own cost, and is fitted over all runs of the file::

    worker:  cpu = parts + own + beat * n / rate
    broker:  cpu = broker + broker_beat * n / rate

``own`` is one number for images that are scored and another for those whose scores are cached. A *beat* is what a
process costs each second whatever it does: loop, heartbeats, ten transactions. The rate of n processes is limited by
the cores of the machine, by the device, or by a single process, since Python runs one thread at a time::

    rate = min(n / turn, (busy * cores - n * beats) / (parts + own + broker), device)

``turn`` is the wall-clock seconds of an image in a single process that leaves cores idle; ``busy`` is the share of the
cores that runs use which fill them. The fit minimises relative errors.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from bundle.documents import parse_json
from bundle.files import SMALL_FILE_BYTES, read_regular
from worker.errors import StartupError

CACHED: Final = "cached"
"""Name of the regime in which all scores are cached."""
_CACHED_SECTION: Final = "cached images"
_TURN_OF_MISSES: Final = "pipeline-bound"
_PROCESSES: Final = re.compile(r"(?:worker, )?([0-9]+) process(?:es)?")
_FEWEST_RUNS: Final = 4


@dataclass(frozen=True)
class Parts:
    """CPU seconds per image that no worker can avoid."""

    decode_s: float
    inference_s: float
    client_s: float
    hash_s: float
    device_per_s: float | None = None
    """Images per second of the GPU; None where inference runs on the CPU, at the cost of ``inference_s``."""

    @property
    def total_s(self) -> float:
        """Sum of the parts."""
        return self.decode_s + self.inference_s + self.client_s + self.hash_s

    def known(self) -> Self:
        """The parts for an image whose scores are cached: it is neither decoded nor inferred."""
        return replace(self, decode_s=0.0, inference_s=0.0, device_per_s=None)


@dataclass(frozen=True)
class MeasuredRun:
    """Figures of one run of the benchmark, with all processes on one machine with the broker."""

    regime: str
    processes: int
    verdicts_per_s: float
    worker_cpu_s: float
    broker_cpu_s: float
    verdict_bytes: float

    @property
    def is_cached(self) -> bool:
        """Whether all scores were cached."""
        return self.regime == CACHED

    @property
    def processes_by_rate(self) -> float:
        """Process seconds per image."""
        return self.processes / self.verdicts_per_s

    def busy_cores(self) -> float:
        """Cores that workers and broker used."""
        return self.verdicts_per_s * (self.worker_cpu_s + self.broker_cpu_s)


@dataclass(frozen=True)
class BenchmarkFigures:
    """The figures of ``make bench`` that a plan needs."""

    path: Path
    machine: str
    cores: int
    device: str
    image_bytes: float
    parts: dict[str, Parts]
    """Unavoidable costs by regime."""
    runs: tuple[MeasuredRun, ...]

    def part(self, regime: str) -> Parts:
        """The unavoidable costs of a regime.

        Raises:
            StartupError: the file has no regime of that name.
        """
        if regime not in self.parts or regime == CACHED:
            there = ", ".join(name for name in self.parts if name != CACHED)
            raise StartupError(
                f"{self.path}: no regime {regime!r}, only {there}: choose one of these, or run `make bench`"
            )
        return self.parts[regime]


@dataclass(frozen=True)
class Turn:
    """Least wall-clock seconds per image of one process, and the run that they come from."""

    seconds: float
    run: MeasuredRun


@dataclass(frozen=True)
class CapacityModel:
    """The fitted model (see the module): seconds per image, and CPU seconds per second for the beats."""

    own_s: float
    own_cached_s: float
    beat: float
    broker_s: float
    broker_beat: float
    busy: float
    turn: Turn
    turn_cached: Turn

    def worker_s(self, parts: Parts, cached_share: float = 0.0) -> float:
        """CPU seconds per image of a worker, without its beat."""
        scored, known = parts.total_s + self.own_s, parts.known().total_s + self.own_cached_s
        return (1 - cached_share) * scored + cached_share * known

    def turn_s(self, cached_share: float = 0.0) -> float:
        """Wall-clock seconds per image of one process, for a mixture with cached images."""
        return (1 - cached_share) * self.turn.seconds + cached_share * self.turn_cached.seconds

    def machine_per_s(self, parts: Parts, processes: int, cores: int, cached_share: float = 0.0) -> float:
        """Images per second of several processes that share the cores (and one device) with the broker."""
        beats = processes * (self.beat + self.broker_beat)
        by_cores = (self.busy * cores - beats) / (self.worker_s(parts, cached_share) + self.broker_s)
        return max(0.0, min(processes / self.turn_s(cached_share), by_cores, _by_device(parts, cached_share)))

    def worker_per_s(self, parts: Parts, cores: float, cached_share: float = 0.0) -> float:
        """Images per second of one process with its own cores (and device); the broker is on another machine."""
        by_cores = (self.busy * cores - self.beat) / self.worker_s(parts, cached_share)
        return max(0.0, min(1 / self.turn_s(cached_share), by_cores, _by_device(parts, cached_share)))


@dataclass(frozen=True)
class Check:
    """A measured run beside its rate by the model, which is fitted without this run."""

    run: MeasuredRun
    model_per_s: float
    sets: str = field(default="")
    """What the model takes from this run; empty where the rate is a prediction."""

    @property
    def ratio(self) -> float:
        """Rate by the model, divided by the measured rate."""
        return self.model_per_s / self.run.verdicts_per_s


EXAMPLE = "tests/worker/tools/measured.json"
"""What ``make bench`` wrote on two cores, in a clone."""


def read_measured(path: Path) -> BenchmarkFigures:
    """Read the file that ``make bench`` writes.

    Raises:
        StartupError: names what is missing, and how to get it.
    """
    try:
        document = parse_json(read_regular(path, SMALL_FILE_BYTES))
    except OSError as error:
        raise StartupError(
            f"{path}: {error.strerror}: run `make bench`, or pass its file by --measured; that of two cores comes "
            f"with the source, {EXAMPLE}"
        ) from error
    except ValueError as error:
        raise StartupError(f"{path}: not JSON: {error}") from error
    try:
        return _measured(path, document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StartupError(f"{path}: not a file of `make bench`: {type(error).__name__} {error}") from error


def _measured(path: Path, document: dict[str, Any]) -> BenchmarkFigures:
    sections = document["measures"]
    parts: dict[str, Parts] = {}
    runs: dict[tuple[str, int], MeasuredRun] = {}
    for title, measures in sections.items():
        regime = CACHED if title == _CACHED_SECTION else title.removeprefix("scale-out, ").partition(":")[0]
        for measure in measures:
            if measure["name"] == "limit":
                parts[regime] = _parts(measure["parts"])
            elif (found := _PROCESSES.fullmatch(measure["name"])) and "worker_cpu_s" in measure["parts"]:
                names = ("verdicts_per_s", "worker_cpu_s", "broker_cpu_s", "verdict_bytes")
                run = MeasuredRun(regime, int(found[1]), *(float(measure["parts"][name]) for name in names))
                runs[regime, run.processes] = run
    if not parts:
        raise StartupError(f"{path} has no limit of any regime: run `make bench`, with part throughput at least")
    kafka_and_hash = next(iter(parts.values()))
    parts[CACHED] = kafka_and_hash.known()
    image_bytes = next((m["value"] for m in sections.get("images", ()) if m["unit"] == "bytes"), None)
    if image_bytes is None:
        raise StartupError(f"{path} has no section 'images': run `make bench`")
    machine = document["machine"]
    known_runs = tuple(run for run in runs.values() if run.regime in parts)
    return BenchmarkFigures(
        path, machine["cpu"], machine["cores"], machine["device"], float(image_bytes), parts, known_runs
    )


def _parts(limit: dict[str, Any]) -> Parts:
    names = ("decode_s", "inference_s")
    decode_s, inference_s = (float(limit[name]) for name in names)
    return Parts(decode_s, inference_s, limit["kafka"]["client_s"], limit["hash_s"], limit["device_per_s"])


def fit(figures: BenchmarkFigures) -> CapacityModel:
    """Fit the model of a machine.

    Raises:
        StartupError: names the section that the file lacks.
    """
    runs = figures.runs
    turn = _turn(figures, _TURN_OF_MISSES, f"{_TURN_OF_MISSES}: …", "throughput")
    turn_cached = _turn(figures, CACHED, _CACHED_SECTION, "cached")
    if len(runs) < _FEWEST_RUNS or not any(run.processes > 1 for run in runs):
        raise StartupError(f"{figures.path} has {len(runs)} runs of workers, too few: run `make bench`, all parts")
    return _fitted(figures, runs, turn, turn_cached)


def check(figures: BenchmarkFigures) -> list[Check]:
    """Compare the model with every run, which it predicts by a fit to the other runs.

    Only the two runs of a single process that set a *turn* cannot be left out of a fit.
    """
    model = fit(figures)
    checks = []
    for run in figures.runs:
        sets = next((f"the turn of {name}" for turn, name in _turns(model) if turn.run is run), "")
        others = [other for other in figures.runs if other is not run]
        left_out = _fitted(figures, others, model.turn, model.turn_cached)
        predicted = left_out.machine_per_s(
            figures.parts[run.regime], run.processes, figures.cores, cached_share=float(run.is_cached)
        )
        checks.append(Check(run, predicted, sets))
    regimes = list(figures.parts)
    return sorted(checks, key=lambda c: (regimes.index(c.run.regime), c.run.processes))


def _turns(model: CapacityModel) -> tuple[tuple[Turn, str], tuple[Turn, str]]:
    return (model.turn, "images that are scored"), (model.turn_cached, "cached images")


def _turn(figures: BenchmarkFigures, regime: str, section: str, part: str) -> Turn:
    run = next((run for run in figures.runs if run.regime == regime and run.processes == 1), None)
    if run is None:
        raise StartupError(
            f"{figures.path} has no run of 1 process in section '{section}': run `make bench`, with part {part}"
        )
    return Turn(1 / run.verdicts_per_s, run)


def _fitted(figures: BenchmarkFigures, runs: Sequence[MeasuredRun], turn: Turn, turn_cached: Turn) -> CapacityModel:
    parts = [figures.parts[run.regime].total_s for run in runs]
    cached = np.array([run.is_cached for run in runs], float)
    beats = np.array([run.processes_by_rate for run in runs])
    worker = np.array([run.worker_cpu_s for run in runs])
    broker = np.array([run.broker_cpu_s for run in runs])
    own_s, own_cached_s, beat = _least_squares(np.column_stack([1 - cached, cached, beats]), worker - parts, worker)
    broker_s, broker_beat = _least_squares(np.column_stack([np.ones_like(beats), beats]), broker, worker)
    full = [run.busy_cores() / figures.cores for run in runs if run.processes > 1 and not run.is_cached]
    busy = min(1.0, float(np.mean(full))) if full else 1.0
    return CapacityModel(own_s, own_cached_s, beat, broker_s, broker_beat, busy, turn, turn_cached)


def _least_squares(columns: "np.ndarray[Any, Any]", wanted: "np.ndarray[Any, Any]", scale: Any) -> list[float]:
    """Fit that minimises errors relative to ``scale``, with costs below zero held at zero, the lowest first."""
    kept = list(range(columns.shape[1]))
    while kept:
        found, *_ = np.linalg.lstsq(columns[:, kept] / scale[:, None], wanted / scale, rcond=None)
        if found.min() >= 0:
            break
        kept.pop(int(found.argmin()))
    else:
        found = np.zeros(0)
    values = dict(zip(kept, found.tolist(), strict=True))
    return [values.get(column, 0.0) for column in range(columns.shape[1])]


def _by_device(parts: Parts, cached_share: float) -> float:
    if parts.device_per_s is None or cached_share == 1:
        return float("inf")
    return parts.device_per_s / (1 - cached_share)
