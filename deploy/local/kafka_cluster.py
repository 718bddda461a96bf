"""Apache Kafka as a cluster: three nodes in three Java processes, each with a copy of everything."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local.apache_kafka import ApacheKafka, new_cluster_id
from deploy.local.broker import serves_kafka
from deploy.local.errors import StartError
from deploy.local.kafka_settings import Member
from deploy.local.ports import free_port

_NODES = 3
_START_TIMEOUT_S = 240
_POLL_INTERVAL_S = 0.1


class KafkaCluster:
    """Three nodes, of which two must have a record; one may be killed, paused or restarted at a time."""

    replication: Final = _NODES
    """Copies that its topics have."""

    def __init__(self, nodes: Mapping[int, ApacheKafka]) -> None:
        self.nodes = nodes
        """By the numbers that clients know them by."""
        self.bootstrap = ",".join(node.bootstrap for node in nodes.values())

    def is_complete(self) -> bool:
        """Whether every node serves and every partition has all its copies; looked at quickly.

        A node that was killed is still in the others' metadata for a while: it does not serve before these have noticed
        and have taken it in again.
        """
        try:
            if not all(serves_kafka(node.port) for node in self.nodes.values()):
                return False
            with AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}) as admin:
                found = admin.list_topics(timeout=5)
        except (KafkaException, OSError):
            return False
        partitions = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
        return len(found.brokers) == _NODES and all(set(part.isrs) == set(part.replicas) for part in partitions)


@contextmanager
def running_cluster(log_dir: Path, name: str) -> Iterator[KafkaCluster]:
    """Start a cluster, and end it with the block; its data are removed. It takes about 1 GB.

    Args:
        log_dir: Receives the nodes' output, as `kafka-NAME-N.log`.
        name: Of the cluster.

    Raises:
        StartError: The nodes did not find each other.
        UnavailableError: This machine lacks what they need.
    """
    ports, cluster_id = tuple(free_port() for _ in range(_NODES)), new_cluster_id()
    cluster = KafkaCluster(
        {
            number: ApacheKafka(log_dir / f"kafka-{name}-{number}.log", member=Member(number, cluster_id, ports))
            for number in range(1, _NODES + 1)
        }
    )
    with ExitStack() as stack:
        for node in cluster.nodes.values():
            stack.enter_context(node)
            stack.callback(node.kill)  # nobody needs what it would put in order, and the last one could not
        _wait_until_complete(cluster)
        yield cluster


def _wait_until_complete(cluster: KafkaCluster) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not cluster.is_complete():
        for node in cluster.nodes.values():
            node.require_running()
        if time.monotonic() > deadline:
            raise StartError(f"Apache Kafka's cluster is not complete after {_START_TIMEOUT_S} s")
        time.sleep(_POLL_INTERVAL_S)
