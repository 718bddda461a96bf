"""The conformance suite of `LocalBroker`, run over both brokers."""

import uuid

import pytest
from confluent_kafka import Consumer, Producer

from deploy.local.broker import LocalBroker, serves_kafka
from deploy.local.topics import create_topics

pytestmark = pytest.mark.integration

DEADLINE_S = 90.0


@pytest.fixture(params=["embedded_broker", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> LocalBroker:
    started: LocalBroker = request.getfixturevalue(request.param)
    return started


@pytest.fixture
def topic(broker: LocalBroker) -> str:
    name = f"topic-{uuid.uuid4().hex}"
    create_topics(broker.bootstrap, {name: 1})
    return name


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    with Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "message.max.bytes": 2 * len(value) + 1000}
    ) as producer:
        failures: list[object] = []
        producer.produce(topic, value, on_delivery=lambda error, _message: failures.append(error))
        assert producer.flush(DEADLINE_S) == 0
        assert failures == [None]


def consume_one(bootstrap: str, topic: str) -> bytes | None:
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": f"group-{topic}",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 3000,
        "heartbeat.interval.ms": 500,
        "isolation.level": "read_committed",
    }
    with Consumer(settings) as consumer:
        consumer.subscribe([topic])
        message = consumer.poll(DEADLINE_S)
        assert message is not None
        assert message.error() is None
        value: bytes | None = message.value()
        return value


def test_it_serves(broker: LocalBroker) -> None:
    host, port = broker.bootstrap.split(":")
    assert host == "127.0.0.1"
    assert serves_kafka(int(port))
    assert broker.pid is not None


def test_what_is_produced_is_consumed(broker: LocalBroker, topic: str) -> None:
    produce(broker.bootstrap, topic, b"an image")
    assert consume_one(broker.bootstrap, topic) == b"an image"


def test_a_message_of_ten_megabytes_passes(broker: LocalBroker, topic: str) -> None:
    value = bytes(range(256)) * (10 * 1024 * 4)
    produce(broker.bootstrap, topic, value)
    assert consume_one(broker.bootstrap, topic) == value
