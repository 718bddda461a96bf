"""What Grafana would ask of Prometheus for a dashboard, read from its committed JSON."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.prometheus import Prometheus

_LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One target of one panel."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}: {self.expr}"


def panel_queries(path: Path) -> Iterator[PanelQuery]:
    """Also of panels inside rows."""
    document = json.loads(path.read_text())
    for panel in _panels(document["panels"]):
        for target in panel.get("targets", ()):
            yield PanelQuery(document["title"], panel["title"], target["expr"])


def variable_queries(path: Path) -> Mapping[str, str]:
    """By the name of the variable."""
    variables = json.loads(path.read_text())["templating"]["list"]
    return {v["name"]: _text(v["query"]) for v in variables if v["type"] == "query"}


def _text(query: Any) -> str:
    return str(query["query"] if isinstance(query, dict) else query)


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


def filled_in(expr: str, values: Mapping[str, str]) -> str:
    """The expression with Grafana's variables replaced.

    Raises:
        KeyError: a variable that there is not.
    """
    return _VARIABLE.sub(lambda found: values[found[1]], expr)


def greatest(prometheus: Prometheus, expr: str, start: float, end: float) -> float | None:
    """The largest number that a range query finds, signs aside; None if it finds none."""
    parameters = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": "1"}
    result = prometheus.api("query_range", parameters)["result"]
    numbers = [abs(float(value)) for series in result for _, value in series["values"]]
    return max(filter(math.isfinite, numbers), default=None)


def values_of_variable(prometheus: Prometheus, query: str) -> list[str]:
    """What Grafana would offer to choose from."""
    found = _LABEL_VALUES.fullmatch(query)
    assert found is not None, query
    values: list[str] = prometheus.api(f"label/{found[2]}/values", {"match[]": found[1]})
    return values
