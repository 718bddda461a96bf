"""The manifests pass, and whatever is broken in them on purpose is found and named."""

import copy
import json
import os
import re
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deploy.check import prometheus_rule
from deploy.check.__main__ import app
from deploy.check.configuration import bytes_of
from deploy.check.kubernetes import KUBERNETES, check_rendered, overlays
from deploy.check.lifecycle import METRICS, PROBES, ending_s
from deploy.check.manifests import Manifest, Overlay, RenderError, render
from deploy.check.schemas import SCHEMAS
from deploy.local.ports import LOOPBACK
from worker.operations.health import Health, HealthServer
from worker.operations.metrics import Metrics
from worker.settings import HttpSettings, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cpu", "gpu", "production")
REMOVED = object()
CONTAINER = "spec.template.spec.containers.0"
KEDA = "spec.triggers.0"


@cache
def rendered(name: str) -> Overlay:
    return render(KUBERNETES / "overlays" / name)


def changed(name: str, kind: str, path: str, value: Any) -> Overlay:
    """An overlay in which one field of its first object of that kind is another, or is not there."""
    overlay = rendered(name)
    target = overlay.of(kind)[0]
    body = copy.deepcopy(dict(target.body))
    where: Any = body
    *keys, last = (int(key) if key.isdecimal() else key.replace("~", ".") for key in path.split("."))
    for key in keys:
        where = where[key]
    if value is REMOVED:
        del where[last]
    elif isinstance(where, list) and last == len(where):
        where.append(value)
    else:
        where[last] = value
    replaced = tuple(Manifest(m.overlay, body) if m is target else m for m in overlay.manifests)
    return Overlay(overlay.name, replaced)


def said(overlay: Overlay) -> list[str]:
    return [str(problem) for problem in check_rendered(overlay)]


def kustomization(directory: Path, base: str, **more: Any) -> Path:
    """An overlay of a user's own, outside of this checkout, upon one of ours."""
    inside = os.path.relpath(KUBERNETES / base, directory)
    body = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [inside], **more}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(body))
    return directory


def settings_of(**variables: str) -> dict[str, Any]:
    literals = [f"{name}={value}" for name, value in variables.items()]
    generator = {"name": "genprint-worker", "namespace": "genprint", "behavior": "merge", "literals": literals}
    return {"configMapGenerator": [generator]}


def test_all_overlays_are_known_here() -> None:
    assert tuple(path.name for path in overlays()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_passes(name: str) -> None:
    assert said(rendered(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_is_whole(name: str) -> None:
    kinds = {manifest.kind for manifest in rendered(name).manifests}
    assert kinds >= {
        "ConfigMap",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    }
    assert "Secret" not in kinds


def test_production_is_more_than_gpu() -> None:
    gpu, production = rendered("gpu"), rendered("production")
    assert {m.kind for m in production.manifests} - {m.kind for m in gpu.manifests} == {
        "PriorityClass",
        "TriggerAuthentication",
    }
    (config,), (scaled,), (workers,) = (production.of(k) for k in ("ConfigMap", "ScaledObject", "StatefulSet"))
    assert config.get("data.GENPRINT_KAFKA__SECURITY_PROTOCOL") == "SASL_SSL"
    assert config.get("data.GENPRINT_KAFKA__DELIVERY") == "exactly_once"
    assert scaled.get("spec.minReplicaCount") == 3
    assert workers.get("spec.template.spec.affinity.podAntiAffinity")


MISTAKES: list[tuple[str, str, Any, str, str]] = [
    # Fields that no schema knows, wrong types, fields that are missing.
    ("StatefulSet", "spec.template.spec.terminationGracePeriod", 120, "terminationGracePeriod", "schema"),
    ("StatefulSet", f"{CONTAINER}.livenessProbe.httpGet.prot", "metrics", "prot", "schema"),
    ("StatefulSet", f"{CONTAINER}.securityContext.readonlyRootFilesystem", True, "readonlyRootFilesystem", "schema"),
    ("StatefulSet", f"{CONTAINER}.resources.limit", {}, "limit", "schema"),
    ("StatefulSet", f"{CONTAINER}.livenessProbe.periodSeconds", "ten", "periodSeconds", "schema"),
    ("StatefulSet", "spec.selector", REMOVED, "selector", "schema"),
    ("Service", "spec.clusterIp", "None", "clusterIp", "schema"),
    ("ConfigMap", "dta", {}, "dta", "schema"),
    ("Namespace", "metadata.label", {}, "label", "schema"),
    ("ServiceAccount", "automountToken", False, "automountToken", "schema"),
    ("PodDisruptionBudget", "spec.maxUnavailble", 1, "maxUnavailble", "schema"),
    ("NetworkPolicy", "spec.egres", [], "egres", "schema"),
    ("NetworkPolicy", "spec.ingress.0.from.0.namespaceSelector.matchLabel", {}, "matchLabel", "schema"),
    ("PriorityClass", "valeu", 1, "valeu", "schema"),
    ("ScaledObject", "spec.maxReplicas", 12, "maxReplicas", "schema"),
    ("ScaledObject", "spec.fallback.behaviour", "static", "behaviour", "schema"),
    ("ScaledObject", "spec.fallback.replicas", REMOVED, "replicas", "schema"),
    ("ScaledObject", "spec.maxReplicaCount", "many", "maxReplicaCount", "schema"),
    ("ScaledObject", f"{KEDA}.metdata", {}, "metdata", "schema"),
    ("ScaledObject", f"{KEDA}.metadata.lagThreshold", 3000, "lagThreshold", "schema"),
    (
        "ScaledObject",
        "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilisationWindowSeconds",
        600,
        "stabilisationWindowSeconds",
        "schema",
    ),
    ("TriggerAuthentication", "spec.secretTargetRef.0.parametre", "ca", "parametre", "schema"),
    ("TriggerAuthentication", "spec.secretTargetRef.0.key", REMOVED, "key", "schema"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.intervall", "15s", "intervall", "schema"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.interval", "soon", "interval", "schema"),
    ("PodMonitor", "spec.selector.matchLables", {}, "matchLables", "schema"),
    ("PrometheusRule", "spec.groups.0.rules.0.sumary", "x", "sumary", "schema"),
    ("PrometheusRule", "spec.group", [], "group", "schema"),
    ("StatefulSet", "apiVersion", "apps/v2", "apps/v2", "schema"),
    # Pod Security, images, resources.
    ("Namespace", "metadata.labels.pod-security~kubernetes~io/enforce", "baseline", "enforce", "restricted"),
    ("StatefulSet", "spec.template.spec.securityContext.seccompProfile", REMOVED, "seccompProfile", "expected"),
    (
        "StatefulSet",
        "spec.template.spec.securityContext.seccompProfile.type",
        "Unconfined",
        "seccompProfile",
        "Runtime",
    ),
    ("StatefulSet", "spec.template.spec.securityContext.runAsNonRoot", False, "runAsNonRoot", "true"),
    ("StatefulSet", f"{CONTAINER}.securityContext.runAsUser", 0, "runAsUser", "root"),
    ("StatefulSet", f"{CONTAINER}.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem", "true"),
    ("StatefulSet", f"{CONTAINER}.securityContext.readOnlyRootFilesystem", REMOVED, "readOnlyRootFilesystem", "true"),
    ("StatefulSet", f"{CONTAINER}.securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation", "false"),
    ("StatefulSet", f"{CONTAINER}.securityContext.capabilities.drop", ["NET_RAW"], "capabilities.drop", "ALL"),
    ("StatefulSet", f"{CONTAINER}.securityContext.capabilities.add", ["SYS_ADMIN"], "capabilities.add", "needed"),
    ("StatefulSet", f"{CONTAINER}.securityContext.privileged", True, "privileged", "not allowed"),
    ("StatefulSet", f"{CONTAINER}.securityContext", REMOVED, "allowPrivilegeEscalation", "false"),
    ("StatefulSet", "spec.template.spec.hostNetwork", True, "hostNetwork", "node"),
    ("StatefulSet", "spec.template.spec.volumes.4", {"name": "h", "hostPath": {"path": "/"}}, "hostPath", "restricted"),
    ("StatefulSet", "spec.template.spec.automountServiceAccountToken", True, "automountServiceAccountToken", "false"),
    ("StatefulSet", "spec.template.spec.enableServiceLinks", REMOVED, "enableServiceLinks", "false"),
    ("StatefulSet", "spec.template.spec.initContainers", [{"name": "copy", "image": "a/b:1"}], "[copy]", "true"),
    ("StatefulSet", f"{CONTAINER}.image", "registry.example/genprint/worker:latest", "image", "latest"),
    ("StatefulSet", f"{CONTAINER}.image", "registry.example:5000/genprint/worker", "image", "latest"),
    ("StatefulSet", f"{CONTAINER}.resources.limits.memory", REMOVED, "limits.memory", "expected"),
    ("StatefulSet", f"{CONTAINER}.resources.limits.memory", "1Gi", "limits.memory", "the settings allow"),
    ("StatefulSet", f"{CONTAINER}.resources.limits.nvidia~com/gpu", REMOVED, "nvidia.com/gpu", "cuda"),
    # Settings and secrets.
    ("ConfigMap", "data.GENPRINT_KAFKA__GROUPID", "x", "GENPRINT_KAFKA__GROUPID", "no such setting"),
    ("ConfigMap", "data.GENPRINT_KAFKA__DELIVERY", "twice", "kafka.delivery", "would not start"),
    ("ConfigMap", "data.GENPRINT_KAFKA__SASL_PASSWORD", "hunter2", "GENPRINT_KAFKA__SASL_PASSWORD", "a secret"),
    ("ConfigMap", "data.GENPRINT_IMAGES__DECODE_PROCESSES", REMOVED, "decode_processes", "the node's cores"),
    ("ConfigMap", "data.GENPRINT_BUNDLE", "/models/bundle", "/models/bundle", "nothing is mounted"),
    ("ConfigMap", "data.GENPRINT_KAFKA__SSL_CAFILE", "/etc/ca.crt", "kafka.ssl_cafile", "nothing is mounted"),
    ("ConfigMap", "data.GENPRINT_PIPELINE__JOURNAL", REMOVED, "GENPRINT_PIPELINE__JOURNAL", "expected a file"),
    ("ConfigMap", "data.GENPRINT_PIPELINE__JOURNAL", "/journal", "pipeline.journal is /journal", "nothing is mounted"),
    ("ConfigMap", "data.GENPRINT_PIPELINE__JOURNAL", "/bundle/journal", "volumeMounts[bundle]", "expected emptyDir"),
    ("StatefulSet", f"{CONTAINER}.volumeMounts.3.readOnly", True, "volumeMounts[tmp].readOnly", "pipeline.journal"),
    (
        "StatefulSet",
        "spec.template.spec.volumes.3",
        {"name": "tmp", "persistentVolumeClaim": {"claimName": "all"}},
        "volumeMounts[tmp]",
        "expected emptyDir",
    ),
    (
        "StatefulSet",
        f"{CONTAINER}.env.0",
        {"name": "GENPRINT_REDIS__URL", "value": "redis://x"},
        "REDIS__URL",
        "secret",
    ),
    ("StatefulSet", f"{CONTAINER}.volumeMounts.2.readOnly", REMOVED, "volumeMounts[bundle].readOnly", "true"),
    ("StatefulSet", f"{CONTAINER}.name", "detector", "spec.template.spec.containers", "none is called worker"),
    # Living and ending.
    (
        "StatefulSet",
        "spec.template.spec.terminationGracePeriodSeconds",
        30,
        "terminationGracePeriodSeconds",
        "clean end",
    ),
    (
        "StatefulSet",
        "spec.template.spec.terminationGracePeriodSeconds",
        REMOVED,
        "terminationGracePeriodSeconds",
        "30 s",
    ),
    ("ConfigMap", "data.GENPRINT_PIPELINE__DRAIN_S", "60", "terminationGracePeriodSeconds", "clean end"),
    ("ConfigMap", "data.GENPRINT_HTTP__PORT", "8080", "containerPort", "8080"),
    ("StatefulSet", f"{CONTAINER}.ports.0.containerPort", 9090, "containerPort", "9464"),
    ("StatefulSet", f"{CONTAINER}.livenessProbe.httpGet.port", 9090, "livenessProbe.httpGet.port", "9464"),
    ("StatefulSet", f"{CONTAINER}.livenessProbe.httpGet.path", "/ready", "livenessProbe.httpGet.path", "/live"),
    ("StatefulSet", f"{CONTAINER}.readinessProbe", REMOVED, "readinessProbe", "expected"),
    ("StatefulSet", f"{CONTAINER}.startupProbe.failureThreshold", 3, "startupProbe", "gives up"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.port", "http", "podMetricsEndpoints[0].port", "no such port"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.path", "/live", "podMetricsEndpoints[0].path", "/metrics"),
    ("PodMonitor", "spec.podMetricsEndpoints", [], "podMetricsEndpoints", "expected"),
    # Names and selectors.
    ("Service", "spec.selector.app~kubernetes~io/name", "genprit", "spec.selector", "selects no pods"),
    ("PodDisruptionBudget", "spec.selector.matchLabels.app~kubernetes~io/name", "x", "matchLabels", "selects no pods"),
    ("NetworkPolicy", "spec.podSelector.matchLabels.app~kubernetes~io/name", "x", "matchLabels", "selects no pods"),
    ("PodMonitor", "spec.selector.matchLabels.app~kubernetes~io/name", "x", "matchLabels", "selects no pods"),
    ("StatefulSet", "spec.selector.matchLabels.app~kubernetes~io/name", "x", "matchLabels", "own template"),
    (
        "StatefulSet",
        "spec.template.spec.serviceAccountName",
        "worker",
        "serviceAccountName",
        "no ServiceAccount worker",
    ),
    ("StatefulSet", "spec.template.spec.priorityClassName", "high", "priorityClassName", "no PriorityClass high"),
    ("StatefulSet", "spec.serviceName", "worker", "serviceName", "no Service worker"),
    ("StatefulSet", f"{CONTAINER}.volumeMounts.0.name", "certificates", "certificates", "no such volume"),
    ("StatefulSet", f"{CONTAINER}.envFrom.0.configMapRef.name", "worker", "envFrom", "no ConfigMap worker"),
    ("StatefulSet", "spec.replicas", 3, "spec.replicas", "every apply"),
    ("PodMonitor", "metadata.namespace", "monitoring", "metadata.namespace", "expected genprint"),
    # The network.
    ("NetworkPolicy", "spec.policyTypes", ["Ingress"], "policyTypes", "Egress"),
    ("NetworkPolicy", "spec.ingress.0.from", REMOVED, "ingress[0].from", "everybody"),
    ("NetworkPolicy", "spec.ingress.0.ports.0.port", 9090, "ingress[0].ports", "9464"),
    ("NetworkPolicy", "spec.egress.1.to", REMOVED, "egress[1].to", "everywhere"),
    ("NetworkPolicy", "spec.egress.1.ports", REMOVED, "egress[1].ports", "every port"),
    ("NetworkPolicy", "spec.egress.0.ports", [{"port": 53, "protocol": "TCP"}], "spec.egress", "53/UDP is shut"),
    ("NetworkPolicy", "spec.egress.3.to.0.ipBlock.except", ["10.0.0.0/8"], "ipBlock", "169.254.0.0/16"),
    ("ConfigMap", "data.GENPRINT_KAFKA__BOOTSTRAP_SERVERS", "kafka:9999", "spec.egress", "9999/TCP is shut"),
    ("ConfigMap", "data.GENPRINT_FETCH__SOURCES", "http://cdn.example", "spec.egress", "80/TCP is shut"),
    # Scaling.
    ("ScaledObject", "spec.minReplicaCount", 0, "minReplicaCount", "lag"),
    ("ScaledObject", "spec.maxReplicaCount", 100, "maxReplicaCount", "topics.partitions is 12"),
    ("ConfigMap", "data.GENPRINT_TOPICS__PARTITIONS", "6", "maxReplicaCount", "topics.partitions is 6"),
    ("ScaledObject", "spec.fallback", REMOVED, "spec.fallback", "expected"),
    ("ScaledObject", "spec.fallback.replicas", 50, "fallback.replicas", "outside"),
    ("ScaledObject", "spec.fallback.behavior", "static", "fallback.behavior", "currentReplicasIfHigher"),
    ("ScaledObject", "spec.scaleTargetRef.name", "worker", "scaleTargetRef", "no StatefulSet worker"),
    ("ScaledObject", "spec.scaleTargetRef.kind", REMOVED, "scaleTargetRef", "no Deployment"),
    ("ScaledObject", "spec.advanced", REMOVED, "stabilizationWindowSeconds", "300"),
    (
        "ScaledObject",
        "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.0.type",
        "Percent",
        "policies",
        "number of Pods",
    ),
    ("ScaledObject", f"{KEDA}.metadata.lagTreshold", "5", "lagTreshold", "not an option"),
    ("ScaledObject", f"{KEDA}.metadata.lagThreshold", "many", "lagThreshold", "number of events"),
    ("ScaledObject", f"{KEDA}.metadata.limitToPartitionsWithLag", "yes", "limitToPartitionsWithLag", "true or false"),
    ("ScaledObject", f"{KEDA}.metadata.ensureEvenDistributionOfPartitions", "true", "ensureEven", "refuses"),
    ("ScaledObject", f"{KEDA}.metadata.allowIdleConsumers", "true", "allowIdleConsumers", "nothing to do"),
    ("ScaledObject", f"{KEDA}.metadata.unsafeSsl", "true", "unsafeSsl", "certificates"),
    ("ScaledObject", f"{KEDA}.metadata.consumerGroupFromEnv", "GENPRINT_GROUP", "consumerGroup", "genprint"),
    ("ScaledObject", f"{KEDA}.metadata.topicFromEnv", "GENPRINT_KAFKA__VERDICTS_TOPIC", "spec.triggers", "images"),
    ("ScaledObject", f"{KEDA}.metadata.offsetResetPolicy", "latest", "offsetResetPolicy", "earliest"),
    ("ScaledObject", f"{KEDA}.metadata.tls", REMOVED, "metadata.tls", "SASL_SSL"),
    ("ScaledObject", f"{KEDA}.metadata.sasl", "plaintext", "metadata.sasl", "scram_sha512"),
    ("ScaledObject", f"{KEDA}.metricType", "Value", "metricType", "fallback"),
    ("ScaledObject", f"{KEDA}.authenticationRef", REMOVED, "authenticationRef", "password"),
    ("ScaledObject", f"{KEDA}.authenticationRef.name", "keda", "authenticationRef", "no TriggerAuthentication keda"),
    (
        "TriggerAuthentication",
        "spec.secretTargetRef.0.name",
        "kafka",
        "secretTargetRef[username]",
        "docs/kubernetes.md",
    ),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "field", "why"),
    MISTAKES,
    ids=[f"{kind}-{path}{'-removed' if value is REMOVED else ''}" for kind, path, value, _, _ in MISTAKES],
)
def test_a_mistake_is_named(kind: str, path: str, value: Any, field: str, why: str) -> None:
    """In the overlay that has everything, by overlay, object and field."""
    found = said(changed("production", kind, path, value))
    named = [problem for problem in found if field in problem and why in problem]
    assert named, found
    assert named[0].startswith("production: ")
    assert re.search(r"^production: [A-Z]\w+/[\w-]+: [\w.()\[\]/]+", named[0]), named[0]


def test_a_secret_that_nobody_was_told_of_is_named() -> None:
    reference = {
        "name": "GENPRINT_REDIS__SALT",
        "valueFrom": {"secretKeyRef": {"name": "genprint-redis", "key": "salt"}},
    }
    (problem,) = said(changed("cpu", "StatefulSet", f"{CONTAINER}.env.0", reference))[:1]
    assert "genprint-redis, key salt" in problem


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_may_come_from_a_claim(name: str, tmp_path: Path) -> None:
    component = os.path.relpath(KUBERNETES / "components" / "bundle-claim", tmp_path)
    overlay = render(kustomization(tmp_path, f"overlays/{name}", components=[component]))
    assert said(overlay) == []
    (bundle,) = [v for v in overlay.of("StatefulSet")[0].get("spec.template.spec.volumes") if v["name"] == "bundle"]
    assert bundle == {"name": "bundle", "persistentVolumeClaim": {"claimName": "genprint-bundle", "readOnly": True}}


def test_production_on_the_cpu(tmp_path: Path) -> None:
    """What the overlay's first line promises."""
    ours = KUBERNETES / "overlays" / "production"
    body = yaml.safe_load((ours / "kustomization.yaml").read_text())
    body["resources"] = [
        r if r != "../gpu" else os.path.relpath(KUBERNETES / "overlays/cpu", tmp_path) for r in body["resources"]
    ]
    body["components"] = [os.path.relpath(ours / path, tmp_path) for path in body["components"]]
    for path in ours.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(body))
    overlay = render(tmp_path)
    assert said(overlay) == []
    assert overlay.of("ConfigMap")[0].get("data.GENPRINT_INFERENCE__DEVICE") == "cpu"


def test_a_second_fleet_with_a_name_of_its_own(tmp_path: Path) -> None:
    overlay = render(kustomization(tmp_path, "overlays/production", nameSuffix="-b", namespace="genprint-b"))
    assert said(overlay) == []
    assert overlay.of("StatefulSet")[0].name == "genprint-worker-b"
    assert overlay.of("ScaledObject")[0].get("spec.scaleTargetRef.name") == "genprint-worker-b"


def test_settings_of_ones_own(tmp_path: Path) -> None:
    own = settings_of(GENPRINT_KAFKA__GROUP_ID="mine", GENPRINT_FETCH__SOURCES="https://cdn.example,s3://uploads")
    overlay = render(kustomization(tmp_path, "overlays/production", **own))
    assert said(overlay) == []
    assert overlay.of("ConfigMap")[0].get("data.GENPRINT_KAFKA__GROUP_ID") == "mine"


def test_the_overlay_of_the_documentation(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["kustomization.yaml", "worker.yaml"]
    for name, text in blocks:
        ours = os.path.relpath(KUBERNETES, tmp_path)
        (tmp_path / name).write_text(text.replace("genprint/deploy/kubernetes", ours))
    overlay = render(tmp_path)
    assert said(overlay) == []
    (workers,) = overlay.of("StatefulSet")
    assert workers.get("spec.template.spec.containers")[0]["image"] == "your.registry/genprint/worker:0.1.0-cuda"
    references = [v["image"]["reference"] for v in workers.get("spec.template.spec.volumes") if "image" in v]
    assert references == ["your.registry/genprint/bundle:2026-11-24"]
    assert overlay.of("ConfigMap")[0].get("data.GENPRINT_FETCH__SOURCES") == "https://cdn.your.net,s3://uploads"


def test_a_changed_setting_rolls_the_workers(tmp_path: Path) -> None:
    overlay = render(kustomization(tmp_path, "overlays/cpu", **settings_of(GENPRINT_LOG_LEVEL="debug")))
    names = [
        o.of("StatefulSet")[0].get("spec.template.spec.containers")[0]["envFrom"][0]["configMapRef"]["name"]
        for o in (overlay, rendered("cpu"))
    ]
    assert names[0] != names[1]


def test_the_command_passes() -> None:
    result = CliRunner().invoke(app)
    assert result.exit_code == 0, result.output
    assert all(f"{name}: " in result.output for name in NAMES)


def test_the_command_names_an_unknown_setting_of_a_users_overlay(tmp_path: Path) -> None:
    directory = kustomization(tmp_path, "overlays/cpu", **settings_of(GENPRINT_KAFKA__GROUPID="x"))
    result = CliRunner().invoke(app, [str(directory)])
    assert result.exit_code == 1
    assert "data.GENPRINT_KAFKA__GROUPID: no such setting" in result.output


def test_the_command_says_what_kustomize_refuses(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(kustomization(tmp_path, "overlays/nowhere"))])
    assert result.exit_code == 1
    assert "overlays/nowhere" in result.output
    with pytest.raises(RenderError, match="nowhere"):
        render(tmp_path)


@pytest.mark.parametrize("kind", ["PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"])
def test_schemas_of_others_know_every_field(kind: str) -> None:
    """An object that lists its fields has no others, at whatever depth."""
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    listing = [found for found in objects(schema) if found.get("type") == "object" and "properties" in found]
    assert len(listing) > 3
    assert all(found["additionalProperties"] is False for found in listing)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    assert prometheus_rule.is_current(), "python -m deploy.check --write"


def test_a_changed_rule_is_noticed(tmp_path: Path) -> None:
    for path in prometheus_rule.RULES.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    assert prometheus_rule.prometheus_rule(tmp_path) == prometheus_rule.prometheus_rule()
    (tmp_path / "zz.yaml").write_text("groups: [{name: more, rules: [{record: a, expr: b}]}]")
    assert prometheus_rule.prometheus_rule(tmp_path) != prometheus_rule.prometheus_rule()


def test_probes_and_metrics_are_where_the_worker_has_them() -> None:
    server = HealthServer(HttpSettings(host=LOOPBACK, port=0), Health(stall_s=1), Metrics())
    server.start()

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{server.port}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    try:
        assert {path: status(path) for path in ("/live", METRICS, "/ready", "/nowhere")} == {
            "/live": 200,
            METRICS: 200,
            "/ready": 503,
            "/nowhere": 404,
        }
        assert set(PROBES.values()) == {"/live", "/ready"}
    finally:
        server.close()


def test_user_command_and_mount_are_those_of_the_image() -> None:
    dockerfile = (ROOT / "deploy" / "worker.Dockerfile").read_text()
    workers = rendered("cpu").of("StatefulSet")[0]
    context = workers.get("spec.template.spec.securityContext")
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
    assert 'ENTRYPOINT ["genprint"]' in dockerfile
    assert workers.get("spec.template.spec.containers")[0]["args"] == ["run"]
    bundle = rendered("cpu").of("ConfigMap")[0].get("data.GENPRINT_BUNDLE")
    assert f"GENPRINT_BUNDLE={bundle}" in dockerfile


@pytest.mark.parametrize("name", NAMES)
def test_images_are_of_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tag = rendered(name).of("StatefulSet")[0].get("spec.template.spec.containers")[0]["image"].rpartition(":")[2]
    assert tag == f"{version}-{'cpu' if name == 'cpu' else 'cuda'}"


def test_time_to_end_follows_the_settings() -> None:
    plain = ending_s(Settings())
    slower = load_settings(environment={"GENPRINT_PIPELINE__DRAIN_S": "25"})
    assert plain == 2 * 45 + 5 + 10
    assert ending_s(slower) == plain + 20


def test_memory_follows_the_settings() -> None:
    more = load_settings(environment={"GENPRINT_IMAGES__MEMORY_BYTES": str(2**31)})
    assert more.memory_bytes - Settings().memory_bytes == 2**30


@pytest.mark.parametrize(
    ("quantity", "expected"), [("3Gi", 3 * 2**30), ("512Mi", 2**29), ("2G", 2 * 10**9), ("17", 17), ("3GB", 0)]
)
def test_quantities(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected
