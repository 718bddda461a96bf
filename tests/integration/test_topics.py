"""``genprint topics`` on Apache Kafka with an authorizer; looked at with confluent-kafka."""

import json
import time
import uuid

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there; untyped there
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.topics import create_topics
from tests.integration.secure import SecureKafka
from tests.integration.worker_process import clean_environment, worker_command

pytestmark = pytest.mark.integration

TOPICS = ("images", "retry", "dead", "verdicts")
ROLES = "producer=User:p,worker=User:w,consumer=User:c,replay=User:r,scaler=User:s"


class Named:
    """Names of one test."""

    def __init__(self, secure: SecureKafka) -> None:
        self.secure = secure
        self.prefix = uuid.uuid4().hex[:8]
        self.names = {f"KAFKA__{name.upper()}_TOPIC": self.topic(name) for name in TOPICS}
        self.names |= {"KAFKA__GROUP_ID": self.prefix}

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def run(self, command: str, *options: str, **other: str) -> list[dict[str, str]]:
        """Rows, of a command that comes to its end."""
        done = self.secure.topics(command, "--json", *options, **{**self.names, **other})
        assert done.stderr == ""
        rows: list[dict[str, str]] = json.loads(done.stdout)
        assert done.exit_code == (1 if command == "check" and rows else 0)
        return rows

    def partitions(self) -> dict[str, int]:
        with AdminClient({"bootstrap.servers": self.secure.broker.bootstrap, "log_level": 0}) as admin:
            found = admin.list_topics(timeout=60).topics
        return {name: len(found[self.topic(name)].partitions) for name in TOPICS if self.topic(name) in found}

    def configs(self, name: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic(name))
        with AdminClient({"bootstrap.servers": self.secure.broker.bootstrap, "log_level": 0}) as admin:
            [future] = admin.describe_configs([resource]).values()
            return {key: entry.value for key, entry in future.result().items()}


@pytest.fixture
def named(secure_kafka: SecureKafka) -> Named:
    return Named(secure_kafka)


def test_from_nothing_to_as_declared_and_no_further(named: Named) -> None:
    missing = named.run("check", "--acls", ROLES)
    assert [row["resource"] for row in missing if row["what"] == "topic"] == [f"topic {named.topic(n)}" for n in TOPICS]
    planned = named.run("create", "--acls", ROLES, "--dry-run")
    assert {row["outcome"] for row in planned} == {"would be mended"}
    assert named.partitions() == {}
    made = named.run("create", "--acls", ROLES)
    assert [row["resource"] for row in made] == [row["resource"] for row in missing]
    assert {row["outcome"] for row in made} == {"mended"}
    assert named.partitions() == dict.fromkeys(TOPICS, 4)
    configs = named.configs("verdicts")
    assert (configs["compression.type"], configs["retention.ms"]) == ("zstd", str(7 * 86400 * 1000))
    assert (configs["max.message.bytes"], configs["min.insync.replicas"]) == (str(12 * 2**20), "1")
    assert named.run("check", "--acls", ROLES) == []
    assert named.run("create", "--acls", ROLES) == []


def test_what_exists_is_changed_only_when_asked(named: Named) -> None:
    create_topics(named.secure.broker.bootstrap, {named.topic("images"): 2}, config={"retention.ms": "1000"})
    rows = named.run("create")
    left = {(row["what"], row["declared"], row["found"]): row["outcome"] for row in rows if "images" in row["resource"]}
    assert left["partitions", "4", "2"] == "differs; mended by topics create --add-partitions"
    assert left["retention.ms", str(3 * 86400 * 1000), "1000"] == "differs; mended by topics create --update"
    assert named.partitions() == {"images": 2, "retry": 4, "dead": 4, "verdicts": 4}
    assert named.configs("images")["retention.ms"] == "1000"

    named.run("create", "--update")
    assert named.configs("images")["retention.ms"] == str(3 * 86400 * 1000)
    assert named.partitions()["images"] == 2
    assert [row["what"] for row in named.run("check")] == ["partitions"]
    named.run("create", "--add-partitions")
    assert named.partitions()["images"] == 4
    assert named.run("check") == []


def test_the_retry_topic_follows_the_images(named: Named) -> None:
    named.run("create")
    with AdminClient({"bootstrap.servers": named.secure.broker.bootstrap, "log_level": 0}) as admin:
        [future] = admin.create_partitions([NewPartitions(named.topic("images"), 6)]).values()
        future.result()
    deadline = time.monotonic() + 90
    while not (found := named.run("check")):  # the broker shows the new partitions a moment later
        assert time.monotonic() < deadline, "new partitions are not seen"
    [row] = found
    assert (row["resource"], row["what"], row["declared"], row["found"]) == (
        f"topic {named.topic('retry')}",
        "partitions",
        "6",
        "4",
    )


def test_rights_that_are_missing_denied_or_too_many(named: Named) -> None:
    named.run("create", "--acls", ROLES)
    verdicts = named.topic("verdicts")

    def entry(principal: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
        return AclBinding(
            ResourceType.TOPIC, verdicts, ResourcePatternType.LITERAL, principal, "*", operation, permission
        )

    with AdminClient({"bootstrap.servers": named.secure.broker.bootstrap, "log_level": 0}) as admin:
        more = [
            entry("User:c", AclOperation.WRITE, AclPermissionType.ALLOW),
            entry("User:w", AclOperation.WRITE, AclPermissionType.DENY),
            entry("User:somebody", AclOperation.READ, AclPermissionType.ALLOW),  # in no role: none of our business
        ]
        for future in admin.create_acls(more).values():
            future.result()
    rows = {(row["what"], row["declared"], row["found"]) for row in named.run("check", "--acls", ROLES)}
    assert rows == {
        ("WRITE for User:c", "not allowed", "allowed"),
        ("WRITE for User:w", "allowed", f"denied on topic {verdicts}"),
    }
    moved = named.run("check", "--acls", "worker=User:somebody-else")
    assert {(row["what"].split()[-1], row["found"]) for row in moved} == {("User:somebody-else", "missing")}


def test_a_table_for_people_and_its_exit_status(named: Named) -> None:
    done = named.secure.topics("check", **named.names)
    assert done.exit_code == 1
    assert "missing" in done.stdout
    assert named.secure.topics("create", **named.names).exit_code == 0
    done = named.secure.topics("check", **named.names)
    assert (done.exit_code, done.stdout) == (0, "as declared\n")


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        (["--acls", "boss=User:x"], {}, "--acls boss=User:x: expected a role"),
        ([], {"TOPICS__REPLICATION": "3"}, "there are fewer brokers than topics.replication"),
        ([], {"KAFKA__SASL_PASSWORD": "wrong-4711"}, "kafka.sasl_password"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    named: Named, options: list[str], settings: dict[str, str], expected: str
) -> None:
    done = named.secure.topics("create", *options, **{**named.names, **settings})
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert expected in done.stderr
    assert "4711" not in done.stderr


def test_who_is_no_administrator_is_told(named: Named) -> None:
    done = named.secure.topics("create", user="stranger", **named.names)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "stranger may not describe topic" in done.stderr


def test_access_control_where_there_is_none(apache_kafka: ApacheKafka) -> None:
    variables = {
        "GENPRINT_KAFKA__BOOTSTRAP_SERVERS": apache_kafka.bootstrap,
        "GENPRINT_KAFKA__IMAGES_TOPIC": uuid.uuid4().hex,
    }
    done = worker_command("topics", "check", "--acls", "worker=User:w", environment=clean_environment() | variables)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has no access control" in done.stderr
