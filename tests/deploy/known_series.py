"""What there is to ask Prometheus for: the worker's own metrics, those of Prometheus, and what our rules record."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from tests.deploy.promql import grouped_by, selectors
from worker.__main__ import app

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
TARGET_LABELS = {"job", "instance"}
PROMETHEUS_OWN = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}
PROCESS = ("cpu_seconds_total", "open_fds", "resident_memory_bytes", "start_time_seconds")
"""What the metrics table calls process_*, as far as prometheus_client has it."""


def rules() -> Iterator[dict[str, Any]]:
    """Every recording rule and alert, in all files."""
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


@cache
def worker_series() -> Mapping[str, set[str]]:
    """Labels by the name of the series, from ``python -m worker metrics --json``."""
    rows = json.loads(CliRunner().invoke(app, ["metrics", "--json"]).stdout)
    known = {f"process_{name}": set[str]() for name in PROCESS if any(row["metric"] == "process_*" for row in rows)}
    for row in rows:
        labels = {label for label in row["labels"].split(", ") if label}
        if row["kind"] == "histogram":
            known |= {f"{row['metric']}_bucket": {*labels, "le"}}
            known |= {f"{row['metric']}_{part}": labels for part in ("sum", "count")}
        else:
            known[row["metric"]] = labels
    return known


@cache
def recorded_labels() -> Mapping[str, set[str]]:
    """Labels by the name of a recorded series: what its name says before the first colon."""
    names = {rule["record"] for rule in rules() if "record" in rule}
    return {name: {*name.partition(":")[0].split("_")} - {"genprint"} for name in names}


def faults(expr: str) -> list[str]:
    """Series that nobody writes, and labels that they do not have."""
    known = {**worker_series(), **PROMETHEUS_OWN, **recorded_labels()}
    found, allowed = [], set[str]()
    for selector in selectors(expr):
        labels = known.get(selector.metric)
        if labels is None:
            found.append(f"{selector.metric}: no such series")
            continue
        own = labels if ":" in selector.metric else labels | TARGET_LABELS
        allowed |= own
        found += [f"{selector.metric}: no label {label}" for label in sorted(selector.labels - own)]
    found += [f"no series here has a label {label}" for label in sorted(grouped_by(expr) - allowed)]
    return found
