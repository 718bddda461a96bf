"""TLS, SASL and access control on the real Kafka and Valkey: what works, and what is refused with one clear line."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there; untyped there
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)
from kafka.errors import KafkaTimeoutError
from structlog.testing import capture_logs

from bundle.store import Bundle
from deploy.local.ports import free_port
from deploy.local.valkey import Valkey
from tests.integration.certificates import Certificates
from tests.integration.secure import SecureKafka
from tests.integration.tls_front import TlsFront
from tests.integration.worker_process import Stream, WorkerProcess, clean_environment, worker_command
from tests.worker.messages.edges import until
from tests.worker.scoring.test_cache import A, entry, same
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.errors import BrokerError, BrokerUnreachable, StartupError
from worker.kafka.client import KafkaBroker
from worker.kafka.connection import check_topics, reach
from worker.kafka.topics import declared_rights
from worker.operations.metrics import Metrics
from worker.scoring.cache import RedisCache
from worker.settings import KafkaSettings, RedisSettings, load_settings

pytestmark = pytest.mark.integration

PNG = {"content-type": b"image/png"}
START_S = 6
"""How long a refused worker may try, where trying is of use."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


def refused(environment: dict[str, str], *expected: str, command: str = "run") -> None:
    """One line for people, no trouble beside it in the log, no secret in either."""
    began = time.monotonic()
    result = worker_command(command, environment=environment)
    assert time.monotonic() - began < START_S + 60, "importing the worker takes some seconds, the rest was waiting"
    assert result.returncode == 2, result.stderr
    assert re.findall(r"4711|Traceback", result.stdout + result.stderr) == []
    *logged, last = result.stderr.splitlines()
    assert last.startswith("genprint: "), result.stderr
    trouble = [line for line in map(json.loads, logged) if line["level"] != "info"]
    # The client itself reports that it may not join the group, which happens after the start.
    assert [line for line in trouble if not line["event"].endswith("fatal error: GroupAuthorizationFailedError")] == []
    for text in expected:
        assert text in last


# Kafka: what works ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream(secure_kafka: SecureKafka) -> Stream:
    """Topics, and users with the rights of their role on them."""
    stream = Stream(secure_kafka.broker.bootstrap)
    granted = secure_kafka.topics(
        "create",
        "--acls",
        "producer=User:producer,worker=User:worker,consumer=User:consumer",
        **names(stream),
    )
    assert granted.exit_code == 0, granted.stderr
    return stream


def names(stream: Stream) -> dict[str, str]:
    topics = {f"KAFKA__{name.upper()}_TOPIC": stream.topic(name) for name in ("images", "retry", "dead", "verdicts")}
    return {**topics, "KAFKA__GROUP_ID": stream.prefix}


def environment(stream: Stream, bundle: Bundle, secure: SecureKafka, user: str, **other: str) -> dict[str, str]:
    """The environment of a worker that comes as ``user``; an empty value removes a setting."""
    settings = secure.settings(user, KAFKA__START_TIMEOUT_S=str(START_S), HTTP__PORT="0", **other)
    whole = stream.environment(bundle.path, **settings)
    gone = [f"GENPRINT_{name}" for name, value in other.items() if not value]
    return {name: value for name, value in whole.items() if name not in gone}


def test_a_worker_with_the_least_rights_answers_exactly_once(
    stream: Stream, bundle: Bundle, secure_kafka: SecureKafka, tmp_path: Path
) -> None:
    missing = json.dumps({"uri": "http://127.0.0.1:9/x.png"}).encode()
    settings = {
        "FETCH__SOURCES": "http://127.0.0.1:9",
        "FETCH__ALLOW_PRIVATE_ADDRESSES": "true",
        "FETCH__ATTEMPTS": "2",
        "FETCH__RETRY_DELAY_S": "0.5",
    }
    worker = WorkerProcess(environment(stream, bundle, secure_kafka, "worker", **settings), tmp_path / "worker.log")
    with worker:
        with Producer(secure_kafka.client("producer", **{"enable.idempotence": True})) as producer:
            for number in range(40):
                producer.produce(stream.topic("images"), encoded_image(40, seed=number), headers=list(PNG.items()))
            producer.produce(stream.topic("images"), b"no image", headers=list(PNG.items()))
            producer.produce(stream.topic("images"), missing, headers=[("content-type", b"application/json")])
            assert producer.flush(30) == 0
        verdicts = read(secure_kafka, stream, "verdicts", 40)
        dead = read(secure_kafka, stream, "dead", 2)  # a broken one, and one that was deferred in vain
    assert len({json.loads(message.value())["event"]["origin"] for message in verdicts}) == len(verdicts) == 40
    assert sorted(dict(message.headers())["genprint-reason"] for message in dead) == [
        b"source_exhausted",
        b"unsupported_format",
    ]
    assert {line["level"] for line in worker.logged()} == {"info"}
    assert "4711" not in worker.log_path.read_text()


def read(secure: SecureKafka, stream: Stream, kind: str, count: int) -> list[Any]:
    """As a consumer of verdicts would, with a group of its own."""
    options = {
        "group.id": f"{stream.topic('verdicts')}.{uuid.uuid4().hex}",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
    found: list[Any] = []
    deadline = time.monotonic() + 120
    with Consumer(secure.client("consumer", **options)) as consumer:
        consumer.subscribe([stream.topic(kind)])
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} {kind}"
            for message in consumer.consume(count, 0.5):
                assert message.error() is None, message.error()
                found.append(message)
    return found


@pytest.mark.parametrize(
    ("user", "kind", "may"),
    [
        ("producer", "images", True),
        ("producer", "retry", False),
        ("producer", "verdicts", False),
        ("worker", "images", False),
        ("worker", "verdicts", True),
        ("consumer", "verdicts", False),
        ("consumer", "dead", False),
        ("stranger", "images", False),
    ],
)
def test_who_may_write_what(stream: Stream, secure_kafka: SecureKafka, user: str, kind: str, may: bool) -> None:
    errors: list[KafkaError | None] = []
    with Producer(secure_kafka.client(user, **{"message.timeout.ms": 15_000})) as producer:
        producer.produce(stream.topic(kind), b"x", on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(20) == 0
    [error] = errors
    assert (error is None) is may
    assert error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("user", "kind", "may"),
    [
        ("consumer", "verdicts", True),
        ("consumer", "dead", True),
        ("consumer", "images", False),
        ("worker", "retry", True),
        ("worker", "verdicts", False),
    ],
)
def test_who_may_read_what(stream: Stream, secure_kafka: SecureKafka, user: str, kind: str, may: bool) -> None:
    # That library asks for a group even where it does not use it.
    group = f"{stream.topic('verdicts')}.x" if user == "consumer" else stream.prefix
    options = {"group.id": group, "enable.partition.eof": True, "enable.auto.commit": False}
    with Consumer(secure_kafka.client(user, **options)) as consumer:
        found: list[bool] = []
        seen = consumer.list_topics(stream.topic(kind), timeout=60).topics[stream.topic(kind)].error
        if seen is not None and seen.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            found.append(False)
        consumer.assign([TopicPartition(stream.topic(kind), 0, 0)])
        deadline = time.monotonic() + 90
        while not found:
            assert time.monotonic() < deadline
            for message in consumer.consume(1, 1):
                match message.error():
                    case None:
                        found.append(True)
                    case error if error.code() == KafkaError._PARTITION_EOF:
                        found.append(True)
                    case error:
                        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
                        found.append(False)
    assert found == [may]


def test_a_client_certificate_is_a_way_in_too(
    stream: Stream, secure_kafka: SecureKafka, certificates: Certificates
) -> None:
    principal = "User:CN=worker,OU=x,O=tests"
    kafka = kafka_settings(
        stream,
        secure_kafka,
        KAFKA__BOOTSTRAP_SERVERS=secure_kafka.bootstrap("MUTUAL"),
        KAFKA__SECURITY_PROTOCOL="SSL",
        **NO_SASL,
        KAFKA__SSL_CERTFILE=str(certificates.client),
        KAFKA__SSL_KEYFILE=str(certificates.client_key),
    )
    reach(kafka)
    with pytest.raises(BrokerUnreachable, match="no right to use"):
        check_topics(kafka)
    grant(secure_kafka, bindings(stream, principal))
    until(lambda: not complaint(kafka), "rights that count")


# Kafka: what is refused ----------------------------------------------------------------------------------------------

NO_SASL = {"KAFKA__SASL_MECHANISM": "", "KAFKA__SASL_USERNAME": "", "KAFKA__SASL_PASSWORD": ""}
NO_TLS = {"KAFKA__SSL_CAFILE": ""}


def kafka_settings(stream: Stream, secure: SecureKafka, user: str = "worker", **other: str) -> KafkaSettings:
    own = secure.settings(user, **names(stream), KAFKA__START_TIMEOUT_S="2", **other)
    return load_settings(None, (), {f"GENPRINT_{name}": value for name, value in own.items()}).kafka


def why(settings: KafkaSettings) -> str:
    """The reason of a refusal by ``reach``: one line, without secrets, within its time."""
    began = time.monotonic()
    with pytest.raises((BrokerUnreachable, StartupError)) as caught:
        reach(settings)
    assert time.monotonic() - began < settings.start_timeout_s + 20
    text = str(caught.value)
    assert "\n" not in text
    assert "4711" not in text
    return text


def test_a_wrong_authority(stream: Stream, bundle: Bundle, secure_kafka: SecureKafka) -> None:
    other = str(secure_kafka.certificates.other_authority)
    refused(
        environment(stream, bundle, secure_kafka, "worker", KAFKA__SSL_CAFILE=other),
        f"kafka.bootstrap_servers={secure_kafka.bootstrap()}",
        f"kafka.ssl_cafile={other} does not vouch for the server's certificate",
    )


def test_without_an_authority_the_systems_are_asked(stream: Stream, secure_kafka: SecureKafka) -> None:
    assert "kafka.ssl_cafile=(not set" in why(kafka_settings(stream, secure_kafka, KAFKA__SSL_CAFILE=""))


def test_an_expired_certificate(stream: Stream, bundle: Bundle, secure_kafka: SecureKafka) -> None:
    place = secure_kafka.bootstrap("EXPIRED")
    refused(
        environment(stream, bundle, secure_kafka, "worker", KAFKA__BOOTSTRAP_SERVERS=place),
        f"kafka.bootstrap_servers={place}",
        "the server's certificate has expired",
    )


def test_a_name_that_the_certificate_does_not_have(stream: Stream, bundle: Bundle, secure_kafka: SecureKafka) -> None:
    place = secure_kafka.bootstrap("MISNAMED")
    refused(
        environment(stream, bundle, secure_kafka, "worker", KAFKA__BOOTSTRAP_SERVERS=place),
        f"kafka.bootstrap_servers={place}",
        "certificate is for another name",
        "127.0.0.1",
    )


@pytest.mark.parametrize("user", ["worker", "nobody"])
def test_a_wrong_password_and_an_unknown_user(
    stream: Stream, bundle: Bundle, secure_kafka: SecureKafka, user: str
) -> None:
    wrong = environment(stream, bundle, secure_kafka, user, KAFKA__SASL_PASSWORD="wrong-4711")
    began = time.monotonic()
    refused(wrong, f"kafka.sasl_username={user}", "kafka.sasl_password", "SCRAM-SHA-512")
    assert time.monotonic() - began < START_S + 30


def test_a_wrong_password_is_offered_once(stream: Stream, secure_kafka: SecureKafka) -> None:
    settings = kafka_settings(stream, secure_kafka, KAFKA__SASL_PASSWORD="wrong-4711")
    began = time.monotonic()
    assert "denied access" in why(settings.model_copy(update={"start_timeout_s": 60}))
    assert time.monotonic() - began < 30


def test_a_mechanism_that_is_not_switched_on(stream: Stream, secure_kafka: SecureKafka) -> None:
    text = why(kafka_settings(stream, secure_kafka, KAFKA__SASL_MECHANISM="SCRAM-SHA-256"))
    assert "kafka.sasl_mechanism=SCRAM-SHA-256 is not switched on there" in text


def test_plaintext_against_a_tls_port(stream: Stream, bundle: Bundle, secure_kafka: SecureKafka) -> None:
    plain = {"KAFKA__SECURITY_PROTOCOL": "PLAINTEXT", **NO_SASL, **NO_TLS}
    refused(environment(stream, bundle, secure_kafka, "worker", **plain), "kafka.security_protocol=PLAINTEXT")


def test_tls_against_a_plaintext_port(stream: Stream, secure_kafka: SecureKafka) -> None:
    place = secure_kafka.broker.bootstrap
    text = why(kafka_settings(stream, secure_kafka, KAFKA__BOOTSTRAP_SERVERS=place))
    assert place in text
    assert "kafka.security_protocol=SASL_SSL" in text


def test_tls_against_a_server_that_says_nothing(stream: Stream, secure_kafka: SecureKafka, valkey: Valkey) -> None:
    # It takes our hello for a command that is not complete yet. kafka-python alone would wait for ever.
    valkey.pause()
    try:
        text = why(kafka_settings(stream, secure_kafka, KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{valkey.port}"))
    finally:
        valkey.resume()
    assert "no broker answered within 2 s" in text


@pytest.mark.parametrize(
    ("listener", "protocol"), [("SECURE", "SSL"), ("MUTUAL", "SASL_SSL"), ("MUTUAL", "SSL"), ("FOREIGN", "SSL")]
)
def test_the_wrong_way_of_proving_who_we_are(
    stream: Stream, secure_kafka: SecureKafka, certificates: Certificates, listener: str, protocol: str
) -> None:
    other = {"KAFKA__SECURITY_PROTOCOL": protocol, **(NO_SASL if protocol == "SSL" else {})}
    if listener == "FOREIGN":
        listener, other["KAFKA__SSL_CERTFILE"] = "MUTUAL", str(certificates.foreign_client)
    place = secure_kafka.bootstrap(listener)
    text = why(kafka_settings(stream, secure_kafka, KAFKA__BOOTSTRAP_SERVERS=place, **other))
    assert place in text
    assert re.search(r"kafka\.(security_protocol=SSL|ssl_certfile)", text)


def test_an_authority_that_is_not_there_or_is_none(stream: Stream, bundle: Bundle, secure_kafka: SecureKafka) -> None:
    refused(
        environment(stream, bundle, secure_kafka, "worker", KAFKA__SSL_CAFILE="/nowhere/ca.pem"),
        "kafka.ssl_cafile=/nowhere/ca.pem: No such file or directory",
    )
    assert "certificates in PEM form" in why(kafka_settings(stream, secure_kafka, KAFKA__SSL_CAFILE=__file__))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"KAFKA__SASL_PASSWORD": ""}, "kafka.security_protocol=SASL_SSL needs kafka.sasl_password"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL"}, "does not use kafka.sasl_mechanism"),
        ({"KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "does not use kafka.ssl_cafile"),
        ({"KAFKA__SSL_KEYFILE": "/x.key"}, "kafka.ssl_keyfile=/x.key: a key needs its certificate"),
        ({"KAFKA__SSL_CERTFILE": "/nowhere.pem"}, "kafka.ssl_certfile=/nowhere.pem: No such file"),
        ({"KAFKA__SSL_CERTFILE": __file__}, "a certificate and its unencrypted key in PEM form"),
    ],
)
def test_settings_that_do_not_fit_together(
    stream: Stream, secure_kafka: SecureKafka, other: dict[str, str], expected: str
) -> None:
    assert expected in why(kafka_settings(stream, secure_kafka, **other))


def test_keys_that_cannot_be_used_are_not_asked_about_on_a_terminal(
    stream: Stream, secure_kafka: SecureKafka, certificates: Certificates
) -> None:
    for key in (certificates.locked_key, certificates.server):
        files = {"KAFKA__SSL_CERTFILE": str(certificates.client), "KAFKA__SSL_KEYFILE": str(key)}
        text = why(kafka_settings(stream, secure_kafka, **files))
        assert f"kafka.ssl_keyfile={key}: expected a certificate and its unencrypted key in PEM form" in text


# Kafka: rights that are missing --------------------------------------------------------------------------------------


def bindings(stream: Stream, principal: str, role: str = "worker") -> list[AclBinding]:
    """The rights of a role, as its own declaration has them, in the other library's words."""
    settings = KafkaSettings.model_validate(
        {"group_id": stream.prefix, **{f"{n}_topic": stream.topic(n) for n in ("images", "retry", "dead", "verdicts")}}
    )
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactional id": ResourceType.TRANSACTIONAL_ID,
        "cluster": ResourceType.BROKER,  # as it calls the cluster
    }
    return [
        AclBinding(
            kinds[right.kind],
            right.name,
            ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL,
            principal,
            "*",
            AclOperation[right.operation],
            AclPermissionType.ALLOW,
        )
        for right in declared_rights(settings, {role: principal}, "")
    ]


def grant(secure: SecureKafka, rights: list[AclBinding]) -> None:
    with AdminClient({"bootstrap.servers": secure.broker.bootstrap, "log_level": 0}) as admin:
        for future in admin.create_acls(rights).values():
            future.result()


@pytest.fixture
def clerk(secure_kafka: SecureKafka) -> Iterator[str]:
    """A user without any rights, before and afterwards."""
    yield "clerk"
    anything: Any = None
    every = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        "User:clerk",
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    with AdminClient({"bootstrap.servers": secure_kafka.broker.bootstrap, "log_level": 0}) as admin:
        for future in admin.delete_acls([every]).values():
            future.result()


RIGHTS = [
    (ResourceType.TOPIC, "images", "READ", "kafka.images_topic"),
    (ResourceType.TOPIC, "retry", "READ", "kafka.retry_topic"),
    (ResourceType.TOPIC, "retry", "WRITE", "kafka.retry_topic"),
    (ResourceType.TOPIC, "dead", "WRITE", "kafka.dead_topic"),
    (ResourceType.TOPIC, "verdicts", "WRITE", "kafka.verdicts_topic"),
]


def without(stream: Stream, kind: ResourceType, ending: str, operation: str) -> list[AclBinding]:
    """All rights but one, and those that would imply its being seen."""
    return [
        right
        for right in bindings(stream, "User:clerk")
        if not (right.restype == kind and right.name.endswith(ending) and right.operation == AclOperation[operation])
    ]


def complaint(settings: KafkaSettings) -> str:
    """What a worker would say at its start; a broker knows of a right a moment after it was given."""
    try:
        check_topics(settings)
    except (BrokerUnreachable, KafkaTimeoutError) as error:  # and a busy machine may not answer in time
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "ending", "operation", "setting"), RIGHTS)
def test_a_topic_that_may_not_be_used(
    stream: Stream, secure_kafka: SecureKafka, clerk: str, kind: ResourceType, ending: str, operation: str, setting: str
) -> None:
    grant(secure_kafka, without(stream, kind, ending, operation))
    expected = f"{setting}={stream.topic(ending)}: no {operation}; an administrator can grant it"
    settings = kafka_settings(stream, secure_kafka, clerk)
    until(lambda: expected in complaint(settings), expected)


@pytest.mark.parametrize(
    ("kind", "ending", "operation", "expected"),
    [
        (ResourceType.TOPIC, "verdicts", "WRITE", "kafka.verdicts_topic={prefix}.verdicts: no WRITE"),
        (ResourceType.TRANSACTIONAL_ID, "-", "WRITE", "transactional ids that begin with kafka.group_id={prefix}"),
        (ResourceType.GROUP, "", "READ", "no right to read with the group kafka.group_id={prefix}"),
    ],
)
def test_a_worker_that_lacks_a_right(
    stream: Stream,
    bundle: Bundle,
    secure_kafka: SecureKafka,
    clerk: str,
    kind: ResourceType,
    ending: str,
    operation: str,
    expected: str,
) -> None:
    grant(secure_kafka, without(stream, kind, ending, operation))
    refused(
        environment(stream, bundle, secure_kafka, clerk),
        f"kafka.bootstrap_servers={secure_kafka.bootstrap()}",
        expected.format(prefix=stream.prefix),
        "genprint topics create --acls worker=User:clerk",
    )


def set_config(secure: SecureKafka, topic: str, **values: str) -> None:
    """Change settings of a topic; the names are Kafka's, with lines for dots."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in values.items()
    ]
    with AdminClient({"bootstrap.servers": secure.broker.bootstrap, "log_level": 0}) as admin:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()


def beginning(settings: KafkaSettings) -> tuple[list[Any], str]:
    """What a worker warns of at its start, and why it is refused, if it is."""
    refusal = ""
    with capture_logs() as logged, closing(KafkaBroker(settings, Metrics())) as broker:
        try:
            broker.start()
        except (BrokerError, KafkaTimeoutError) as error:
            refusal = str(error)
    return [line for line in logged if line["log_level"] not in ("info", "debug")], refusal


def test_the_least_rights_are_enough_to_check_the_settings_of_topics(secure_kafka: SecureKafka, clerk: str) -> None:
    stream = Stream(secure_kafka.broker.bootstrap)
    images, retry = stream.topic("images"), stream.topic("retry")
    set_config(secure_kafka, images, max_message_bytes="2000000", retention_ms="-1")
    set_config(secure_kafka, retry, max_message_bytes="1000000")
    grant(secure_kafka, bindings(stream, "User:clerk"))
    settings = kafka_settings(stream, secure_kafka, clerk)
    refusal = f"its max.message.bytes is 1000000, that of kafka.images_topic={images} 2000000"
    until(lambda: refusal in beginning(settings)[1], refusal)
    set_config(secure_kafka, retry, max_message_bytes="2000000")

    def warned() -> list[tuple[str, str, int]]:
        return [(line["topic"], line["records_kept_s"], line["offsets_kept_s"]) for line in beginning(settings)[0]]

    until(lambda: warned() == [(images, "for ever", 7 * 86400)], "a warning that offsets are forgotten first")


@pytest.mark.parametrize(
    ("kind", "unchecked"),
    [
        (ResourceType.TOPIC, "max.message.bytes, cleanup.policy, retention.ms of kafka.images_topic={images}"),
        (ResourceType.BROKER, "offsets.retention.minutes of the brokers"),
    ],
)
def test_settings_that_may_not_be_read_are_named_with_the_right_to_read_them(
    secure_kafka: SecureKafka, clerk: str, kind: ResourceType, unchecked: str
) -> None:
    stream = Stream(secure_kafka.broker.bootstrap)
    images = stream.topic("images")
    set_config(secure_kafka, images, retention_ms="-1")
    resource = "cluster kafka-cluster" if kind is ResourceType.BROKER else f"topic {images}"
    grant(secure_kafka, without(stream, kind, resource.split()[1], "DESCRIBE_CONFIGS"))
    settings = kafka_settings(stream, secure_kafka, clerk)
    until(lambda: not complaint(settings), "rights that count")
    [warning], refusal = beginning(settings)
    assert refusal == ""
    assert warning["missing"] == [f"DESCRIBE_CONFIGS on {resource}"]
    assert warning["unchecked"] == [unchecked.format(images=images)]
    assert "genprint topics create --acls worker=User:clerk" in warning["remedy"]


def test_a_worker_without_any_right(stream: Stream, secure_kafka: SecureKafka) -> None:
    with pytest.raises(BrokerUnreachable, match="no right to use") as caught:
        check_topics(kafka_settings(stream, secure_kafka, "stranger"))
    assert all(f"kafka.{name}_topic=" in str(caught.value) for name in ("images", "retry", "dead", "verdicts"))


def test_a_producer_without_the_right(stream: Stream, secure_kafka: SecureKafka, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_image(40))
    own = secure_kafka.settings("consumer", **names(stream), KAFKA__START_TIMEOUT_S=str(START_S))
    variables = clean_environment() | {f"GENPRINT_{name}": value for name, value in own.items()}
    result = worker_command("produce", str(tmp_path), environment=variables)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert f"kafka.images_topic={stream.topic('images')}" in result.stderr
    assert "4711" not in result.stderr


def test_the_guard_of_these_tests_sees_a_secret_and_a_second_line(bundle: Bundle) -> None:
    """``refused`` must fail for a message that gives a password away, and for one that is not there."""
    shown = clean_environment() | {"GENPRINT_BUNDLE": "/pass-of-worker-4711"}
    with pytest.raises(AssertionError, match="4711"):
        refused(shown)
    fine = clean_environment() | {"GENPRINT_BUNDLE": str(bundle.path), "GENPRINT_INFERENCE__DEVICE": "cpu"}
    with pytest.raises(AssertionError):
        refused(fine | {"GENPRINT_KAFKA__GROUP": "x"}, "kafka.ssl_cafile")


def test_a_replay_has_all_rights_that_it_needs(bundle: Bundle, secure_kafka: SecureKafka, clerk: str) -> None:
    stream = Stream(secure_kafka.broker.bootstrap)
    # More than answers may have: what has to be deferred must fit into the topic that the replay makes.
    set_config(secure_kafka, stream.topic("images"), max_message_bytes="13000000")
    grant(secure_kafka, bindings(stream, "User:clerk", "replay"))
    variables = environment(stream, bundle, secure_kafka, clerk)
    span = ("--run-id", "again", "--from", "earliest", "--to", "now")
    result = worker_command("replay", *span, environment=variables)
    assert result.returncode == 0, result.stderr
    assert "not checked" not in result.stderr
    assert result.stderr.splitlines()[-1] == "run again: every event of the span has its answer"
    live = worker_command("run", environment=variables)
    assert live.returncode == 2
    assert "kafka.retry_topic" in live.stderr


def test_a_scaler_sees_how_far_the_workers_are_and_no_event(
    stream: Stream, secure_kafka: SecureKafka, clerk: str
) -> None:
    grant(secure_kafka, bindings(stream, "User:clerk", "scaler"))
    partition = TopicPartition(stream.topic("images"), 0)
    options = secure_kafka.client(clerk, **{"group.id": stream.prefix, "enable.auto.commit": False})
    with Consumer(options) as consumer:
        assert [found.error for found in consumer.committed([partition], timeout=60)] == [None]
        assert consumer.get_watermark_offsets(partition, timeout=60)[1] >= 0
        consumer.assign([TopicPartition(stream.topic("images"), 0, 0)])
        message = consumer.poll(20)
        assert message is not None
        error = message.error()
        assert error is not None
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_right_that_is_taken_away_ends_a_worker_that_runs(
    stream: Stream, bundle: Bundle, secure_kafka: SecureKafka, clerk: str, tmp_path: Path
) -> None:
    rights = bindings(stream, "User:clerk")
    grant(secure_kafka, rights)
    worker = WorkerProcess(environment(stream, bundle, secure_kafka, clerk), tmp_path / "worker.log")
    with worker:
        taken = [right for right in rights if right.name == stream.topic("verdicts")]
        with AdminClient({"bootstrap.servers": secure_kafka.broker.bootstrap, "log_level": 0}) as admin:
            for future in admin.delete_acls([AclBindingFilter(*_fields(right)) for right in taken]).values():
                future.result()
        for number in range(8):
            stream.produce(encoded_image(40, seed=number), PNG)
        stream.flush()
        until(lambda: worker.exit_status is not None, "the end of the worker")
        assert worker.exit_status == 2
    last = worker.log_path.read_text().splitlines()[-1]
    assert last.startswith("genprint: ")
    assert "the broker denied access" in last


def _fields(right: AclBinding) -> tuple[Any, ...]:
    return (
        right.restype,
        right.name,
        right.resource_pattern_type,
        right.principal,
        right.host,
        right.operation,
        right.permission_type,
    )


# Redis ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator["Guarded"]:
    """Valkey behind TLS with client certificates, whose default user is off and whose worker may do two things."""
    with Valkey(tmp_path_factory.mktemp("guarded") / "valkey.log") as server:
        with redis.Redis.from_url(server.url) as admin:
            for name, rules in CACHE_USERS.items():
                admin.execute_command("ACL", "SETUSER", name, "on", f">{PASSWORD}", *rules.split())
            admin.execute_command("ACL", "SETUSER", "default", "off")
        c = certificates
        with (
            TlsFront(server.port, c.server, c.authority) as front,
            TlsFront(server.port, c.expired) as expired,
            TlsFront(server.port, c.misnamed) as misnamed,
        ):
            ports = {"front": front.port, "expired": expired.port, "misnamed": misnamed.port, "plain": server.port}
            yield Guarded(ports, c)


PASSWORD = "pass-of-cache-4711"
CACHE_USERS = {
    "worker": "resetchannels ~genprint:* -@all +mget +set",  # as docs/security.md has it
    "reader": "~genprint:* -@all +mget",
    "writer": "~genprint:* -@all +set",
    "elsewhere": "~other:* -@all +mget +set",
}


class Guarded:
    """Ways to it."""

    def __init__(self, ports: dict[str, int], certificates: Certificates) -> None:
        self.ports = ports
        self.certificates = certificates

    def settings(self, way: str = "front", **other: Any) -> RedisSettings:
        c = self.certificates
        values = {
            "url": f"rediss://127.0.0.1:{self.ports[way]}/0",
            "username": "worker",
            "password": PASSWORD,
            "ssl_cafile": c.authority,
            "ssl_certfile": c.client,
            "ssl_keyfile": c.client_key,
            "timeout_s": 2,
            "salt": uuid.uuid4().hex,
            **other,
        }
        return RedisSettings.model_validate({name: value for name, value in values.items() if value is not None})


def test_a_cache_behind_tls_and_access_control(guarded: Guarded, bundle: Bundle) -> None:
    metrics = Metrics()
    with closing(RedisCache(guarded.settings(), bundle, metrics)) as cache:
        cache.check()
        cache.put([(A, entry(1))])
        assert same(cache.get([A])[0], entry(1))
    assert not metrics.registry.get_sample_value("genprint_cache_total", {"result": "error"})


def test_user_and_password_may_be_in_the_address(guarded: Guarded, bundle: Bundle) -> None:
    url = f"rediss://worker:{PASSWORD}@127.0.0.1:{guarded.ports['front']}/0"
    RedisCache(guarded.settings(url=url, username=None, password=None), bundle, Metrics()).check()


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "password": ({"password": "wrong-4711"}, "refuses user worker with that password"),
    "user": ({"username": "nobody"}, "refuses user nobody with that password"),
    "nothing": ({"username": None, "password": None}, "refuses user default"),
    "reader": ({"username": "reader"}, "user reader lacks a right; it needs MGET and SET on the keys genprint:*"),
    "writer": ({"username": "writer"}, "user writer lacks a right"),
    "elsewhere": ({"username": "elsewhere"}, "user elsewhere lacks a right"),
    "authority": ({"ssl_cafile": "OTHER"}, "redis.ssl_cafile=OTHER does not vouch for the server's certificate"),
    "expired": ({"way": "expired"}, "the server's certificate has expired"),
    "misnamed": ({"way": "misnamed"}, "certificate is for another name"),
    "no certificate": ({"ssl_certfile": None, "ssl_keyfile": None}, "redis.ssl_certfile=(not set)"),
    "foreign": ({"ssl_certfile": "FOREIGN", "ssl_keyfile": None}, "redis.ssl_certfile=FOREIGN"),
    "no file": ({"ssl_cafile": "/nowhere/ca.pem"}, "redis.ssl_cafile=/nowhere/ca.pem: No such file or directory"),
    "twice": ({"url": "rediss://a:b-4711@127.0.0.1/0"}, "the user is in redis.url already"),
    "no tls": ({"url": "redis://127.0.0.1:1/0"}, "certificates need an address that begins with rediss://"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_cache_that_turns_us_away_stops_the_start(
    guarded: Guarded, bundle: Bundle, certificates: Certificates, name: str
) -> None:
    other, expected = REFUSALS[name]
    places = {"OTHER": str(certificates.other_authority), "FOREIGN": str(certificates.foreign_client)}
    settings = guarded.settings(**{key: places.get(value, value) for key, value in other.items()})
    for word, place in places.items():
        expected = expected.replace(word, place)
    with pytest.raises(StartupError, match=r"redis\.") as caught:
        RedisCache(settings, bundle, Metrics()).check()
    assert expected in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("name", ["password", "authority", "reader"])
def test_a_worker_says_so_in_one_line(guarded: Guarded, bundle: Bundle, certificates: Certificates, name: str) -> None:
    other, expected = REFUSALS[name]
    places = {"OTHER": str(certificates.other_authority)}
    settings = guarded.settings(**{key: places.get(value, value) for key, value in other.items()})
    assert settings.url is not None
    assert settings.password is not None
    variables = {
        "BUNDLE": bundle.path,
        "INFERENCE__DEVICE": "cpu",
        "HTTP__PORT": 0,
        "REDIS__URL": settings.url.get_secret_value(),
        "REDIS__USERNAME": settings.username,
        "REDIS__PASSWORD": settings.password.get_secret_value(),
        "REDIS__SSL_CAFILE": settings.ssl_cafile,
        "REDIS__SSL_CERTFILE": settings.ssl_certfile,
        "REDIS__SSL_KEYFILE": settings.ssl_keyfile,
    }
    refused(
        clean_environment() | {f"GENPRINT_{name}": str(value) for name, value in variables.items()},
        "setting redis.url: ",
        expected.replace("OTHER", places["OTHER"]),
        "without redis.url a worker serves without a cache",
    )


@pytest.mark.parametrize("trouble", ["nobody", "frozen", "TLS there", "no host"])
def test_a_cache_that_is_away_is_served_without(guarded: Guarded, bundle: Bundle, valkey: Valkey, trouble: str) -> None:
    """Also one that hangs up: a proxy does that when its server is gone, and it will pass."""
    url = {
        "nobody": f"redis://127.0.0.1:{free_port()}/0",
        "frozen": valkey.url,
        "TLS there": f"redis://127.0.0.1:{guarded.ports['front']}/0",
        "no host": "redis://nowhere.invalid:6379/0",
    }[trouble]
    cache = RedisCache(RedisSettings.model_validate({"url": url}), bundle, Metrics())
    if trouble == "frozen":
        valkey.pause()
    began = time.monotonic()
    try:
        cache.check()
        assert cache.get([A]) == [None]
    finally:
        valkey.resume()
        cache.close()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", ["password", "reader", "authority", "expired", "no certificate"])
def test_at_run_time_a_cache_that_turns_us_away_is_a_miss(guarded: Guarded, bundle: Bundle, name: str) -> None:
    other = dict(REFUSALS[name][0])
    if "ssl_cafile" in other:
        other["ssl_cafile"] = guarded.certificates.other_authority
    with closing(RedisCache(guarded.settings(**other), bundle, Metrics())) as cache:
        cache.put([(A, entry(1))])
        assert cache.get([A]) == [None]
