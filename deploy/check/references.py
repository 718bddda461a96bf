"""What one object says of another is true: names exist, and selectors find the pods they mean."""

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.check.manifests import Manifest, Overlay, PodTemplate, Problem, at

_SELECTORS = {
    "Service": "spec.selector",
    "PodDisruptionBudget": "spec.selector.matchLabels",
    "NetworkPolicy": "spec.podSelector.matchLabels",
    "PodMonitor": "spec.selector.matchLabels",
}
_CLUSTER_WIDE = {"Namespace", "PriorityClass"}
_GIVEN = {"system-cluster-critical", "system-node-critical"}
"""Priority classes of every cluster."""


def check_references(overlay: Overlay) -> Iterator[Problem]:
    """Selectors, names, namespaces."""
    yield from _namespaces(overlay)
    for kind, path in _SELECTORS.items():
        for manifest in overlay.of(kind):
            yield from _selects(overlay, manifest, path)
    for pods in overlay.pod_templates():
        yield from _own(overlay, pods)
        yield from _pods(overlay, pods)
    for scaled in overlay.of("ScaledObject"):
        yield from _scaled(overlay, scaled)


def selects(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a selector finds pods of these labels; an empty one is taken for a mistake."""
    return bool(selector) and selector.items() <= labels.items()


def _namespaces(overlay: Overlay) -> Iterator[Problem]:
    names = {namespace.name for namespace in overlay.of("Namespace")}
    for manifest in overlay.manifests:
        if manifest.kind not in _CLUSTER_WIDE and manifest.get("metadata.namespace") not in names:
            why = f"{manifest.get('metadata.namespace')}: expected {' or '.join(sorted(names)) or 'a Namespace'}"
            yield manifest.problem("metadata.namespace", why)


def _selects(overlay: Overlay, manifest: Manifest, path: str) -> Iterator[Problem]:
    selector = manifest.get(path, {})
    if not any(selects(pods.labels, selector) for pods in overlay.pod_templates()):
        yield manifest.problem(path, f"selects no pods: {dict(selector)}")


def _pods(overlay: Overlay, pods: PodTemplate) -> Iterator[Problem]:
    owner, spec = pods.owner, pods.spec
    expected = [("ServiceAccount", "serviceAccountName")]
    if spec.get("priorityClassName") not in _GIVEN:
        expected.append(("PriorityClass", "priorityClassName"))
    for kind, key in expected:
        if key in spec and overlay.find(kind, spec[key]) is None:
            yield owner.problem(f"{pods.PATH}.{key}", f"no {kind} {spec[key]}")
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for path, container in pods.containers():
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield owner.problem(f"{path}.volumeMounts[{mount['name']}]", "no such volume")
        for source in container.get("envFrom", ()):
            name = at(source, "configMapRef.name")
            if name is not None and overlay.find("ConfigMap", name) is None:
                yield owner.problem(f"{path}.envFrom", f"no ConfigMap {name}")


def _own(overlay: Overlay, pods: PodTemplate) -> Iterator[Problem]:
    """What a workload says of its own pods."""
    owner = pods.owner
    if not selects(pods.labels, owner.get("spec.selector.matchLabels", {})):
        yield owner.problem("spec.selector.matchLabels", "does not select the pods of its own template")
    for name, selector in _label_selectors(pods.spec):
        if not selects(pods.labels, selector):
            yield owner.problem(f"{pods.PATH}.{name}", f"selects other pods: {dict(selector)}")
    if owner.kind == "StatefulSet" and overlay.find("Service", owner.get("spec.serviceName", "")) is None:
        yield owner.problem("spec.serviceName", f"no Service {owner.get('spec.serviceName')}")


def _label_selectors(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The label selectors of the rules that spread the pods of this workload."""
    for constraint in spec.get("topologySpreadConstraints", ()):
        yield "topologySpreadConstraints", at(constraint, "labelSelector.matchLabels", {})
    for term in at(spec, "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution", ()):
        yield "affinity.podAntiAffinity", at(term, "podAffinityTerm.labelSelector.matchLabels", {})
    for term in at(spec, "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution", ()):
        yield "affinity.podAntiAffinity", at(term, "labelSelector.matchLabels", {})


def _scaled(overlay: Overlay, scaled: Manifest) -> Iterator[Problem]:
    kind, name = scaled.get("spec.scaleTargetRef.kind", "Deployment"), scaled.get("spec.scaleTargetRef.name")
    target = overlay.find(kind, name)
    if target is None:
        yield scaled.problem("spec.scaleTargetRef", f"no {kind} {name}")
    elif "replicas" in target.get("spec"):
        yield target.problem("spec.replicas", f"every apply would undo what ScaledObject/{scaled.name} has decided")
    for number, trigger in enumerate(scaled.get("spec.triggers", ())):
        reference = at(trigger, "authenticationRef.name")
        if reference is not None and overlay.find("TriggerAuthentication", reference) is None:
            field = f"spec.triggers[{number}].authenticationRef.name"
            yield scaled.problem(field, f"no TriggerAuthentication {reference}")
