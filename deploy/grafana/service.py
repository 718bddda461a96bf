"""What users of the verdicts notice: rate, errors, duration. Alerts on these; the causes are on the other pages."""

from deploy.grafana.panels import Query, Row, graph, heat, number, page
from deploy.grafana.queries import CHOSEN_JOBS, mean, quantile, rate, recorded, series

_VERDICTS = rate("genprint_events_total", 'outcome="verdict"')
_ANSWERS = rate("genprint_events_total", 'outcome=~"verdict|rejected"')
_REJECTED = rate("genprint_events_total", 'outcome="rejected"')
_SLOW_30D = f"sum(sum_over_time({recorded('job:genprint_verdicts_slow:rate5m')}[30d]))"
_ALL_30D = f"sum(sum_over_time({recorded('job:genprint_verdicts:rate5m')}[30d]))"

_NOW = (
    number("Workers", "That answer Prometheus.", "short", Query(f"sum(up{{{CHOSEN_JOBS}}})", "workers")),
    number("Verdicts", "Published, per second.", "cps", Query(_VERDICTS, "verdicts")),
    number(
        "Rejected",
        "Dead letters among all answers.",
        "percentunit",
        Query(f"{_REJECTED} / {_ANSWERS}", "rejected"),
    ),
    number(
        "Latency, p99",
        "From the record's timestamp at the broker to its verdict.",
        "s",
        Query(quantile(0.99, "genprint_stage_seconds", 'stage="total"'), "p99"),
    ),
    number("Lag", "Records without an answer.", "short", Query(f"sum({series('genprint_lag_records')})", "records")),
    number(
        "Latency budget left",
        "Of the late verdicts that the objective allows in 30 days; below zero it is missed.",
        "percentunit",
        Query(f"1 - {_SLOW_30D} / {_ALL_30D} / (1 - scalar(genprint:latency_objective:ratio))", "left"),
    ),
)

_RATE = (
    graph(
        "Answers",
        "Verdicts, dead letters, and deferred events.",
        "cps",
        Query(rate("genprint_events_total", by="outcome"), "{{outcome}}"),
        stacked=True,
    ),
    graph(
        "Lag by topic",
        "Records of owned partitions without an answer; deferred events count until they are due.",
        "short",
        Query(f"sum by (topic) ({series('genprint_lag_records')})", "{{topic}}"),
        stacked=True,
    ),
    graph(
        "Since the last verdict",
        "Seconds in which no worker published a verdict.",
        "s",
        Query(f"time() - max by (job) ({series('genprint_last_verdict_timestamp_seconds')})", "{{job}}"),
    ),
)

_ERRORS = (
    graph(
        "Dead letters by reason",
        "What was rejected for good, and why.",
        "cps",
        Query(rate("genprint_rejects_total", by="reason"), "{{reason}}"),
        stacked=True,
        width=6,
    ),
    graph(
        "Deferrals by reason",
        "Deferred events: their source is slow or away, or their tenant is over its share.",
        "cps",
        Query(rate("genprint_deferrals_total", by="reason"), "{{reason}}"),
        stacked=True,
        width=6,
    ),
    graph(
        "Fetches by result",
        "Claim checks: ok, or why not.",
        "cps",
        Query(rate("genprint_fetches_total", by="result"), "{{result}}"),
        stacked=True,
        width=6,
    ),
    graph(
        "Firing alerts",
        "By name; each has a section in docs/runbook.md. Zero while there are none.",
        "short",
        Query(f'sum by (alertname) (ALERTS{{alertstate="firing", {CHOSEN_JOBS}}}) or vector(0)', "{{alertname}}"),
        width=6,
    ),
)

_DURATION = (
    graph(
        "Latency",
        "From the record's timestamp at the broker to its verdict.",
        "s",
        *(Query(quantile(q, "genprint_stage_seconds", 'stage="total"'), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
    ),
    graph(
        "Latency by stage, p95",
        "queue ends when a worker takes the event up; fetch is for claim checks; cached images skip decode and "
        "inference.",
        "s",
        Query(quantile(0.95, "genprint_stage_seconds", by="stage"), "{{stage}}"),
    ),
    graph(
        "Latency budget burn",
        "How many times faster than allowed the budget of late verdicts is spent, over several windows. Above 1 it "
        "does not last.",
        "short",
        Query(recorded("job_window:genprint_latency_burn:ratio"), "{{job}} {{window}}"),
        limit=1,
    ),
    heat(
        "Latency, all of it",
        "Verdicts per second in each bucket.",
        "s",
        rate("genprint_stage_seconds_bucket", 'stage="total"', by="le"),
    ),
    graph(
        "Publication",
        "Time of one transaction: the answers of a commit interval, with their offsets.",
        "s",
        Query(mean("genprint_publish_seconds"), "mean"),
        Query(quantile(0.95, "genprint_publish_seconds"), "p95"),
        width=12,
    ),
)

SERVICE = page(
    "genprint-service",
    "Genprint: service",
    "Rate, errors and duration of verdicts.",
    [Row("Now", _NOW), Row("Rate", _RATE), Row("Errors", _ERRORS), Row("Duration", _DURATION)],
)
