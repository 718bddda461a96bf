"""A worker put together from its settings: everything is made once here, and handed on."""

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from bundle.store import Bundle, load_bundle
from worker.decision.attribution import Attributor
from worker.errors import StartupError
from worker.images.decoder_pool import DecoderPool
from worker.images.fetch import Fetcher
from worker.messages.records import BatchGuard, Broker
from worker.operations.health import Health, HealthServer
from worker.operations.logs import configure_logs
from worker.operations.metrics import Metrics
from worker.pipeline.journal import Journal
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stages import Stages
from worker.scoring.cache import NoCache, RedisCache, ScoreCache
from worker.scoring.engine import Engine
from worker.settings import Settings

MakeBroker = Callable[[Metrics, BatchGuard, threading.Event], Broker]
"""Makes the broker's edge; the broker may set the event, which ends the work."""


def start_engine(settings: Settings) -> tuple[Bundle, Engine]:
    """Load the bundle, start its sessions and check its probe.

    Raises:
        StartupError: no bundle is set, or the requested device is not there.
        BundleError: the bundle is missing or damaged, or gives other results here than where it was made.
    """
    if settings.bundle is None:
        raise StartupError("no bundle: pass --bundle DIR or set GENPRINT_BUNDLE")
    bundle = load_bundle(settings.bundle)
    engine = Engine(bundle, settings.inference)
    engine.start()
    return bundle, engine


def serve(settings: Settings, make_broker: MakeBroker) -> None:
    """Answer events until SIGTERM or Ctrl-C, or until the broker sets the event that it is given.

    Raises:
        WorkerError, BundleError: start-up failed, or the process must end; see ``worker.errors``.
    """
    configure_logs(settings.log_level)
    log = structlog.get_logger("worker")
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    metrics = Metrics()
    bundle, engine = start_engine(settings)
    manifest = bundle.manifest
    identity = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": bundle.digest,
        "library": bundle.library_version,
    }
    metrics.bundle.info({**identity, "device": engine.device, "asked": settings.inference.device})
    if engine.driver is not None:
        metrics.watch_device_memory(engine.driver.memory)
    with ExitStack() as closing:
        cache: ScoreCache = NoCache()
        if settings.redis.url is not None:
            cache = RedisCache(settings.redis, bundle, metrics)
            closing.callback(cache.close)
            cache.check()
        decoders = DecoderPool(bundle, settings, lambda error: metrics.decoder_ends.labels(error.reason).inc())
        fetcher = Fetcher(settings.fetch, fairness=settings.fairness)
        stages = Stages(settings, decoders, engine, cache, fetcher, metrics)
        journal = closing.enter_context(Journal(settings.pipeline.journal, 2 * settings.pipeline.max_in_flight + 1))
        health = Health(settings.pipeline.stall_s)
        server = HealthServer(settings.http, health, metrics)
        server.start()
        closing.callback(server.close)
        log.info("serving", **identity, device=engine.device, http_port=server.port, delivery=settings.kafka.delivery)
        attributor = Attributor(bundle, settings.policy, settings.run_id)
        broker = make_broker(metrics, journal, stop)
        Pipeline(settings, broker, stages, attributor, health, metrics, journal).run(stop)
