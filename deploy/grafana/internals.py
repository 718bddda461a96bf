"""Where a worker's time and memory go: utilisation, saturation, errors of each of its parts."""

from deploy.grafana.panels import Query, Row, graph, listing, page
from deploy.grafana.queries import CHOSEN, mean, quantile, rate, recorded, series

_UTILISATION = (
    graph(
        "CPU",
        "Cores used by each worker.",
        "short",
        Query(f"rate({series('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
    ),
    graph("Memory", "Resident.", "bytes", Query(series("process_resident_memory_bytes"), "{{instance}}")),
    graph(
        "GPU memory",
        "Of all processes on the device. Zero where there is no GPU.",
        "bytes",
        Query(
            f"sum by (instance, kind) ({series('genprint_device_memory_bytes')}) or vector(0)", "{{instance}} {{kind}}"
        ),
    ),
    graph(
        "Images in a batch",
        "Mean and p95. Full batches (inference.batch_size) mean that there is backlog.",
        "short",
        Query(mean("genprint_batch_images"), "mean"),
        Query(quantile(0.95, "genprint_batch_images"), "p95"),
    ),
    graph(
        "Batches",
        "Runs of the model, per second.",
        "cps",
        Query(rate("genprint_batch_images_count", by="instance"), "{{instance}}"),
    ),
    graph(
        "Time in decode and inference",
        "Mean of an event that was not cached; inference includes waiting for its batch.",
        "s",
        Query(mean("genprint_stage_seconds", 'stage=~"decode|inference"', by="stage"), "{{stage}}"),
    ),
)

_SATURATION = (
    graph(
        "Queues",
        "Events that wait: for room (polled), an address or its answer (fetch), the cache (lookup), a decoder "
        "(decode), a batch (inference). The longest one is in front of the narrowest place.",
        "short",
        Query(f"sum by (queue) ({series('genprint_queue_events')})", "{{queue}}"),
        stacked=True,
    ),
    graph(
        "In flight",
        "Events admitted and not yet published; at pipeline.max_in_flight partitions are paused.",
        "short",
        Query(series("genprint_in_flight_events"), "{{instance}}"),
    ),
    graph(
        "Bytes in flight",
        "Encoded bytes in events, fetched bytes that wait for a decoder, bytes reserved for decoding.",
        "bytes",
        Query(f"sum({series('genprint_in_flight_bytes')})", "events"),
        Query(f"sum({series('genprint_fetched_bytes')})", "fetched"),
        Query(f"sum({series('genprint_decoding_bytes')})", "decoding"),
    ),
    graph(
        "Lag by partition",
        "Records without an answer. One high line is one hot partition.",
        "short",
        Query(f"sum by (topic, partition) ({series('genprint_lag_records')})", "{{topic}}/{{partition}}"),
    ),
    graph(
        "Partitions",
        "Owned by each worker.",
        "short",
        Query(f"count by (instance) ({series('genprint_lag_records')})", "{{instance}}"),
    ),
    graph(
        "Open files",
        "Connections are among them.",
        "short",
        Query(series("process_open_fds"), "{{instance}}"),
    ),
)

_ERRORS = (
    graph(
        "Publications",
        "Transactions, or commits, by result. Aborted ones are repeated.",
        "cps",
        Query(rate("genprint_publications_total", by="result"), "{{result}}"),
        stacked=True,
    ),
    graph(
        "Rebalances",
        "Changes of the assignment in the last quarter of an hour.",
        "short",
        Query(f"sum by (kind) (increase({series('genprint_rebalances_total')}[15m]))", "{{kind}}"),
    ),
    graph(
        "Cache errors and breaker",
        "Share of look-ups that failed; and whether a worker leaves the cache alone (1) after failures in a row.",
        "percentunit",
        Query(recorded("job:genprint_cache_errors:ratio_rate5m"), "{{job}}: failed"),
        Query(f"max by (what) ({series('genprint_cache_breaker_open')})", "breaker, {{what}}"),
    ),
    graph(
        "Starts",
        "Of each worker in the last half hour, the first one not counted.",
        "short",
        Query(f"changes({series('process_start_time_seconds')}[30m])", "{{instance}}"),
    ),
    graph(
        "Up",
        "Whether Prometheus reaches the worker.",
        "short",
        Query(f"up{{{CHOSEN}}}", "{{instance}}"),
        width=16,
    ),
)

INTERNALS = page(
    "genprint-worker",
    "Genprint: workers",
    "Utilisation, saturation and errors of each part of a worker.",
    [
        Row("Utilisation", _UTILISATION),
        Row("Saturation", _SATURATION),
        Row("Errors", _ERRORS),
        Row(
            "Bundles",
            [
                listing(
                    "What is served",
                    "By each worker. During a roll-out there are two digests, otherwise one.",
                    series("genprint_bundle_info"),
                    hidden=["job"],
                )
            ],
        ),
    ],
)
