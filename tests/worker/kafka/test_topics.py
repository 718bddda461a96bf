"""Declared topics and rights, and what counts as a difference."""

from dataclasses import replace

import pytest

from worker.errors import StartupError
from worker.kafka.topics import (
    ROLES,
    Difference,
    Right,
    Topic,
    declared_rights,
    declared_topics,
    difference_row,
    read_principals,
    right_differences,
    topic_differences,
    worker_operations,
)
from worker.settings import Settings, load_settings

SETTINGS = Settings()
DECLARED = declared_topics(SETTINGS)
THERE = {topic.name: topic for topic in DECLARED}
RIGHTS = declared_rights(SETTINGS.kafka, {role: f"User:{role}" for role in ROLES}, "verdicts")


def differences(**changed: Topic | None) -> list[tuple[str, str, str, str]]:
    found = {name: topic for name, topic in {**THERE, **changed}.items() if topic is not None}
    wanted = declared_topics(SETTINGS, found)
    return [(d.resource, d.what, d.declared, d.found) for d in topic_differences(wanted, found)]


def test_names_and_sizes_come_from_the_settings() -> None:
    settings = load_settings(
        None, ["kafka.verdicts_topic=v", "kafka.max_message_bytes=9000000", "topics.partitions=6"], {}
    )
    topics = {topic.name: topic for topic in declared_topics(settings)}
    assert set(topics) == {"images", "images.retry", "images.dead", "v"}
    assert {topic.partitions for topic in topics.values()} == {6}
    assert {topic.configs["max.message.bytes"] for topic in topics.values()} == {"9000000"}


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_one_copy_may_be_missing(replication: int, in_sync: str) -> None:
    settings = load_settings(None, [f"topics.replication={replication}"], {})
    assert {topic.configs["min.insync.replicas"] for topic in declared_topics(settings)} == {in_sync}


def test_as_declared_there_is_no_difference() -> None:
    assert differences() == []


def test_a_missing_topic() -> None:
    assert differences(verdicts=None) == [
        ("topic verdicts", "topic", "12 partitions, replication 3", "missing"),
    ]


def test_fewer_is_a_difference_and_more_is_none() -> None:
    dead = THERE["images.dead"]
    assert differences(**{"images.dead": replace(dead, partitions=11, replication=2)}) == [
        ("topic images.dead", "partitions", "12", "11"),
        ("topic images.dead", "replication", "3", "2"),
    ]
    assert differences(**{"images.dead": replace(dead, partitions=13, replication=4)}) == []


def test_the_retry_topic_has_as_many_partitions_as_the_images_have() -> None:
    more = replace(THERE["images"], partitions=24)
    assert differences(images=more) == [("topic images.retry", "partitions", "24", "12")]
    assert differences(images=more, **{"images.retry": replace(THERE["images.retry"], partitions=24)}) == []


@pytest.mark.parametrize("name", sorted(DECLARED[0].configs))
def test_every_declared_setting_of_a_topic_counts(name: str) -> None:
    images = THERE["images"]
    other = replace(images, configs={**images.configs, name: "other"})
    assert differences(images=other) == [("topic images", name, images.configs[name], "other")]
    without = replace(images, configs={key: value for key, value in images.configs.items() if key != name})
    assert differences(images=without) == [("topic images", name, images.configs[name], "unknown")]


def test_settings_that_are_not_declared_are_not_our_business() -> None:
    images = THERE["images"]
    assert differences(images=replace(images, configs={**images.configs, "segment.ms": "1"})) == []


# Rights --------------------------------------------------------------------------------------------------------------


def may(role: str) -> set[str]:
    return {f"{right.operation} {right.resource}" for right in RIGHTS if right.principal == f"User:{role}"}


def test_who_may_do_what() -> None:
    assert may("producer") == {"WRITE topic images", "DESCRIBE topic images"}
    assert may("consumer") == {
        f"{operation} {resource}"
        for operation in ("READ", "DESCRIBE")
        for resource in ("topic verdicts", "topic images.dead", "group verdicts*")
    }
    assert {right for right in may("worker") if not right.startswith("DESCRIBE")} == {
        "READ topic images",
        "READ topic images.retry",
        "WRITE topic images.retry",
        "WRITE topic images.dead",
        "WRITE topic verdicts",
        "READ group genprint",
        "WRITE transactional id genprint-*",
    }
    assert {right for right in may("worker") if right.startswith("DESCRIBE_CONFIGS")} == {
        f"DESCRIBE_CONFIGS {resource}" for resource in (*(f"topic {name}" for name in THERE), "cluster kafka-cluster")
    }
    assert {right.split()[0] for right in may("scaler")} == {"DESCRIBE"}
    assert not {right for right in may("replay") if right.endswith(("topic images.retry", "group genprint"))}


def test_what_a_worker_asks_for_at_its_start_is_what_it_is_given() -> None:
    given = {
        name: {r.operation for r in RIGHTS if r.principal == "User:worker" and (r.kind, r.name) == ("topic", name)}
        for name in THERE
    }
    needed = worker_operations(SETTINGS.kafka)
    assert {name: operations - {"DESCRIBE_CONFIGS"} for name, operations in given.items()} == needed


def test_rights_as_declared_are_no_difference() -> None:
    assert right_differences(RIGHTS, RIGHTS) == []


@pytest.mark.parametrize("right", sorted(RIGHTS))
def test_every_right_counts(right: Right) -> None:
    [difference] = right_differences(RIGHTS, RIGHTS - {right})
    assert (difference.resource, difference.found, difference.remedy) == (right.resource, "missing", "grant")
    assert difference.what == f"{right.operation} for {right.principal}"


WRITE = Right("User:worker", "WRITE", "topic", "verdicts")
GROUP = Right("User:consumer", "READ", "group", "verdicts", is_prefix=True)


@pytest.mark.parametrize(
    ("wider", "covered"),
    [
        (replace(WRITE, operation="ALL"), WRITE),
        (replace(WRITE, principal="User:*"), WRITE),
        (replace(WRITE, name="*"), WRITE),
        (replace(WRITE, name="ver", is_prefix=True), WRITE),
        (replace(GROUP, name="ver"), GROUP),
    ],
)
def test_a_wider_right_covers(wider: Right, covered: Right) -> None:
    assert wider.covers(covered)
    assert not covered.covers(wider)


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        (replace(WRITE, principal="User:other"), WRITE),
        (replace(WRITE, operation="READ"), WRITE),
        (replace(WRITE, kind="group"), WRITE),
        (replace(WRITE, name="verdicts2"), WRITE),
        (replace(WRITE, name="images", is_prefix=True), WRITE),
        (replace(GROUP, is_prefix=False), GROUP),
        (replace(GROUP, name="verdicts-a"), GROUP),
    ],
)
def test_another_right_does_not(other: Right, wanted: Right) -> None:
    assert not other.covers(wanted)


def test_a_denial_counts_more_than_a_right() -> None:
    [difference] = right_differences(RIGHTS, [*RIGHTS, replace(WRITE, is_denial=True)])
    assert (difference.found, difference.remedy) == ("denied on topic verdicts", "by hand")
    everybody = replace(WRITE, principal="User:*", operation="ALL", name="*", is_denial=True)
    found = {difference.found for difference in right_differences(RIGHTS, [*RIGHTS, everybody])}
    assert found == {"denied on topic *"}


@pytest.mark.parametrize(
    "beyond",
    [
        Right("User:consumer", "WRITE", "topic", "verdicts"),
        Right("User:worker", "READ", "topic", "verdicts"),
        Right("User:worker", "ALL", "topic", "images"),
        Right("User:worker", "READ", "topic", "images", is_prefix=True),
        Right("User:producer", "WRITE", "topic", "*"),
        Right("User:*", "READ", "topic", "images"),
        Right("User:consumer", "READ", "group", "genprint"),
        Right("User:worker", "ALTER", "cluster", "kafka-cluster"),
    ],
)
def test_a_right_beyond_the_declared_ones_is_a_difference(beyond: Right) -> None:
    [difference] = right_differences(RIGHTS, [*RIGHTS, beyond])
    assert (difference.resource, difference.declared, difference.found) == (beyond.resource, "not allowed", "allowed")
    assert difference.remedy == "by hand"


@pytest.mark.parametrize(
    "other",
    [
        Right("User:somebody", "ALL", "topic", "*"),
        Right("User:worker", "READ", "topic", "elsewhere"),
        Right("User:consumer", "DESCRIBE", "topic", "images"),
        Right("User:producer", "IDEMPOTENT_WRITE", "cluster", "kafka-cluster"),
    ],
)
def test_rights_of_others_and_elsewhere_are_not_our_business(other: Right) -> None:
    assert right_differences(RIGHTS, [*RIGHTS, other]) == []


def test_principals_by_role() -> None:
    assert read_principals("") == {}
    assert read_principals("producer=User:p, worker=User:w") == {"producer": "User:p", "worker": "User:w"}
    of_certificates = {"worker": "User:CN=w,OU=x,O=y", "consumer": "User:CN=c,O=y"}
    assert read_principals(",".join(f"{role}={name}" for role, name in of_certificates.items())) == of_certificates


@pytest.mark.parametrize(
    "text",
    ["boss=User:x", "worker=User:w,boss=User:x", "worker=User:w,x", "worker=User:w,consumer=", "worker", "worker=",
     "worker=x", "worker=User:", "worker=:x", "=User:x", "CN=x"],
)  # fmt: skip
def test_a_malformed_principal(text: str) -> None:
    with pytest.raises(StartupError, match="expected a role"):
        read_principals(text)


def test_a_role_named_twice() -> None:
    with pytest.raises(StartupError, match="named twice"):
        read_principals("worker=User:x,worker=User:y")


@pytest.mark.parametrize(
    ("remedy", "outcome"),
    [
        ("update", "differs; mended by topics create --update"),
        ("by hand", "differs; mended by hand"),
    ],
)
def test_a_row_says_what_mends_it(remedy: str, outcome: str) -> None:
    difference = Difference("topic images", "x", "1", "2", remedy)  # type: ignore[arg-type]  # of the parameters
    assert difference_row(difference)["outcome"] == outcome
    assert difference_row(difference, "mended")["outcome"] == "mended"
