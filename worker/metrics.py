"""All metrics of the worker, declared once."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STAGES = ("queue", "fetch", "decode", "inference", "total")
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters, gauges and histograms on a registry of their own.

    Labels are bounded: topics and partitions of the worker, the reasons in ``worker.errors`` and ``bundle.errors``,
    the labels of the bundle.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.events = Counter(
            "genprint_events", "Events answered, by outcome (verdict, deferred, rejected).", ["outcome"], registry=r
        )
        self.decisions = Counter(
            "genprint_decisions",
            "Verdicts by decision and source ('none' without one).",
            ["decision", "source"],
            registry=r,
        )
        self.rejects = Counter("genprint_rejects", "Dead letters by reason.", ["reason"], registry=r)
        self.deferrals = Counter("genprint_deferrals", "Events put off for later, by reason.", ["reason"], registry=r)
        self.stage_seconds = Histogram(
            "genprint_stage_seconds",
            "Time an event spends in a stage: queue (broker timestamp to taken up), fetch, decode, inference (batching "
            "included), total (broker timestamp to verdict).",
            ["stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.batch_images = Histogram(
            "genprint_batch_images", "Images in one inference batch.", buckets=_BATCH, registry=r
        )
        self.in_flight = Gauge("genprint_in_flight_events", "Events taken up and not yet published.", registry=r)
        self.in_flight_bytes = Gauge("genprint_in_flight_bytes", "Encoded bytes of those events.", registry=r)
        self.decoding_bytes = Gauge("genprint_decoding_bytes", "Bytes reserved for decoding.", registry=r)
        self.cache = Counter("genprint_cache", "Cache look-ups: hit, miss, corrupt, error.", ["result"], registry=r)
        self.fetches = Counter("genprint_fetches", "Claim checks by result ('ok' or a reason).", ["result"], registry=r)
        self.lag = Gauge(
            "genprint_lag_records",
            "Unanswered records of an owned partition.",
            ["topic", "partition"],
            registry=r,
        )
        self.publications = Counter(
            "genprint_publications", "Transactions or commits by result (committed, aborted).", ["result"], registry=r
        )
        self.publish_seconds = Histogram(
            "genprint_publish_seconds", "Time of one publication.", buckets=_SECONDS, registry=r
        )
        self.rebalances = Counter("genprint_rebalances", "Changes of the assignment, by kind.", ["kind"], registry=r)
        self.last_verdict = Gauge(
            "genprint_last_verdict_timestamp_seconds", "When a verdict was last published (Unix time).", registry=r
        )
        self.bundle = Info("genprint_bundle", "The bundle and device being served.", registry=r)
