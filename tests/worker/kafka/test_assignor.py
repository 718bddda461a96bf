"""Assignment: each of any number of workers gets its share of the images and of the retries."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

from worker.kafka.assignor import PerTopicAssignor

TOPICS = {"images": 4, "images.retry": 4}


class Cluster:
    def topics(self) -> set[str]:
        return set(TOPICS)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(TOPICS[topic])) if topic in TOPICS else None


def member(name: str, owned: dict[str, list[int]]) -> Any:
    parts = [ConsumerProtocolSubscription.TopicPartition(topic=t, partitions=p) for t, p in owned.items()]
    metadata = ConsumerProtocolSubscription(version=1, topics=list(TOPICS), user_data=b"", owned_partitions=parts)
    return SimpleNamespace(member_id=name, metadata=metadata)


def rounds(owned: dict[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
    """The two rounds of a cooperative rebalance: partitions are revoked in the first and assigned in the second."""
    for _ in range(2):
        found = PerTopicAssignor().assign(Cluster(), [member(name, has) for name, has in owned.items()])
        owned = {
            name: {
                part.topic if hasattr(part, "topic") else part[0]: list(
                    part.partitions if hasattr(part, "topic") else part[1]
                )
                for part in a.assigned_partitions
            }
            for name, a in found.items()
        }
    return owned


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("first_has_all", [False, True])
def test_every_topic_is_dealt_out_evenly(workers: int, first_has_all: bool) -> None:
    everything = {topic: list(range(count)) for topic, count in TOPICS.items()}
    names = "abcd"[:workers]
    dealt = rounds({name: everything if first_has_all and name == "a" else {} for name in names})
    for topic, count in TOPICS.items():
        shares = [dealt[name].get(topic, []) for name in names]
        assert sorted(partition for share in shares for partition in share) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
