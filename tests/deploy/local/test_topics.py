import uuid

import pytest
from confluent_kafka.admin import AdminClient

from deploy.local.broker import LocalBroker
from deploy.local.errors import TopicError
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.topics import create_topics

pytestmark = pytest.mark.integration


@pytest.fixture(params=["embedded_broker", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> LocalBroker:
    started: LocalBroker = request.getfixturevalue(request.param)
    return started


def partitions(broker: LocalBroker, topic: str) -> int:
    with AdminClient({"bootstrap.servers": broker.bootstrap}) as admin:
        return len(admin.list_topics(timeout=60).topics[topic].partitions)


def test_topics_have_the_partitions_asked_for(broker: LocalBroker) -> None:
    few, many = uuid.uuid4().hex, uuid.uuid4().hex
    create_topics(broker.bootstrap, {few: 1, many: 6})
    assert partitions(broker, few) == 1
    assert partitions(broker, many) == 6


def test_a_topic_that_exists_is_left_as_it_is(broker: LocalBroker) -> None:
    old, new = uuid.uuid4().hex, uuid.uuid4().hex
    create_topics(broker.bootstrap, {old: 2})
    create_topics(broker.bootstrap, {old: 5, new: 3})
    assert partitions(broker, old) == 2
    assert partitions(broker, new) == 3


def test_a_refusal_names_the_topic_and_the_reason(apache_kafka: LocalBroker) -> None:
    with pytest.raises(TopicError, match=r"'no/such/name'.*invalid"):
        create_topics(apache_kafka.bootstrap, {"no/such/name": 1})


def test_settings_reach_the_broker(apache_kafka: LocalBroker) -> None:
    with pytest.raises(TopicError, match=r"retention\.ms"):
        create_topics(apache_kafka.bootstrap, {uuid.uuid4().hex: 1}, config={"retention.ms": "for ever"})


def test_an_absent_broker_is_an_error_in_time() -> None:
    with pytest.raises(TopicError, match="was not created"):
        create_topics(f"{LOOPBACK}:{free_port()}", {"images": 1}, timeout_s=0.5)
