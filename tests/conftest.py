"""Servers that the tests share: each is started once, by the first test that asks for it."""

import os
from collections.abc import Iterator

import pytest

from deploy.local.apache_kafka import ApacheKafka, unavailable_reason
from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.valkey import Valkey
from tests.fixtures_bundle import tiny_bundle, tiny_checkpoint, tiny_checkpoint_path, tiny_data
from tests.open_sockets import no_socket_is_left, pytest_fixture_setup

__all__ = [  # fixtures and a hook, found by their names here
    "no_socket_is_left",
    "pytest_fixture_setup",
    "tiny_bundle",
    "tiny_checkpoint",
    "tiny_checkpoint_path",
    "tiny_data",
]


def _require_apache_kafka() -> None:
    """Skip where it cannot run; in CI fail, because there a skipped test looks like one that passed."""
    reason = unavailable_reason()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_apache_kafka() -> None:
    """For tests that start an Apache Kafka of their own, to kill it."""
    _require_apache_kafka()


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Apache Kafka, shared: leave it running, and use topics and groups of your own."""
    _require_apache_kafka()
    with ApacheKafka(tmp_path_factory.mktemp("apache") / "kafka.log") as broker:
        yield broker


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The in-memory broker, shared: use topics and groups of your own."""
    with EmbeddedBroker(tmp_path_factory.mktemp("embedded") / "broker.log") as broker:
        yield broker


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A cache, shared: use keys of your own, or flush it."""
    with Valkey(tmp_path_factory.mktemp("valkey") / "valkey.log") as server:
        yield server
