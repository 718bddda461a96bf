"""Every class of kafka-python's errors has a meaning: publish again, or end."""

import logging
from inspect import getmembers, isclass
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import errors

from worker.errors import BrokerError, BrokerUnreachable, Disposition, Fenced, MessageRefused, PublishAborted
from worker.kafka.client import KafkaBroker
from worker.kafka.connection import start_error
from worker.kafka.producers import publish_error
from worker.operations.metrics import Metrics
from worker.settings import KafkaSettings

CLASSES: dict[str, Any] = {name: c for name, c in getmembers(errors, isclass) if issubclass(c, errors.KafkaError)}
SETTINGS = KafkaSettings(bootstrap_servers="broker.example:9092")

ACCESS_DENIED = {
    "AuthorizationError",
    "ClusterAuthorizationFailedError",
    "DelegationTokenAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "SaslAuthenticationFailedError",
    "TopicAuthorizationFailedError",
    "TransactionalIdAuthorizationFailedError",
    "UnsupportedSaslMechanismError",
}
FENCED = {"FencedInstanceIdError", "InvalidProducerEpochError", "ProducerFencedError", "UnknownMemberIdError"}
# These sound like one of the above and concern others: leaders, brokers, share groups, KIP-848 members, the
# coordinator itself (after which the abort fails, and that ends the process).
OTHERS = {
    "DelegationTokenAuthDisabledError",
    "FencedLeaderEpochError",
    "FencedMemberEpochError",
    "FencedStateEpochError",
    "IllegalSaslStateError",
    "TransactionCoordinatorFencedError",
}


def made(name: str) -> Exception:
    cls = CLASSES[name]
    error: Exception = cls({}) if name == "LogTruncationError" else cls("why")
    return error


def test_there_are_classes_and_all_names_are_known() -> None:
    assert len(CLASSES) > 100
    assert CLASSES.keys() >= ACCESS_DENIED | FENCED | OTHERS


@pytest.mark.parametrize("name", CLASSES)
def test_publication(name: str) -> None:
    found = publish_error(made(name))
    if name in ACCESS_DENIED:
        assert type(found) is BrokerUnreachable
    elif name in FENCED:
        assert type(found) is Fenced
    else:
        assert type(found) is PublishAborted
        sounds = any(word in name for word in ("Fenced", "Auth", "Sasl"))
        assert not sounds or name in OTHERS, "decide what this class of a newer kafka-python means"
    crash = name in ACCESS_DENIED | FENCED
    assert found.disposition is (Disposition.CRASH if crash else Disposition.RETRY)
    assert "why" in str(found) or name == "LogTruncationError"


@pytest.mark.parametrize("name", CLASSES)
def test_start(name: str) -> None:
    found = start_error(made(name), SETTINGS)
    assert type(found) is BrokerUnreachable
    assert "kafka.bootstrap_servers=broker.example:9092" in str(found)
    assert ("denied access" in str(found)) is (name in ACCESS_DENIED)


def test_a_commit_that_a_zombie_tries_is_fenced() -> None:
    assert isinstance(publish_error(errors.CommitFailedError("UnknownMemberIdError")), Fenced)


@pytest.mark.parametrize("error", [MessageRefused([], "large"), PublishAborted("x"), Fenced("x")])
def test_our_own_errors_stay_what_they_are(error: BrokerError) -> None:
    assert publish_error(error) is error


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x")])
def test_what_the_client_raises_besides_is_an_abort(error: Exception) -> None:
    assert type(publish_error(error)) is PublishAborted


def test_a_client_that_is_closed_has_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """kafka-python aborts connections and requests under way, and would log that as errors."""
    log = logging.getLogger("kafka.net.transport")
    broker = KafkaBroker(SETTINGS, Metrics())
    broker._consumer = Mock()
    broker._consumer.close.side_effect = lambda **_: log.error("Abort (KafkaConnectionError)")
    broker.close()
    assert not caplog.records
    log.error("afterwards")
    assert [record.message for record in caplog.records] == ["afterwards"]
