"""Assignment of partitions to workers, topic by topic.

kafka-python's cooperative-sticky assignor (3.0.12) only evens out the number of partitions: of two workers one may get
all of ``images`` and the other all of ``images.retry``, where there is next to nothing to do.
"""

from types import SimpleNamespace
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

_STARTED = (-1).to_bytes(4, signed=True)
"""Where Java's members have their generation, and -1 if they know of none."""


class PerTopicAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Cooperative-sticky assignment, topic by topic, under the same protocol name, so that a group may have both.

    A member says whether it has had an assignment since its start: one that joins again after the first one says
    something new, which makes the broker ask all members (see ``KafkaBroker._rejoin``).
    """

    _has_started = False

    def metadata(self, topics: Any) -> Any:
        """What the member says when it joins."""
        said = super().metadata(topics)
        return ConsumerProtocolSubscription(
            version=said.version,
            topics=said.topics,
            user_data=_STARTED if self._has_started else b"",
            owned_partitions=said.owned_partitions,
        )

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Take note of an assignment."""
        super().on_assignment(assignment, generation)
        self._has_started = True

    def assign(self, cluster: Any, members: Any) -> dict[str, Any]:
        """Partitions of every member, in the base class's form."""
        assigned: dict[str, dict[str, list[int]]] = {member.member_id: {} for member in members}
        for topic in sorted({topic for member in members for topic in member.metadata.topics}):
            subscribers = [
                SimpleNamespace(member_id=member.member_id, metadata=_only(member.metadata, topic))
                for member in members
                if topic in member.metadata.topics
            ]
            for member_id, assignment in super().assign(cluster, subscribers).items():
                for name, partitions in map(_topic_and_partitions, assignment.assigned_partitions):
                    assigned[member_id][name] = list(partitions)
        return {
            member_id: ConsumerProtocolAssignment(self.version, sorted(topics.items()), b"")
            for member_id, topics in assigned.items()
        }


def _only(subscription: Any, topic: str) -> Any:
    owned = [part for part in subscription.owned_partitions or () if part.topic == topic]
    return ConsumerProtocolSubscription(
        version=subscription.version, topics=[topic], user_data=b"", owned_partitions=owned
    )


def _topic_and_partitions(part: Any) -> tuple[str, list[int]]:
    return (part.topic, part.partitions) if hasattr(part, "topic") else (part[0], part[1])
