"""What a client has opened is closed with it, whatever it was doing."""

import socket
import threading
from collections.abc import Iterator

import pytest
import structlog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.topics import create_topics
from tests.open_sockets import open_sockets
from worker.kafka.closing import ClosingConnections, _Client, close_consumer, close_producer, opened

NODE = "bootstrap-0"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


def left_by(client: _Client, steps: int) -> int:
    """How many sockets are left when it is closed so many steps of its loop after it was told to connect."""
    client.maybe_connect(NODE)
    for _ in range(steps):
        client.poll(timeout_ms=0)
    client.close()
    return len(open_sockets())


@pytest.mark.parametrize("steps", range(6))
def test_a_client_that_is_closed_while_it_connects(silent: str, steps: int) -> None:
    before = len(open_sockets())
    client = _Client(bootstrap_servers=silent)
    assert left_by(client, steps) == before  # a socket that was merely dropped would be a ResourceWarning


def test_a_connection_that_cannot_be_made_is_closed_at_once() -> None:
    assert_attempt_leaves_nothing(f"{LOOPBACK}:{free_port()}")


def assert_attempt_leaves_nothing(server: str) -> None:
    """Connecting to this server fails, and closes its socket at once."""
    client = _Client(bootstrap_servers=server)
    before = open_sockets()
    client.maybe_connect(NODE)
    with pytest.raises(errors.KafkaConnectionError):
        client.await_ready(NODE)
    assert open_sockets() == before
    client.close()


@pytest.mark.integration
def test_a_client_that_is_closed_while_it_sends(embedded_broker: EmbeddedBroker) -> None:
    before = open_sockets()
    client = _Client(bootstrap_servers=embedded_broker.bootstrap)
    client.await_ready(NODE)
    client.send(NODE, client.cluster.metadata_request())
    client.close()
    assert open_sockets() == before  # kafka-python's own client would leave the connection, and still hold it


def test_a_client_that_is_never_made(silent: str) -> None:
    before, threads = open_sockets(), threading.active_count()
    with pytest.raises(errors.KafkaTimeoutError):
        opened(KafkaAdminClient, bootstrap_servers=silent, bootstrap_timeout_ms=100)
    assert open_sockets() == before
    assert threading.active_count() == threads


@pytest.mark.integration
def test_a_producer_that_cannot_send_what_it_holds(embedded_broker: EmbeddedBroker) -> None:
    create_topics(embedded_broker.bootstrap, {"closing": 1})
    before, threads = open_sockets(), threading.active_count()
    producer = opened(KafkaProducer, bootstrap_servers=embedded_broker.bootstrap)
    producer._accumulator.muted.add(TopicPartition("closing", 0))  # as while another batch of it is under way
    future = producer.send("closing", b"x")
    with structlog.testing.capture_logs() as logs:
        close_producer(producer, 0.1)
    assert [entry["event"] for entry in logs] == ["producer closed with records unsent"]
    assert future.failed()
    assert open_sockets() == before
    assert threading.active_count() == threads


@pytest.mark.integration
def test_a_consumer_that_cannot_leave_its_group(
    embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, threads = open_sockets(), threading.active_count()
    consumer = opened(KafkaConsumer, bootstrap_servers=embedded_broker.bootstrap, group_id="closing")
    consumer.topics()

    def fails(**_: object) -> None:
        raise RuntimeError("the loop has crashed")

    monkeypatch.setattr(consumer._coordinator, "close", fails)
    with pytest.raises(RuntimeError, match="the loop has crashed"):
        close_consumer(consumer)
    assert open_sockets() == before
    assert threading.active_count() == threads


@pytest.mark.integration
def test_a_consumer_is_closed_once(embedded_broker: EmbeddedBroker) -> None:
    before, threads = open_sockets(), threading.active_count()
    consumer = opened(KafkaConsumer, bootstrap_servers=embedded_broker.bootstrap, group_id="closing")
    consumer.topics()
    close_consumer(consumer)
    close_consumer(consumer)
    assert open_sockets() == before
    assert threading.active_count() == threads


def test_a_connection_that_cannot_be_wrapped_in_tls(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such server name")

    monkeypatch.setattr(ClosingConnections, "transport", fails)
    assert_attempt_leaves_nothing(silent)


def test_the_error_of_a_constructor_is_the_one_that_is_raised(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[_Client] = []

    def fails(self: _Client, *_: object) -> None:
        closed.append(self)
        raise RuntimeError("cannot be closed either")

    with monkeypatch.context() as patched:
        patched.setattr(_Client, "close", fails)
        with pytest.raises(errors.KafkaTimeoutError):
            opened(KafkaAdminClient, bootstrap_servers=silent, bootstrap_timeout_ms=100)
    for client in closed[:1]:
        client.close()
