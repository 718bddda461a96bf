"""Keeps the figures of a benchmark's file that a plan reads: ``python -m tests.worker.tools.trim_measured FROM TO``."""

import json
import sys
from pathlib import Path
from typing import Any


def trimmed(document: dict[str, Any]) -> dict[str, Any]:
    """Machine, options, size of images, limits, and the workers' runs."""
    kept = {
        title: [
            {name: measure[name] for name in ("name", "value", "unit", "parts")}
            for measure in measures
            if measure["unit"] == "bytes" or measure["name"] == "limit" or _is_workers(measure)
        ]
        for title, measures in document["measures"].items()
        if title != "memory" and not title.startswith("latency")
    }
    return {**document, "measures": kept}


def _is_workers(measure: dict[str, Any]) -> bool:
    return "worker_cpu_s" in measure["parts"] and not measure["name"].startswith("naive")


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(trimmed(json.loads(source.read_text())), indent=1) + "\n")
