"""What only a real broker can show about ``worker.kafka``."""

import pytest

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.topics import create_topics
from tests.worker.edges import KafkaEdge, until
from worker.broker import Message, Partition, Progress
from worker.errors import MessageTooLarge

pytestmark = pytest.mark.integration


def test_a_topic_that_takes_less_than_the_client_lowers_the_limit(apache_kafka: ApacheKafka) -> None:
    edge = KafkaEdge(apache_kafka.bootstrap, atomic=True, rebalances=True)
    small = f"{edge.settings.dead_topic}.small"
    create_topics(apache_kafka.bootstrap, {small: 1}, config={"max.message.bytes": "50000"})
    broker = edge.broker(edge.settings.model_copy(update={"dead_topic": small}))
    broker.start()
    try:
        assert broker.max_message_bytes == 50_000
        until(lambda: not broker.poll(0.05) and len(broker.owned()) == 4, "all partitions owned")
        where = Partition(edge.settings.images_topic, 0)
        sizes = (60_000, 40_000, 40_000, 40_000)
        letters = tuple(Message(small, None, bytes(size), ()) for size in sizes)
        with pytest.raises(MessageTooLarge):
            broker.publish([Progress(where, broker.owned()[where], 0, letters)])
        broker.publish([Progress(where, broker.owned()[where], 0, letters[1:])])
    finally:
        broker.close()
