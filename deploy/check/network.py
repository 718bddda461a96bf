"""Who may talk to the workers, and to whom they may talk: open is what the settings need, and no more."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from deploy.check.configuration import settings, workers
from deploy.check.manifests import Manifest, Overlay, Problem, at
from deploy.check.references import selects
from worker.settings import Settings

_DNS = {(53, "UDP"), (53, "TCP")}
_PRIVATE = [
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7")
]
_SCHEME_PORTS = {"https": 443, "s3": 443, "gs": 443, "az": 443, "http": 80}


def check_network(overlay: Overlay) -> Iterator[Problem]:
    """Each worker has a policy of both directions, as narrow and as wide as its settings say."""
    for pods, _, container in workers(overlay):
        policies = [
            p for p in overlay.of("NetworkPolicy") if selects(pods.labels, p.get("spec.podSelector.matchLabels", {}))
        ]
        if not policies:
            yield pods.owner.problem("spec.template.metadata.labels", "no NetworkPolicy selects these pods")
        found = settings(overlay, pods, container)
        for policy in policies:
            if set(policy.get("spec.policyTypes", ())) != {"Ingress", "Egress"}:
                yield policy.problem("spec.policyTypes", "expected Ingress and Egress")
            if found is not None:
                yield from _ingress(policy, found)
                yield from _egress(policy, found)


def _ingress(policy: Manifest, found: Settings) -> Iterator[Problem]:
    for number, rule in enumerate(policy.get("spec.ingress", ())):
        field = f"spec.ingress[{number}]"
        if not rule.get("from"):
            yield policy.problem(f"{field}.from", "open to everybody")
        if _ports(rule) != {(found.http.port, "TCP")}:
            yield policy.problem(f"{field}.ports", f"expected {found.http.port}/TCP alone (http.port)")


def _egress(policy: Manifest, found: Settings) -> Iterator[Problem]:
    rules: Sequence[Mapping[str, Any]] = policy.get("spec.egress", ())
    for number, rule in enumerate(rules):
        field = f"spec.egress[{number}]"
        if not rule.get("to"):
            yield policy.problem(f"{field}.to", "open to everywhere")
        if not _ports(rule):
            yield policy.problem(f"{field}.ports", "open on every port")
        for peer in rule.get("to", ()):
            if block := peer.get("ipBlock"):
                yield from _block(policy, f"{field}.to.ipBlock", block)
    allowed = {port for rule in rules for port in _ports(rule)}
    for what, ports in _needed(found):
        if missing := ports - allowed:
            shown = ", ".join(f"{number}/{protocol}" for number, protocol in sorted(missing))
            yield policy.problem("spec.egress", f"{shown} is shut: {what}")


def _needed(found: Settings) -> Iterator[tuple[str, set[tuple[int, str]]]]:
    """What the settings make the worker talk to. Not Redis: its address is a secret."""
    yield "names", _DNS
    for server in found.kafka.bootstrap_servers.split(","):
        yield f"kafka.bootstrap_servers {server}", {(int(server.rpartition(":")[2]), "TCP")}
    for source in found.fetch.sources:
        if port := _SCHEME_PORTS.get(source.partition(":")[0]):
            yield f"fetch.sources {source}", {(port, "TCP")}


def _block(policy: Manifest, field: str, block: Mapping[str, Any]) -> Iterator[Problem]:
    """What events name is fetched from public addresses alone, whatever the worker's own check lets through."""
    cidr = ip_network(block["cidr"])
    excepted = [ip_network(text) for text in block.get("except", ())]
    for private in _PRIVATE:
        if private.version != cidr.version or not private.overlaps(cidr) or cidr.is_private:
            continue
        if not any(private.subnet_of(e) for e in excepted if e.version == private.version):  # type: ignore[arg-type]
            yield policy.problem(field, f"{cidr} opens {private} too: expected it under except")


def _ports(rule: Mapping[str, Any]) -> set[tuple[int, str]]:
    return {(int(at(port, "port", 0)), at(port, "protocol", "TCP")) for port in rule.get("ports", ())}
