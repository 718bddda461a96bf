"""Topics and rights in a cluster: reading them, and making them those that ``worker.kafka.topics`` declares.

Nothing that exists is changed unless that was requested, and neither a topic nor a right is ever removed.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from kafka import errors
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from worker.errors import BrokerError, BrokerUnreachable, StartupError
from worker.kafka.connection import cluster_setting, connect, reach, start_error
from worker.kafka.topics import (
    Difference,
    Remedy,
    ResourceKind,
    Right,
    Topic,
    declared_rights,
    declared_topics,
    right_differences,
    topic_differences,
)
from worker.settings import KafkaSettings, Settings

T = TypeVar("T")

_RESOURCE_TYPES: Mapping[ResourceKind, ResourceType] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.CLUSTER,
}
_RESOURCE_KINDS = {resource: kind for kind, resource in _RESOURCE_TYPES.items()}
_EVERY_ACL = ACLFilter(
    principal=None,
    host=None,
    operation=ACLOperation.ANY,
    permission_type=ACLPermissionType.ANY,
    resource_pattern=ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)


@dataclass(frozen=True)
class TopicRequest:
    """What the command line requests."""

    principals: Mapping[str, str]
    """Kafka principals by role."""
    consumer_groups: str
    """Beginning of the names of the consumers' groups."""
    update: bool = False
    """Whether to change settings of topics that exist."""
    add_partitions: bool = False
    """Whether to add partitions to topics that exist; a key may then go to another partition than before."""
    dry_run: bool = False

    @property
    def remedies(self) -> frozenset[Remedy]:
        """The remedies that may be applied."""
        may: set[Remedy] = {"create", "grant"}
        if self.update:
            may.add("update")
        if self.add_partitions:
            may.add("add partitions")
        return frozenset(may)


def check_topics_and_rights(settings: Settings, request: TopicRequest) -> list[Difference]:
    """Every difference of the cluster from what is declared.

    Raises:
        BrokerError, StartupError: the cluster could not be read.
    """
    with TopicAdmin(settings.kafka) as admin:
        return _differences(settings, request, admin)[1]


def create_topics_and_rights(settings: Settings, request: TopicRequest) -> tuple[list[Difference], list[Difference]]:
    """Mend the differences that the request covers; a second call then finds nothing to do.

    Returns:
        Differences that were mended (with ``dry_run``: would be), and those that are left.

    Raises:
        BrokerError, StartupError: names the first thing that could not be done; what was done before stays done.
    """
    with TopicAdmin(settings.kafka) as admin:
        topics, differences = _differences(settings, request, admin)
        doing = [difference for difference in differences if difference.remedy in request.remedies]
        left = [difference for difference in differences if difference.remedy not in request.remedies]
        if not request.dry_run:
            _mend(settings, request, admin, topics, doing)
    return doing, left


def _mend(
    settings: Settings,
    request: TopicRequest,
    admin: "TopicAdmin",
    topics: Collection[Topic],
    doing: Collection[Difference],
) -> None:
    by_resource = {f"topic {topic.name}": topic for topic in topics}
    for difference in doing:
        match difference.remedy:
            case "create":
                admin.create(by_resource[difference.resource])
            case "update":
                admin.configure(by_resource[difference.resource].name, {difference.what: difference.declared})
            case "add partitions":
                topic = by_resource[difference.resource]
                admin.add_partitions(topic.name, topic.partitions)
    missing = {(d.resource, d.what) for d in doing if d.remedy == "grant"}
    rights = declared_rights(settings.kafka, request.principals, request.consumer_groups)
    admin.grant([r for r in sorted(rights) if (r.resource, f"{r.operation} for {r.principal}") in missing])


def _differences(
    settings: Settings, request: TopicRequest, admin: "TopicAdmin"
) -> tuple[tuple[Topic, ...], list[Difference]]:
    """The declared topics, and every difference of the cluster from what is declared."""
    found = admin.topics([topic.name for topic in declared_topics(settings)])
    declared = declared_topics(settings, found)
    differences = topic_differences(declared, found)
    if request.principals:
        rights = declared_rights(settings.kafka, request.principals, request.consumer_groups)
        differences += right_differences(rights, admin.rights())
    return declared, differences


class TopicAdmin:
    """A connection to the cluster for the time of a block; its methods raise ``BrokerError`` or ``StartupError``."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: Any = None

    def __enter__(self) -> Self:
        reach(self._settings)
        try:
            self._client = connect(KafkaAdminClient, self._settings)
        except errors.KafkaError as error:
            raise start_error(error, self._settings) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def topics(self, names: Collection[str]) -> dict[str, Topic]:
        """The topics of these names that exist."""
        described = self._do("describe topics", lambda: self._client.describe_topics(list(names)))
        there = {}
        for topic in described:
            kind = errors.for_code(topic["error_code"])
            if kind is errors.NoError:
                there[topic["name"]] = topic["partitions"]
            elif kind is not errors.UnknownTopicOrPartitionError:
                self._refuse(f"describe topic {topic['name']}", kind())
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
        configs: Mapping[str, Mapping[str, Any]] = {}
        if resources:
            what = "describe the settings of topics"
            configs = self._do(what, lambda: self._client.describe_configs(resources, config_filter="all"))["topic"]
        return {
            name: Topic(
                name,
                len(partitions),
                min(len(partition["replica_nodes"]) for partition in partitions),
                {key: entry["value"] for key, entry in configs.get(name, {}).items() if entry["value"] is not None},
            )
            for name, partitions in there.items()
        }

    def rights(self) -> list[Right]:
        """Entries about topics, groups, transactional ids and the cluster: permissions for any host, and all denials.

        Raises:
            StartupError: the brokers have no access control.
        """
        entries, _ = self._do("list access control", lambda: self._client.describe_acls(_EVERY_ACL))
        return [
            Right(
                entry.principal,
                entry.operation.name,
                _RESOURCE_KINDS[pattern.resource_type],
                pattern.resource_name,
                is_prefix=pattern.pattern_type is ACLResourcePatternType.PREFIXED,
                is_denial=entry.permission_type is ACLPermissionType.DENY,
            )
            for entry in entries
            if (pattern := entry.resource_pattern).resource_type in _RESOURCE_KINDS
            and (entry.host == "*" or entry.permission_type is ACLPermissionType.DENY)
        ]

    def create(self, topic: Topic) -> None:
        """Create a topic and wait until it can be used."""
        new = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication,
                "configs": dict(topic.configs),
            }
        }
        self._do(f"create topic {topic.name}", lambda: self._client.create_topics(new, wait_for_metadata=True))

    def configure(self, name: str, configs: Mapping[str, str]) -> None:
        """Change some settings of a topic; the others stay."""
        what = f"set {', '.join(configs)} of topic {name}"
        resource = ConfigResource(ConfigResourceType.TOPIC, name, dict(configs))
        results = self._do(what, lambda: self._client.alter_configs([resource]))
        if (result := results["topic"][name]) != "OK":
            raise BrokerError(f"{cluster_setting(self._settings)}: cannot {what}: {result}")

    def add_partitions(self, name: str, count: int) -> None:
        """Add partitions to a topic until it has ``count``."""
        self._do(f"add partitions to topic {name}", lambda: self._client.create_partitions({name: count}))

    def grant(self, rights: Collection[Right]) -> None:
        """Add these rights to the access control lists."""
        if not rights:
            return
        results = self._do("grant rights", lambda: self._client.create_acls([_acl(right) for right in rights]))
        if results["failed"]:
            self._refuse("grant rights", results["failed"][0]())

    def _do(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except errors.KafkaError as error:
            self._refuse(what, error)

    def _refuse(self, what: str, error: errors.KafkaError) -> NoReturn:
        where = cluster_setting(self._settings)
        user = self._settings.sasl_username or "this client"
        match error:
            case errors.SecurityDisabledError():
                raise StartupError(f"--acls: {where} has no access control (authorizer.class.name)") from error
            case errors.AuthorizationError():
                raise BrokerUnreachable(f"{where}: {user} may not {what}; an administrator may") from error
            case errors.InvalidReplicationFactorError():
                why = "there are fewer brokers than topics.replication; lower it"
                raise BrokerError(f"{where}: cannot {what}: {why}") from error
            case _:
                raise BrokerError(f"{where}: cannot {what}: {error}") from error


def _acl(right: Right) -> ACL:
    pattern = ACLResourcePatternType.PREFIXED if right.is_prefix else ACLResourcePatternType.LITERAL
    return ACL(
        principal=right.principal,
        host="*",
        operation=ACLOperation[right.operation],
        permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(_RESOURCE_TYPES[right.kind], right.name, pattern),
    )
