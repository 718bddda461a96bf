"""Topics and rights as code: what the worker needs in Kafka, and how a cluster differs from that.

There is one table of topics and one of rights; the names come from the settings. ``worker.kafka.topic_admin`` talks to
the broker.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from worker.errors import StartupError
from worker.settings import KafkaSettings, Settings

ResourceKind = Literal["topic", "group", "transactional id", "cluster"]
Remedy = Literal["create", "update", "add partitions", "grant", "by hand"]

CLUSTER = "kafka-cluster"
"""The name that Kafka gives to the only resource of kind *cluster*."""

# The last is of no effect since Kafka 2.8; before, every idempotent producer had to have it.
_HARMLESS = frozenset({"DESCRIBE", "DESCRIBE_CONFIGS", "IDEMPOTENT_WRITE"})


@dataclass(frozen=True)
class Topic:
    """A topic as it should be, or as it was found; ``configs`` are Kafka's names and values."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, order=True)
class Right:
    """One entry of an access control list: an operation that ``principal`` may do, from any host."""

    principal: str
    operation: str
    kind: ResourceKind
    name: str
    is_prefix: bool = False
    """Whether it holds for all resources whose names begin with ``name``."""
    is_denial: bool = False

    @property
    def resource(self) -> str:
        """The resource as people read it: kind and name."""
        return f"{self.kind} {self.name}{'*' if self.is_prefix else ''}"

    def covers(self, other: "Right") -> bool:
        """Whether this right includes ``other`` (or, if it is a denial, denies it)."""
        return (
            self.principal in (other.principal, "User:*")
            and self.operation in (other.operation, "ALL")
            and self.kind == other.kind
            and (self.name == "*" or (other.name.startswith(self.name) if self.is_prefix else self._same_name(other)))
        )

    def _same_name(self, other: "Right") -> bool:
        return self.name == other.name and not other.is_prefix


@dataclass(frozen=True)
class Difference:
    """One thing that is not as declared, and how it can be mended."""

    resource: str
    what: str
    declared: str
    found: str
    remedy: Remedy


_MENDED_BY: Mapping[Remedy, str] = {
    "create": "topics create",
    "update": "topics create --update",
    "add partitions": "topics create --add-partitions",
    "grant": "topics create --acls",
    "by hand": "by hand",
}


def difference_row(difference: Difference, outcome: str = "") -> dict[str, str]:
    """A row of a table; without ``outcome`` (what was done) it says what would mend the difference."""
    d = difference
    last = outcome or f"differs; mended {'' if d.remedy == 'by hand' else 'by '}{_MENDED_BY[d.remedy]}"
    return {"resource": d.resource, "what": d.what, "declared": d.declared, "found": d.found, "outcome": last}


def declared_topics(settings: Settings, found: Mapping[str, Topic] | None = None) -> tuple[Topic, ...]:
    """The four topics, in the order in which events go through them.

    The retry topic has at least as many partitions as the topic of images was found to have: each worker gets a share
    of both, and with fewer some workers would have no deferred events while others are busy with them.
    """
    kafka, t = settings.kafka, settings.topics
    images = (found or {}).get(kafka.images_topic)
    retry_partitions = max(t.partitions, images.partitions if images else 0)
    table = (
        # Images are compressed already, so that only JSON is worth compressing.
        (kafka.images_topic, t.partitions, t.images_retention_s, "producer"),
        (kafka.retry_topic, retry_partitions, t.retry_retention_s, "producer"),
        (kafka.dead_topic, t.partitions, t.dead_retention_s, "producer"),
        (kafka.verdicts_topic, t.partitions, t.verdicts_retention_s, "zstd"),
    )
    return tuple(
        Topic(
            name,
            partitions,
            t.replication,
            {
                "cleanup.policy": "delete",
                "compression.type": compression,
                # The smallest of these limits what a worker writes: larger dead letters become pointers.
                "max.message.bytes": str(kafka.max_message_bytes),
                # A producer's clock would decide how long its records are kept, and what a replay finds.
                "message.timestamp.type": "LogAppendTime",
                "min.insync.replicas": str(max(1, t.replication - 1)),
                "retention.ms": str(retention_s * 1000),
            },
        )
        for name, partitions, retention_s, compression in table
    )


def worker_operations(kafka: KafkaSettings) -> Mapping[str, frozenset[str]]:
    """Topic -> the operations that a worker must be allowed."""
    rights = _role("worker", kafka, "")
    return {name: frozenset(does.split()) - {"DESCRIBE_CONFIGS"} for kind, name, _, does in rights if kind == "topic"}


def declared_rights(kafka: KafkaSettings, principals: Mapping[str, str], consumer_groups: str) -> frozenset[Right]:
    """The least rights that each role needs.

    Producing with idempotence needs no right on the cluster since Kafka 2.8: the right to write to a topic is enough.

    Args:
        kafka: the names of topics and group.
        principals: Kafka principals by role, one of ``ROLES``.
        consumer_groups: beginning of the names of the groups of role *consumer*.
    """
    return frozenset(
        Right(principal, operation, kind, name, is_prefix)
        for role, principal in principals.items()
        for kind, name, is_prefix, operations in _role(role, kafka, consumer_groups)
        for operation in operations.split()
    )


ROLES = ("producer", "worker", "consumer", "replay", "scaler")
"""Sender of image events; worker; reader of verdicts and dead letters; ``worker replay``; autoscaler that reads lag."""


def _role(role: str, k: KafkaSettings, consumer_groups: str) -> Iterator[tuple[ResourceKind, str, bool, str]]:
    """Rights of a role: kind and name of a resource, whether the name is a prefix, operations."""
    match role:
        case "producer":
            yield "topic", k.images_topic, False, "WRITE DESCRIBE"
        case "worker":
            yield "topic", k.images_topic, False, "READ DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", k.retry_topic, False, "READ WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", k.dead_topic, False, "WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", k.verdicts_topic, False, "WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "group", k.group_id, False, "READ DESCRIBE"
            yield "transactional id", f"{k.group_id}-", True, "WRITE DESCRIBE"
            yield "cluster", CLUSTER, False, "DESCRIBE_CONFIGS"  # how long brokers keep offsets
        case "consumer":
            yield "topic", k.verdicts_topic, False, "READ DESCRIBE"
            yield "topic", k.dead_topic, False, "READ DESCRIBE"
            yield "group", consumer_groups, True, "READ DESCRIBE"
        case "replay":
            yield "topic", k.images_topic, False, "READ DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", f"{k.retry_topic}.replay.", True, "CREATE READ WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", k.dead_topic, False, "WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "topic", k.verdicts_topic, False, "WRITE DESCRIBE DESCRIBE_CONFIGS"
            yield "group", f"{k.group_id}.replay.", True, "READ DESCRIBE"
            yield "transactional id", f"{k.group_id}.replay.", True, "WRITE DESCRIBE"
            yield "cluster", CLUSTER, False, "DESCRIBE_CONFIGS"
        case "scaler":
            yield "topic", k.images_topic, False, "DESCRIBE"
            yield "topic", k.retry_topic, False, "DESCRIBE"
            yield "group", k.group_id, False, "DESCRIBE"
        case _:
            raise AssertionError(role)


def read_principals(text: str) -> dict[str, str]:
    """Principals by role, from ``producer=User:p,worker=User:CN=w,OU=x``; a part without a role continues a name.

    Raises:
        StartupError: names the part and what was expected.
    """
    principals: dict[str, str] = {}
    last = ""
    for part in (part.strip() for part in text.split(",") if part.strip()):
        role, _, principal = part.partition("=")
        if last and role not in ROLES and principal and ":" not in part:
            principals[last] += f",{part}"
            continue
        kind, _, name = principal.partition(":")
        if role not in ROLES or not kind or not name:
            raise StartupError(f"--acls {part}: expected a role ({', '.join(ROLES)}) and a principal, as worker=User:w")
        if role in principals:
            raise StartupError(f"--acls {part}: {role} is named twice")
        principals[role] = principal
        last = role
    return principals


def topic_differences(declared: Collection[Topic], found: Mapping[str, Topic]) -> list[Difference]:
    """Differences of a cluster's topics from the declared ones; more partitions or replicas are no difference."""
    differences: list[Difference] = []
    for topic in declared:
        resource = f"topic {topic.name}"
        there = found.get(topic.name)
        if there is None:
            wanted = f"{topic.partitions} partitions, replication {topic.replication}"
            differences.append(Difference(resource, "topic", wanted, "missing", "create"))
            continue
        if there.partitions < topic.partitions:
            counts = str(topic.partitions), str(there.partitions)
            differences.append(Difference(resource, "partitions", *counts, "add partitions"))
        if there.replication < topic.replication:
            copies = str(topic.replication), str(there.replication)
            differences.append(Difference(resource, "replication", *copies, "by hand"))
        differences += [
            Difference(resource, name, value, there.configs.get(name, "unknown"), "update")
            for name, value in sorted(topic.configs.items())
            if there.configs.get(name) != value
        ]
    return differences


def right_differences(declared: Collection[Right], found: Collection[Right]) -> list[Difference]:
    """Declared rights that are missing or denied, and rights of the same principals beyond the declared ones."""
    allowed = [right for right in found if not right.is_denial]
    denied = [right for right in found if right.is_denial]
    differences = []
    for right in sorted(declared):
        what = f"{right.operation} for {right.principal}"
        if denial := next((other for other in denied if other.covers(right)), None):
            differences.append(Difference(right.resource, what, "allowed", f"denied on {denial.resource}", "by hand"))
        elif not any(other.covers(right) for other in allowed):
            differences.append(Difference(right.resource, what, "allowed", "missing", "grant"))
    return differences + _beyond(declared, allowed)


def _beyond(declared: Collection[Right], allowed: Collection[Right]) -> list[Difference]:
    """Rights beyond the declared ones, of declared principals or all users, on declared resources."""
    principals = {right.principal for right in declared} | {"User:*"}
    resources = {(right.kind, right.name, right.is_prefix) for right in declared}
    differences = []
    for right in sorted(set(allowed) - set(declared)):
        reached = [Right(right.principal, right.operation, *resource) for resource in resources]
        is_beyond = any(right.covers(other) and other not in declared for other in reached)
        if right.principal in principals and right.operation not in _HARMLESS and is_beyond:
            what = f"{right.operation} for {right.principal}"
            differences.append(Difference(right.resource, what, "not allowed", "allowed", "by hand"))
    return differences
