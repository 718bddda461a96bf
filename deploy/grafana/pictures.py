"""`python -m deploy.grafana.pictures`: some panels as pictures, drawn from what a real Prometheus saw of a real worker.

A broker, a cache, a worker with the demo's bundle and Prometheus run for about three minutes: steady traffic, a burst,
images that came before, broken ones. The queries are those of the committed dashboards. There is no Grafana here, so
matplotlib draws; colours and layout are its own.
"""

import io
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import typer
from confluent_kafka import Producer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image
from rich.console import Console
from rich.progress import track

from deploy.grafana.__main__ import FOLDER as DASHBOARDS
from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.errors import LocalServerError
from deploy.local.ports import LOOPBACK
from deploy.local.prometheus import Prometheus
from deploy.local.topics import GENPRINT_TOPICS, create_topics
from deploy.local.valkey import Valkey
from deploy.local.worker import ROOT, local_worker

PICTURES = ROOT / "docs" / "pictures"
PARTITIONS = 4
RATE_INTERVAL = "8s"
COLUMNS = 3

DRAWN: Mapping[str, tuple[str, ...]] = {
    "genprint-service": (
        "Answers",
        "Lag by topic",
        "Dead letters by reason",
        "Latency",
        "Latency by stage, p95",
        "Latency, all of it",
    ),
    "genprint-worker": (
        "CPU",
        "Images in a batch",
        "Queues",
        "In flight",
        "Time in decode and inference",
        "Publications",
    ),
    "genprint-model": ("Scores", "Decisions", "Sources", "Scores by decision", "Reasons given", "Cache look-ups"),
}
"""Panels by dashboard."""

app = typer.Typer(help="Pictures of the dashboards' data.", add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Phase:
    """So many events a second, of which a share is new to the cache, and a share is no image at all."""

    seconds: float
    rate: float
    new: float
    broken: float = 0.0


PHASES = (
    Phase(40, rate=60, new=0.9),
    Phase(10, rate=250, new=0.9),
    Phase(40, rate=40, new=0.9),
    Phase(30, rate=150, new=0.05),
    Phase(30, rate=60, new=0.6, broken=0.3),
    Phase(20, rate=60, new=0.6),
)


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="What the worker serves.")] = ROOT / "build" / "demo" / "bundle",
    images: Annotated[Path, typer.Option(help="Searched recursively.")] = ROOT / "build" / "demo" / "data" / "test",
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = PICTURES,
) -> None:
    """Run a worker under load and draw its dashboards; `make demo` has made bundle and images."""
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    if not paths or not bundle.is_dir():
        sys.exit("no bundle, or no images: make demo makes both, or pass --bundle and --images")
    try:
        with ExitStack() as running, tempfile.TemporaryDirectory() as folder:
            draw_all(*load(running, Path(folder), bundle, paths), out)
    except LocalServerError as error:
        sys.exit(str(error))


def load(running: ExitStack, logs: Path, bundle: Path, images: Sequence[Path]) -> tuple[Prometheus, str, float, float]:
    """Start everything and go through the phases.

    Returns:
        Prometheus, the worker's address, and the times of beginning and end.
    """
    broker = running.enter_context(EmbeddedBroker(logs / "broker.log"))
    valkey = running.enter_context(Valkey(logs / "valkey.log"))
    create_topics(broker.bootstrap, dict.fromkeys(GENPRINT_TOPICS, PARTITIONS))
    with console.status("starting the worker and Prometheus"):
        worker = running.enter_context(local_worker(broker, valkey, bundle, logs / "worker.log"))
        address = f"{LOOPBACK}:{worker.port}"
        prometheus = running.enter_context(Prometheus(logs / "prometheus.log", {"genprint": [address]}))
    start = time.time()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "log_level": 0})
    for value in track(list(_events(images)), "sending", console=console, transient=True):
        time.sleep(max(0.0, start + value.at_s - time.time()))
        producer.produce("images", value.data, str(value.number).encode(), headers=[("content-type", b"image/png")])
        producer.poll(0)
    producer.flush(30)
    time.sleep(5)
    worker.require_running()
    return prometheus, address, start, time.time()


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    at_s: float
    data: bytes


def _events(images: Sequence[Path]) -> Iterator[_Event]:
    """What is sent, and when; seeded."""
    rng = random.Random(7)  # noqa: S311 - no secret
    known = [_png(path) for path in images[:: max(1, len(images) // 200)]]
    at_s, number = 0.0, 0
    for phase in PHASES:
        for _ in range(int(phase.seconds * phase.rate)):
            data = rng.choice(known)
            if rng.random() < phase.broken:
                data = data[: len(data) // 3]
            elif rng.random() < phase.new:
                # Behind its end a PNG may carry anything: other bytes for the cache, the same pixels for the model.
                data += number.to_bytes(8, "big")
            yield _Event(number, at_s, data)
            at_s += 1 / phase.rate
            number += 1


def _png(path: Path) -> bytes:
    file = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(file, "png")
    return file.getvalue()


def draw_all(prometheus: Prometheus, worker: str, start: float, end: float, out: Path) -> None:
    """One picture for each dashboard."""
    mpl.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
    out.mkdir(parents=True, exist_ok=True)
    chosen = {"job": "genprint", "instance": re.escape(worker), "__rate_interval": RATE_INTERVAL}
    for uid, titles in DRAWN.items():
        document = json.loads((DASHBOARDS / f"{uid}.json").read_text())
        panels = {panel["title"]: panel for panel in document["panels"]}
        rows = -(-len(titles) // COLUMNS)
        figure = Figure(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
        for axes, title in zip(figure.subplots(rows, COLUMNS).flat, titles, strict=True):
            answers = [
                (target, _range(prometheus, _filled_in(target["expr"], chosen), start, end))
                for target in panels[title]["targets"]
            ]
            _draw(axes, panels[title], answers)
            axes.set_xlim(0, end - start)
        figure.savefig(out / f"{uid}.png", dpi=100)
        console.print(f"{out / f'{uid}.png'}")


def _range(prometheus: Prometheus, expr: str, start: float, end: float) -> list[dict[str, Any]]:
    parameters = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": "1"}
    result: list[dict[str, Any]] = prometheus.api("query_range", parameters)["result"]
    for series in result:
        series["points"] = np.array([[float(at) - start, float(value)] for at, value in series["values"]])
    return result


def _filled_in(expr: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: values[found[1]].replace("\\", "\\\\"), expr)


def _draw(axes: Axes, panel: dict[str, Any], answers: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    axes.set_title(panel["title"], loc="left", fontweight="bold")
    axes.set_xlabel("seconds")
    if panel["type"] == "heatmap":
        _draw_buckets(axes, answers[0][1], panel["options"]["yAxis"]["unit"])
        return
    defaults = panel["fieldConfig"]["defaults"]
    lines = [(_name(target, series["metric"]), series["points"]) for target, result in answers for series in result]
    lines = [line for line in lines if np.nansum(line[1][:, 1]) > 0]
    lines.sort(key=lambda line: -np.nansum(line[1][:, 1]))
    if defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal":
        _stack(axes, lines)
    else:
        for name, points in lines:
            axes.plot(points[:, 0], points[:, 1], label=name, linewidth=1.2)
    axes.set_ylim(0, defaults.get("max", 1.25 * axes.get_ylim()[1]))  # with room for the legend
    axes.yaxis.set_major_formatter(_formatter(defaults.get("unit", "short")))
    axes.legend(frameon=False, fontsize=7, loc="upper right", ncols=1 if len(lines) < 4 else 2)


def _stack(axes: Axes, lines: Sequence[tuple[str, Any]]) -> None:
    at = np.unique(np.concatenate([points[:, 0] for _, points in lines]).round(3))
    layers = []
    for _, points in lines:
        layer = np.zeros_like(at)
        layer[np.searchsorted(at, points[:, 0].round(3))] = np.nan_to_num(points[:, 1])
        layers.append(layer)
    axes.stackplot(at, layers, labels=[name for name, _ in lines], alpha=0.75, linewidth=0)


def _draw_buckets(axes: Axes, result: list[dict[str, Any]], unit: str) -> None:
    """Observations per second between an edge and the next; Prometheus keeps them added up from below."""
    result = sorted(result, key=lambda series: float(series["metric"]["le"]))
    at = np.unique(np.concatenate([series["points"][:, 0] for series in result]).round(3))
    sums = np.zeros((len(result), len(at)))
    for row, series in zip(sums, result, strict=True):
        row[np.searchsorted(at, series["points"][:, 0].round(3))] = series["points"][:, 1]
    rates = np.clip(np.diff(sums, axis=0, prepend=0), 0, None)
    shown_rows = min(len(result), int(np.flatnonzero(rates.any(axis=1)).max(initial=0)) + 2)
    rates, result = rates[:shown_rows], result[:shown_rows]
    edges = np.arange(shown_rows + 1)
    mesh = axes.pcolormesh(np.append(at, at[-1] + 1), edges, np.sqrt(rates), cmap="YlGnBu", rasterized=True)
    mesh.set_clim(0, max(1e-9, float(np.sqrt(rates).max())))
    label = _formatter(unit)
    names = [label(float(series["metric"]["le"]), None) for series in result]
    axes.set_yticks(edges[1:] - 0.5, [f"≤ {name}" if name != "inf" else "more" for name in names], fontsize=6)


def _name(target: dict[str, Any], labels: Mapping[str, str]) -> str:
    return re.sub(
        r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), target.get("legendFormat", "")
    ).strip()


def _formatter(unit: str) -> FuncFormatter:
    def show(value: float, _position: object) -> str:
        if not np.isfinite(value):
            return "inf"
        match unit:
            case "s" if value < 1:
                return f"{value * 1000:g} ms"
            case "s":
                return f"{value:g} s"
            case "cps":
                return f"{value:g}/s"
            case "percentunit":
                return f"{value * 100:g} %"
            case "bytes":
                return f"{value / 2**20:g} MiB"
            case _:
                return f"{value:g}"

    return FuncFormatter(show)


if __name__ == "__main__":
    app(prog_name="python -m deploy.grafana.pictures")
