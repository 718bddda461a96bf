"""Starting, being asked how it is, being scraped, and ending in good order."""

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.check.configuration import settings, workers
from deploy.check.manifests import Manifest, Overlay, PodTemplate, Problem, at
from worker.settings import Settings

PROBES = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
METRICS = "/metrics"
_CLOSE_S = 10
"""Leaving the group, closing clients and threads."""
_START_S = 120
"""What a start may take at least before it is given up: an image's first load, CUDA, a large bundle."""


def ending_s(found: Settings) -> float:
    """From SIGTERM to a clean end, at worst: the publication under way, the drain, the one that the drain ends with."""
    return 2 * found.kafka.publish_deadline_s + found.pipeline.drain_s + _CLOSE_S


def check_lifecycle(overlay: Overlay) -> Iterator[Problem]:
    """Grace period, probes, ports, scraping."""
    for pods, path, container in workers(overlay):
        found = settings(overlay, pods, container)
        if found is None:
            continue
        grace_s = pods.spec.get("terminationGracePeriodSeconds", 30)
        if grace_s <= ending_s(found):
            yield pods.owner.problem(
                f"{pods.PATH}.terminationGracePeriodSeconds",
                f"{grace_s} s, but a clean end may take {ending_s(found):g} s "
                f"(pipeline.drain_s, twice kafka.publish_deadline_s, {_CLOSE_S} s)",
            )
        yield from _ports(pods, path, container, found)
        for probe, http_path in PROBES.items():
            yield from _probe(pods, f"{path}.{probe}", container, container.get(probe), http_path, found)
        startup = container.get("startupProbe", {})
        allowed_s = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
        if allowed_s < _START_S:
            yield pods.owner.problem(
                f"{path}.startupProbe", f"gives up after {allowed_s} s; expected {_START_S} at least"
            )
    for monitor in overlay.of("PodMonitor"):
        yield from _monitor(overlay, monitor)


def _monitor(overlay: Overlay, monitor: Manifest) -> Iterator[Problem]:
    ports = {port.get("name") for _, _, container in workers(overlay) for port in container.get("ports", ())}
    if not monitor.get("spec.podMetricsEndpoints"):
        yield monitor.problem("spec.podMetricsEndpoints", "expected the worker's port")
    for number, endpoint in enumerate(monitor.get("spec.podMetricsEndpoints", ())):
        field = f"spec.podMetricsEndpoints[{number}]"
        if endpoint.get("port") not in ports:
            yield monitor.problem(f"{field}.port", f"{endpoint.get('port')}: the worker's container has no such port")
        if endpoint.get("path", METRICS) != METRICS:
            yield monitor.problem(f"{field}.path", f"{endpoint['path']}: expected {METRICS}")


def _ports(pods: PodTemplate, path: str, container: Mapping[str, Any], found: Settings) -> Iterator[Problem]:
    for port in container.get("ports", ()):
        if port["containerPort"] != found.http.port:
            field = f"{path}.ports[{port.get('name')}].containerPort"
            yield pods.owner.problem(
                field, f"{port['containerPort']}: the worker listens on {found.http.port} (http.port)"
            )


def _probe(
    pods: PodTemplate, field: str, container: Mapping[str, Any], probe: Any, http_path: str, found: Settings
) -> Iterator[Problem]:
    if probe is None:
        yield pods.owner.problem(field, "expected")
        return
    if at(probe, "httpGet.path") != http_path:
        yield pods.owner.problem(f"{field}.httpGet.path", f"{at(probe, 'httpGet.path')}: expected {http_path}")
    port = at(probe, "httpGet.port")
    named = {entry.get("name"): entry["containerPort"] for entry in container.get("ports", ())}
    if named.get(port, port) != found.http.port:
        yield pods.owner.problem(
            f"{field}.httpGet.port", f"{port}: the worker listens on {found.http.port} (http.port)"
        )
