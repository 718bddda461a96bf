"""What a stream needs: workers, partitions, network, Redis, disks and money, by the model of ``worker.tools.capacity``.

All figures are for the peak hour, with one worker lost, except storage, which is for the mean of a day.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bundle.manifest import Manifest, Preprocessing
from bundle.preprocess import ImageFacts
from worker.errors import StartupError
from worker.operations.reference import Row
from worker.scoring.cache import CachedScores, encode_entry
from worker.scoring.engine import ImageScores
from worker.settings import Settings, read_toml
from worker.tools.capacity import BenchmarkFigures, CapacityModel, Check, Parts

DAY_S: Final = 86_400
_MIB, _GIB, _TIB = 2**20, 2**30, 2**40

EVENT_ENVELOPE_BYTES: Final = 300
"""Key, headers and record framing of an event with CloudEvents attributes."""
VERDICT_ENVELOPE_BYTES: Final = 350
"""Key, headers and record framing of a verdict."""
CLAIM_CHECK_BYTES: Final = 150
"""A claim check with an address of some length and a sha256."""
REDIS_KEY_BYTES: Final = len("genprint:") + 24 + len(":") + 64
REDIS_OVERHEAD_BYTES: Final = 100
"""Memory of an entry beside key and value: object, hash table, expiry, rounding of the allocator."""

CLIENT_S_PER_BYTE: Final = 2.3e-9
"""CPU seconds of kafka-python for each further byte of a record that it consumes (measured on records of 60 KB)."""

_PARTITION_BYTES_PER_S: Final = 10 * 2**20
"""Most traffic of one partition at the peak: one disk, one fetch and one consumer serve it."""
_WORKERS_TO_PARTITIONS: Final = 2
"""Partitions for each worker, so that the workers can be doubled without more partitions."""
_PARTITION_STEP: Final = 12
"""Partitions come in multiples of this, which many numbers of workers divide."""


@dataclass(frozen=True)
class Load:
    """The stream of images that a plan is for."""

    images_per_day: float
    peak_factor: float
    """Ratio of the busiest hour to the mean."""
    cached_share: float
    """Share of images whose scores are in Redis."""
    image_bytes: float
    inline_share: float
    """Share of events that carry the image itself; the others carry a claim check."""
    deferred_share: float
    """Share of events that are deferred, once each."""
    rejected_share: float
    verdict_readers: int
    """Consumer groups that read all verdicts."""
    worker_cores: float
    """CPU cores of one worker (and one device, where the figures are those of a device)."""
    decode_s: float | None = None
    """CPU seconds to decode an image; None for the benchmark's figure."""

    def per_s(self) -> float:
        """Images per second, mean."""
        return self.images_per_day / DAY_S

    def peak_per_s(self) -> float:
        """Images per second in the busiest hour."""
        return self.per_s() * self.peak_factor

    def parts(self, figures: BenchmarkFigures, regime: str) -> Parts:
        """Costs of an image: the benchmark's figures, corrected for the size of these images.

        Hashing grows with the bytes of images, Kafka's client with the bytes inside events, inference with neither.
        """
        parts = figures.part(regime)
        more_bytes = max(0.0, self.image_bytes - figures.image_bytes)
        return replace(
            parts,
            decode_s=parts.decode_s if self.decode_s is None else self.decode_s,
            client_s=parts.client_s + self.inline_share * more_bytes * CLIENT_S_PER_BYTE,
            hash_s=parts.hash_s * self.image_bytes / figures.image_bytes,
        )

    def event_bytes(self) -> float:
        """Bytes of one event as a record."""
        value = self.inline_share * self.image_bytes + (1 - self.inline_share) * CLAIM_CHECK_BYTES
        return value + EVENT_ENVELOPE_BYTES


@dataclass(frozen=True)
class Embedding:
    """Size of what the cache keeps of an image."""

    dimension: int
    views: int

    def entry_bytes(self) -> int:
        """Memory of one entry in Redis, with the encoding that the cache has."""
        scores = ImageScores(np.zeros(self.views, np.float32), np.zeros(self.dimension, np.float32))
        facts = ImageFacts(format="JPEG", width=1024, height=1024, bytes=250_000, animated=False)
        return REDIS_KEY_BYTES + len(encode_entry(CachedScores(facts, scores))) + REDIS_OVERHEAD_BYTES


def embedding(manifest: Manifest) -> Embedding:
    """Embedding of a bundle; a grid of crops counts as the most views that it may give."""
    return Embedding(manifest.templates.dimension, _most_views(manifest.detector.preprocessing))


def _most_views(preprocessing: Preprocessing) -> int:
    crops = [view.crop for view in preprocessing.views]
    return sum({"five": 5, "grid": crop.max or 1}.get(crop.mode, 1) for crop in crops)


@dataclass(frozen=True)
class Prices:
    """Prices in any one currency; parts without a price are left out of the sum."""

    worker_hour: float | None = None
    """An hour of one worker, with its cores, memory and device."""
    redis_gib_hour: float | None = None
    storage_gib_month: float | None = None
    """A GiB on the brokers' disks for a month; replicas are counted."""
    network_gib: float | None = None
    """A GiB between clients and brokers, either way."""
    object_million: float | None = None
    """A million requests to the object store."""


@dataclass(frozen=True)
class Cost:
    """Cost of a million images by part; None where no price was given."""

    workers: float | None
    redis: float | None
    storage: float | None
    network: float | None
    objects: float | None

    def total(self) -> float:
        """Sum of the parts that have a price."""
        parts: dict[str, float | None] = asdict(self)
        return sum(value for value in parts.values() if value is not None)


@dataclass(frozen=True)
class Plan:
    """What to set up, and the rates to expect; rates and network are those of the peak."""

    mean_per_s: float
    peak_per_s: float
    worker_per_s: float
    workers: int
    catch_up_s: float
    """Seconds that all workers need, at the mean load, to catch up after an hour without workers."""
    partitions: int
    partitions_per_worker: float
    transactions_per_s: float
    broker_cores: float
    """CPU of the brokers for requests of clients; replication comes on top."""
    broker_in: float
    """Bytes per second that clients write."""
    broker_out: float
    """Bytes per second that clients read."""
    replication: float
    """Bytes per second among brokers."""
    deferred_waiting: float
    """Events in the retry topic that are not due yet."""
    object_requests_per_s: float
    object_bytes_per_s: float
    redis_requests_per_s: float
    """Keys looked up and entries written; workers send them in batches."""
    redis_entry_bytes: int | None
    redis_entries: float | None
    redis_bytes: float | None
    stored: dict[str, float]
    """Bytes by topic, replicas counted, before the broker's compression."""
    cost: Cost


def plan(
    load: Load,
    figures: BenchmarkFigures,
    model: CapacityModel,
    regime: str,
    settings: Settings,
    kept: Embedding | None = None,
    prices: Prices | None = None,
) -> Plan:
    """Plan what a stream needs.

    Args:
        load: the stream.
        figures: benchmark of a machine like those of the workers.
        model: the model that is fitted to these figures.
        regime: benchmark regime whose network costs as much as the bundle's.
        settings: source of retention, replication, commit interval and the cache's time to live.
        kept: size of what the cache keeps; without it Redis is left out.
        prices: prices of the parts of the cost.

    Raises:
        StartupError: a worker of that size cannot process an image.
    """
    parts = load.parts(figures, regime)
    per_worker = model.worker_per_s(parts, load.worker_cores, load.cached_share)
    if per_worker <= 0:
        raise StartupError(
            f"a worker of {load.worker_cores:g} cores has no time for images beside its own work; plan with more cores"
        )
    peak = load.peak_per_s()
    busy_workers = max(1, math.ceil(peak / per_worker))
    workers = busy_workers + 1
    topics, kafka = settings.topics, settings.kafka
    event, verdict = load.event_bytes(), _verdict_bytes(figures) + VERDICT_ENVELOPE_BYTES
    deferred, rejected = load.deferred_share * event, load.rejected_share * event
    written = peak * (event + deferred + rejected + verdict)
    spare_per_s = workers * per_worker - load.per_s()
    partitions = _dozens(max(_WORKERS_TO_PARTITIONS * workers, peak * event / _PARTITION_BYTES_PER_S))
    stored_for = {
        kafka.images_topic: (event, topics.images_retention_s),
        kafka.retry_topic: (deferred, topics.retry_retention_s),
        kafka.dead_topic: (rejected, topics.dead_retention_s),
        kafka.verdicts_topic: (verdict, topics.verdicts_retention_s),
    }
    stored = {name: load.per_s() * size * kept_s * topics.replication for name, (size, kept_s) in stored_for.items()}
    entries = load.per_s() * (1 - load.cached_share) * settings.redis.ttl_s if kept else None
    redis_bytes = entries * kept.entry_bytes() if kept and entries is not None else None
    read = peak * (event + deferred + load.verdict_readers * verdict)
    return Plan(
        mean_per_s=load.per_s(),
        peak_per_s=peak,
        worker_per_s=per_worker,
        workers=workers,
        catch_up_s=3600 * load.per_s() / spare_per_s,
        partitions=partitions,
        partitions_per_worker=partitions / workers,
        transactions_per_s=workers / kafka.commit_interval_s,
        broker_cores=peak * model.broker_s + workers * model.broker_beat,
        broker_in=written,
        broker_out=read,
        replication=written * (topics.replication - 1),
        deferred_waiting=peak * load.deferred_share * settings.fetch.retry_delay_s,
        object_requests_per_s=peak * (1 - load.inline_share),
        object_bytes_per_s=peak * (1 - load.inline_share) * load.image_bytes,
        redis_requests_per_s=peak * (2 - load.cached_share),
        redis_entry_bytes=kept.entry_bytes() if kept else None,
        redis_entries=entries,
        redis_bytes=redis_bytes,
        stored=stored,
        cost=_cost(load, prices or Prices(), workers, redis_bytes, sum(stored.values()), (written + read) / peak),
    )


def _cost(
    load: Load, prices: Prices, workers: int, redis_bytes: float | None, stored_bytes: float, moved_bytes: float
) -> Cost:
    """Cost per million images; workers and Redis are paid for round the clock."""

    def price(per_unit: float | None, units: float | None) -> float | None:
        return None if per_unit is None or units is None else per_unit * units

    days = 1_000_000 / load.images_per_day  # in which a million images come
    return Cost(
        workers=price(prices.worker_hour, workers * 24 * days),
        redis=price(prices.redis_gib_hour, None if redis_bytes is None else redis_bytes / _GIB * 24 * days),
        storage=price(prices.storage_gib_month, stored_bytes / _GIB * days / 30),
        network=price(prices.network_gib, 1_000_000 * moved_bytes / _GIB),
        objects=price(prices.object_million, 1 - load.inline_share),
    )


def _verdict_bytes(figures: BenchmarkFigures) -> float:
    return sum(run.verdict_bytes for run in figures.runs) / len(figures.runs)


def _dozens(count: float) -> int:
    return _PARTITION_STEP * math.ceil(count / _PARTITION_STEP)


def read_prices(path: Path | None, assignments: Sequence[str]) -> Prices:
    """Read prices from a TOML file, then from ``name=number`` assignments.

    Raises:
        StartupError: names the price and what was expected.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path)
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        values[name] = value
    known = [field.name for field in fields(Prices)]
    for name, value in values.items():
        if name not in known:
            raise StartupError(f"price {name}: no such price; choose one of {', '.join(known)}")
        values[name] = _price(name, value)
    return Prices(**values)


def _price(name: str, value: object) -> float:
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise StartupError(f"price {name}: expected a number of at least 0")
    return found


def plan_rows(found: Plan, load: Load, settings: Settings) -> list[Row]:
    """Rows with each figure, its value, and where it comes from."""
    topics = settings.topics
    rows = [
        _row("images", f"{found.mean_per_s:,.0f}/s", f"mean; {found.peak_per_s:,.0f}/s at the peak"),
        _row(
            "workers",
            f"{found.workers:,}",
            f"{found.worker_per_s:,.1f} images/s each, cores {load.worker_cores:g}; one may be lost at the peak",
        ),
        _row("catching up", _duration(found.catch_up_s), "after an hour without workers, at the mean load"),
        _row(
            "partitions",
            f"{found.partitions:,}",
            f"of images and of deferred events each; {found.partitions_per_worker:.1f} a worker",
        ),
        _row(
            "transactions",
            f"{found.transactions_per_s:,.0f}/s",
            f"at most: one a worker every {1000 * settings.kafka.commit_interval_s:g} ms",
        ),
        _row("broker, in", _rate(found.broker_in), "events, deferrals, dead letters, verdicts at the peak"),
        _row("broker, out", _rate(found.broker_out), f"to workers, and verdicts to readers: {load.verdict_readers}"),
        _row("broker, among", _rate(found.replication), f"{topics.replication} replicas"),
        _row("broker, CPU", f"{found.broker_cores:.2g} cores", "for requests of clients, without replication"),
        _row(
            "events waiting",
            f"{found.deferred_waiting:,.0f}",
            f"in the retry topic: {load.deferred_share:.1%} of events for {settings.fetch.retry_delay_s:g} s",
        ),
        _row(
            "object store",
            f"{found.object_requests_per_s:,.0f}/s",
            f"requests, {_rate(found.object_bytes_per_s)}: {1 - load.inline_share:.0%} of events are claim checks",
        ),
    ]
    if found.redis_bytes is not None and found.redis_entries is not None and found.redis_entry_bytes is not None:
        rows.append(
            _row(
                "Redis, memory",
                _size(found.redis_bytes),
                f"{found.redis_entries:,.0f} images of {_duration(settings.redis.ttl_s)}, "
                f"{found.redis_entry_bytes:,} bytes each",
            )
        )
    else:
        rows.append(_row("Redis, memory", "?", "pass --bundle DIR, or --dimension and --views"))
    rows.append(_row("Redis, requests", f"{found.redis_requests_per_s:,.0f}/s", "keys read and written, in batches"))
    kept_s = (topics.images_retention_s, topics.retry_retention_s, topics.dead_retention_s, topics.verdicts_retention_s)
    for (name, size), retention_s in zip(found.stored.items(), kept_s, strict=True):
        rows.append(
            _row(f"disk, {name}", _size(size), f"{_duration(retention_s)}, {topics.replication} replicas, uncompressed")
        )
    return rows + _cost_rows(found.cost)


def _cost_rows(cost: Cost) -> list[Row]:
    given = {name: value for name, value in asdict(cost).items() if value is not None}
    if not given:
        return []
    missing = [name for name, value in asdict(cost).items() if value is None]
    parts = ", ".join(f"{name} {value:,.4g}" for name, value in given.items())
    left_out = f"; no price for {', '.join(missing)}" if missing else ""
    return [_row("cost", f"{cost.total():,.4g}", f"per million images: {parts}{left_out}")]


def check_rows(checks: Sequence[Check]) -> list[Row]:
    """Rows with the rates of the model beside the measured ones."""
    return [
        {
            "regime": check.run.regime,
            "processes": str(check.run.processes),
            "model": f"{check.model_per_s:,.4g}/s",
            "measured": f"{check.run.verdicts_per_s:,.4g}/s",
            "ratio": f"{check.ratio:.2f}",
            "what it is": f"sets {check.sets}" if check.sets else "prediction",
        }
        for check in checks
    ]


def plan_json(
    found: Plan, load: Load, figures: BenchmarkFigures, model: CapacityModel, regime: str, checks: Sequence[Check]
) -> Mapping[str, Any]:
    """The plan for programs: everything in seconds and bytes."""
    costs = asdict(model)
    costs |= {name: getattr(model, name).seconds for name in ("turn", "turn_cached")}
    return {
        "load": asdict(load),
        "measured": {
            "path": str(figures.path),
            "machine": figures.machine,
            "cores": figures.cores,
            "device": figures.device,
            "regime": regime,
        },
        "parts": asdict(load.parts(figures, regime)),
        "model": costs,
        "check": [{**asdict(c.run), "model_per_s": c.model_per_s, "ratio": c.ratio, "sets": c.sets} for c in checks],
        "plan": asdict(found),
    }


def _row(figure: str, value: str, how: str) -> Row:
    return {"figure": figure, "value": value, "how": how}


def _size(size: float) -> str:
    for unit, name in ((_TIB, "TiB"), (_GIB, "GiB"), (_MIB, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1024:,.1f} KiB" if size >= 1024 else f"{size:,.0f} bytes"


def _rate(per_s: float) -> str:
    return f"{_size(per_s)}/s"


def _duration(seconds: float) -> str:
    for unit, name in ((DAY_S, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.3g} {name}"
    return f"{seconds:,.3g} seconds"
