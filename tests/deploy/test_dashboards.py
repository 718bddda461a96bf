"""The dashboards: as committed, each query of each panel finds data of a real worker under a real load."""

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from bundle.store import Bundle
from deploy.grafana import __main__ as grafana
from deploy.local.apache_kafka import ApacheKafka
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.prometheus import Prometheus
from deploy.local.prometheus_programs import Programs
from deploy.local.valkey import Valkey
from tests.deploy.dashboard_queries import (
    PanelQuery,
    filled_in,
    greatest,
    panel_queries,
    values_of_variable,
    variable_queries,
)
from tests.deploy.known_series import faults
from tests.integration.worker_process import Stream, WorkerProcess

FILES = sorted(grafana.FOLDER.glob("*.json"))
QUERIES = [query for path in FILES for query in panel_queries(path)]
FILLED_UP = {"Firing alerts", "GPU memory"}
"""Panels that say `or vector(0)`: their data come with a fault, or with a device that this machine may lack."""
ZERO_WHILE_ALL_IS_WELL = {
    "Bytes in flight",
    "Cache errors and breaker",
    "In flight",
    "Lag",
    "Lag by partition",
    "Lag by topic",
    "Latency budget burn",
    "Queues",
    "Rebalances",
    "Starts",
}
"""Panels whose data may be nothing but zeros when a scrape finds the worker idle; all others must show something."""
WAVES = 3


@dataclass(frozen=True, slots=True)
class Watched:
    """A worker that has answered a mixed load, and the Prometheus that looked on."""

    prometheus: Prometheus
    worker: str
    start: float
    end: float

    def fill_in(self, expr: str) -> str:
        chosen = {"job": "genprint", "instance": self.worker, "__rate_interval": "10s"}
        return filled_in(expr, chosen)


@pytest.fixture(scope="module")
def watched(
    apache_kafka: ApacheKafka,
    valkey: Valkey,
    tiny_bundle: Bundle,
    tiny_data: Path,
    programs: Programs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    del programs  # are there
    folder = tmp_path_factory.mktemp("watched")
    stream, dead_host = Stream(apache_kafka.bootstrap), f"http://{LOOPBACK}:{free_port()}"
    environment = stream.environment(
        tiny_bundle.path,
        REDIS__URL=valkey.url,
        REDIS__SALT=stream.prefix,
        FETCH__SOURCES=f"{tiny_data.as_uri()},{dead_host}",
        FETCH__ALLOW_PRIVATE_ADDRESSES="true",
        FETCH__RETRY_DELAY_S="1",
        FETCH__ATTEMPTS="2",
    )
    with WorkerProcess(environment, folder / "worker.log") as worker:
        address = f"{LOOPBACK}:{worker.port}"
        with Prometheus(folder / "prometheus.log", {"genprint": [address]}) as prometheus:
            start, sent = time.time(), 0
            for wave in range(WAVES):
                sent += send_load(stream, tiny_data / "test", dead_host, wave)
                stream.answers(sent)
                await_scrapes(prometheus, 3)
            yield Watched(prometheus, address, start, time.time())


def send_load(stream: Stream, images: Path, dead_host: str, wave: int) -> int:
    """Good images, new ones and ones that came before; claim checks; small, animated and broken ones; a dead source.

    Returns:
        How many events there are.
    """
    image, claim = {"content-type": b"image/png"}, {"content-type": b"application/json"}
    paths = sorted(images.rglob("*.png"))
    for path in paths:
        stream.produce(path.read_bytes(), image, path.name.encode())
        stream.produce(changed(path, wave), image, path.name.encode())
        stream.produce(json.dumps({"uri": path.as_uri()}).encode(), claim, path.name.encode())
    others = [
        (b"broken", image),
        (drawn(8, 8), image),
        (animated(), {"content-type": b"image/gif"}),
        (json.dumps({"uri": f"{dead_host}/{wave}.png"}).encode(), claim),
    ]
    for value, headers in others:
        stream.produce(value, headers, b"other")
    stream.flush()
    return 3 * len(paths) + len(others)


def changed(path: Path, wave: int) -> bytes:
    """The picture, but for one pixel: no cache has seen it."""
    with Image.open(path) as picture:
        picture.putpixel((0, 0), (wave, wave, wave))
        return as_bytes(picture, "png")


def drawn(width: int, height: int) -> bytes:
    return as_bytes(Image.new("RGB", (width, height), (90, 120, 150)), "png")


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), (shade, 90, 120)) for shade in (40, 200)]
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    return file.getvalue()


def as_bytes(picture: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def await_scrapes(prometheus: Prometheus, seconds: float) -> None:
    """Until the worker was scraped, and rules were evaluated, so long after now."""
    wanted, deadline = time.time() + seconds, time.monotonic() + 90
    newest = "min(timestamp(genprint_in_flight_events) or timestamp(job:genprint_lag_records:sum))"
    while True:
        result = prometheus.api("query", {"query": newest})["result"]
        if result and float(result[0]["value"][1]) >= wanted:
            return
        assert time.monotonic() < deadline, f"the last scrape is {time.time() - wanted:.0f} s too old"
        time.sleep(0.1)


@pytest.mark.integration
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.dashboard}-{query.panel}")
def test_every_query_of_every_panel_returns_data(watched: Watched, query: PanelQuery) -> None:
    found = greatest(watched.prometheus, watched.fill_in(query.expr), watched.start, watched.end)
    assert found is not None, str(query)
    assert found > 0 or query.panel in ZERO_WHILE_ALL_IS_WELL | FILLED_UP, f"always zero: {query}"
    if "or vector(" in query.expr:
        assert query.panel in FILLED_UP


@pytest.mark.integration
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variable_offers_the_worker(watched: Watched, path: Path) -> None:
    offered = {
        name: values_of_variable(watched.prometheus, watched.fill_in(query))
        for name, query in variable_queries(path).items()
    }
    assert offered == {"job": ["genprint"], "instance": [watched.worker]}


@pytest.mark.integration
def test_a_query_for_what_is_not_there_returns_nothing(watched: Watched) -> None:
    for expr in (
        'sum(rate(genprint_events_total{job=~"$job", outcome="verdicts"}[$__rate_interval]))',
        'sum(rate(genprint_events_total{job=~"$job", instance=~"elsewhere"}[$__rate_interval]))',
        'histogram_quantile(0.5, sum(rate(genprint_score_bucket{job=~"$job"}[$__rate_interval])))',
    ):
        assert greatest(watched.prometheus, watched.fill_in(expr), watched.start, watched.end) is None, expr
    with pytest.raises(ValueError, match="parse error"):
        greatest(watched.prometheus, "sum(", watched.start, watched.end)
    with pytest.raises(KeyError, match="tenant"):
        watched.fill_in('genprint_events_total{tenant="$tenant"}')
    assert values_of_variable(watched.prometheus, "label_values(genprint_bundle, job)") == []


@pytest.mark.integration
def test_prometheus_evaluates_every_rule_and_nothing_fires_on_a_worker_that_is_well(watched: Watched) -> None:
    groups = watched.prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 30
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []


def test_the_committed_dashboards_are_what_python_builds() -> None:
    assert grafana.stale() == [], "python -m deploy.grafana"


def test_a_changed_dashboard_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafana, "FOLDER", tmp_path)
    assert len(grafana.stale()) == len(FILES) == 3
    grafana.main(check=False)
    assert grafana.stale() == []
    edited = tmp_path / "genprint-service.json"
    edited.write_text(edited.read_text().replace("p99", "p98"))
    (tmp_path / "old.json").write_text("{}")
    assert {path.name for path in grafana.stale()} == {"genprint-service.json", "old.json"}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.dashboard}-{query.panel}")
def test_panels_read_series_and_labels_that_there_are(query: PanelQuery) -> None:
    assert faults(query.expr) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned_beside_the_others(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document["uid"] == path.stem
    assert document.get("id") is None
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
