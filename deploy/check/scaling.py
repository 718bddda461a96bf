"""KEDA: what its schema leaves open. A trigger's ``metadata`` is free text there: a misspelt option would be a default.

Options and rules are those of KEDA 2.20's ``kafka`` trigger (pkg/scalers/kafka_scaler.go).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.check.configuration import environment, settings, undocumented, workers
from deploy.check.manifests import Manifest, Overlay, Problem, at
from worker.settings import Settings

_FROM_ENV = "FromEnv"
_ADDRESSED = {"bootstrapServers", "consumerGroup", "topic"}
_FLAGS = {
    "allowIdleConsumers",
    "ensureEvenDistributionOfPartitions",
    "excludePersistentLag",
    "limitToPartitionsWithLag",
    "scaleToZeroOnInvalidOffset",
    "unsafeSsl",
}
_OPTIONS = (
    _ADDRESSED
    | {name + _FROM_ENV for name in _ADDRESSED}
    | _FLAGS
    | {"activationLagThreshold", "lagThreshold", "offsetResetPolicy", "partitionLimitation", "sasl", "tls", "version"}
)
_SASL = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}


def check_scaling(overlay: Overlay) -> Iterator[Problem]:
    """Bounds, triggers, credentials."""
    for scaled in overlay.of("ScaledObject"):
        yield from _bounds(scaled)
        for pods, _, container in workers(overlay):
            if pods.owner.name == scaled.get("spec.scaleTargetRef.name"):
                found = settings(overlay, pods, container)
                if found is not None:
                    yield from _most(scaled, found)
                    yield from _triggers(scaled, environment(overlay, pods, container), found)
    for authentication in overlay.of("TriggerAuthentication"):
        for target in authentication.get("spec.secretTargetRef", ()):
            field = f"spec.secretTargetRef[{target['parameter']}]"
            yield from undocumented(authentication, field, target["name"], target["key"])


def _bounds(scaled: Manifest) -> Iterator[Problem]:
    least, most = scaled.get("spec.minReplicaCount", 0), scaled.get("spec.maxReplicaCount", 100)
    if least < 1:
        yield scaled.problem(
            "spec.minReplicaCount", f"{least}: without a member the group's lag may never be seen again"
        )
    if least > most:
        yield scaled.problem("spec.maxReplicaCount", f"{most} is below spec.minReplicaCount")
    fallback = scaled.get("spec.fallback")
    if fallback is None:
        yield scaled.problem("spec.fallback", "expected: while Kafka is away there is no lag to scale by")
    elif not least <= fallback["replicas"] <= most:
        yield scaled.problem("spec.fallback.replicas", f"{fallback['replicas']}: outside of {least} to {most}")
    elif fallback.get("behavior") != "currentReplicasIfHigher":
        yield scaled.problem(
            "spec.fallback.behavior", "expected currentReplicasIfHigher: brokers being replaced are no calm"
        )
    path = "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown"
    down = scaled.get(path, {})
    if down.get("stabilizationWindowSeconds", 0) < 300:
        yield scaled.problem(f"{path}.stabilizationWindowSeconds", "expected 300 at least: every step moves partitions")
    if not down.get("policies") or any(policy["type"] != "Pods" for policy in down["policies"]):
        yield scaled.problem(f"{path}.policies", "expected a number of Pods for a time, not a share of them at once")


def _most(scaled: Manifest, found: Settings) -> Iterator[Problem]:
    most = scaled.get("spec.maxReplicaCount", 100)
    if most != found.topics.partitions:
        yield scaled.problem("spec.maxReplicaCount", f"{most}: topics.partitions is {found.topics.partitions}")


def _triggers(scaled: Manifest, variables: Mapping[str, str], found: Settings) -> Iterator[Problem]:
    topics = set()
    for number, trigger in enumerate(scaled.get("spec.triggers", ())):
        field = f"spec.triggers[{number}]"
        if trigger["type"] != "kafka":
            continue
        metadata = trigger["metadata"]
        yield from _options(scaled, f"{field}.metadata", metadata)
        says = {name: _says(metadata, name, variables) for name in _ADDRESSED}
        topics.add(says["topic"])
        expected = {"bootstrapServers": found.kafka.bootstrap_servers, "consumerGroup": found.kafka.group_id}
        for name, value in expected.items():
            if says[name] != value:
                yield scaled.problem(f"{field}.metadata.{name}", f"{says[name]}: the worker's is {value}")
        if metadata.get("offsetResetPolicy") != "earliest":
            yield scaled.problem(f"{field}.metadata.offsetResetPolicy", "expected earliest, as the worker does it")
        if trigger.get("metricType", "AverageValue") != "AverageValue":
            yield scaled.problem(f"{field}.metricType", "expected AverageValue: there is no fallback for others")
        yield from _credentials(scaled, field, trigger, found)
    for topic in (found.kafka.images_topic, found.kafka.retry_topic):
        if topic not in topics:
            yield scaled.problem("spec.triggers", f"none looks at the topic {topic}")


def _options(scaled: Manifest, field: str, metadata: Mapping[str, str]) -> Iterator[Problem]:
    for name in sorted(metadata.keys() - _OPTIONS):
        yield scaled.problem(f"{field}.{name}", "not an option of the kafka trigger")
    for name in sorted(_FLAGS & metadata.keys()):
        if metadata[name] not in ("true", "false"):
            yield scaled.problem(f"{field}.{name}", f"{metadata[name]}: expected true or false")
    if not str(metadata.get("lagThreshold", "")).isdecimal() or int(metadata["lagThreshold"]) < 1:
        yield scaled.problem(f"{field}.lagThreshold", f"{metadata.get('lagThreshold')}: expected a number of events")
    if metadata.get("unsafeSsl") == "true":
        yield scaled.problem(f"{field}.unsafeSsl", "certificates are there to be looked at")
    is_limited = metadata.get("limitToPartitionsWithLag") == "true"
    for other in ("allowIdleConsumers", "ensureEvenDistributionOfPartitions"):
        if is_limited and metadata.get(other) == "true":
            yield scaled.problem(f"{field}.{other}", "KEDA refuses it beside limitToPartitionsWithLag")
    if metadata.get("allowIdleConsumers") == "true":
        yield scaled.problem(f"{field}.allowIdleConsumers", "a worker without a partition has nothing to do")


def _says(metadata: Mapping[str, str], name: str, variables: Mapping[str, str]) -> str | None:
    """An option's value, given directly or by the name of a variable of the worker."""
    variable = metadata.get(name + _FROM_ENV)
    return metadata.get(name) if variable is None else variables.get(variable)


def _credentials(scaled: Manifest, field: str, trigger: Mapping[str, Any], found: Settings) -> Iterator[Problem]:
    """KEDA connects as the worker does."""
    metadata, protocol = trigger["metadata"], found.kafka.security_protocol
    tls = "enable" if protocol.endswith("SSL") else "disable"
    if metadata.get("tls", "disable") != tls:
        yield scaled.problem(f"{field}.metadata.tls", f"expected {tls}: kafka.security_protocol is {protocol}")
    sasl = _SASL.get(found.kafka.sasl_mechanism or "", "none") if protocol.startswith("SASL") else "none"
    if metadata.get("sasl", "none") != sasl:
        yield scaled.problem(
            f"{field}.metadata.sasl", f"expected {sasl}: kafka.sasl_mechanism is {found.kafka.sasl_mechanism}"
        )
    if sasl != "none" and at(trigger, "authenticationRef.name") is None:
        yield scaled.problem(f"{field}.authenticationRef", "expected: SASL without a name and a password")
