"""The settings of a node of Apache Kafka on loopback, and of its controller alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.kafka_security import KafkaSecurity
from deploy.local.ports import LOOPBACK

MAX_MESSAGE_BYTES = 12 * 1024 * 1024


@dataclass(frozen=True)
class Member:
    """One of several nodes that have a copy of everything each, of which all but one must have a record."""

    node_id: int
    """From 1 on."""
    cluster_id: str
    controller_ports: tuple[int, ...]
    """Of all nodes."""

    @property
    def controller_port(self) -> int:
        """That of this node."""
        return self.controller_ports[self.node_id - 1]

    @property
    def settings(self) -> dict[str, object]:
        """Which nodes there are, and what that means for copies."""
        voters = (f"{number}@{LOOPBACK}:{port}" for number, port in enumerate(self.controller_ports, 1))
        copies = len(self.controller_ports)
        topics = ("offsets.topic.", "transaction.state.log.", "share.coordinator.state.topic.", "default.")
        return {
            "node.id": self.node_id,
            "controller.quorum.voters": ",".join(voters),
            **{f"{topic}replication.factor": copies for topic in topics},
            "transaction.state.log.min.isr": copies - 1,
            "share.coordinator.state.topic.min.isr": copies - 1,
            "min.insync.replicas": copies - 1,
            "broker.session.timeout.ms": 6_000,
            "broker.heartbeat.interval.ms": 1_000,
        }


@dataclass(frozen=True)
class KafkaSettings:
    """A node: broker and controller in one process. Unless it is a member of several it has the only copy of all."""

    directory: Path
    port: int
    controller_port: int
    proxied_port: int
    """Where it listens for whoever stands between it and its clients."""
    proxy_port: int
    """Where clients that come from there are told to find it."""
    security: KafkaSecurity | None = None
    member: Member | None = None

    @property
    def node_file(self) -> Path:
        """Settings of the whole node."""
        return self.directory / "node.properties"

    @property
    def controller_file(self) -> Path:
        """Settings of its controller alone."""
        return self.directory / "controller.properties"

    @property
    def clean_shutdown_mark(self) -> Path:
        """Kafka leaves this file when it ends in order, and removes it when it starts."""
        return self._data / ".kafka_cleanshutdown"

    @property
    def metadata_log_dir(self) -> Path:
        """The log of what the controller has decided."""
        return self._data / "__cluster_metadata-0"

    def write(self) -> None:
        """Write both files of settings."""
        _write(self.node_file, self._common | self._broker | (self.member.settings if self.member else {}))
        _write(self.controller_file, self._common | self._controller_alone)

    @property
    def _data(self) -> Path:
        return self.directory / "log"

    @property
    def _common(self) -> dict[str, object]:
        return {
            "node.id": 1,
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{self.controller_port}",
            "log.dirs": self._data,
        }

    @property
    def _controller_alone(self) -> dict[str, object]:
        return {
            "process.roles": "controller",
            "listeners": f"CONTROLLER://{LOOPBACK}:{self.controller_port}",
            # See kafka_recovery.
            "broker.session.timeout.ms": 500,
            "metadata.max.idle.interval.ms": 50,
        }

    @property
    def _broker(self) -> dict[str, object]:
        security = self.security
        secure = f",{security.addresses}" if security else ""
        return {
            "process.roles": "broker,controller",
            "listeners": (
                f"PLAINTEXT://{LOOPBACK}:{self.port},PROXIED://{LOOPBACK}:{self.proxied_port},"
                f"CONTROLLER://{LOOPBACK}:{self.controller_port}{secure}"
            ),
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},PROXIED://{LOOPBACK}:{self.proxy_port}{secure}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
                f"{f',{security.protocols}' if security else ''}"
            ),
            **(security.settings if security else {}),
            # There is no other broker to take over from one that is paused or slow, and fencing it is not harmless: see
            # kafka_recovery.
            "broker.session.timeout.ms": 60_000,
            "auto.create.topics.enable": "false",
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Fewer files, and less to recover after a kill, than with 50 partitions each.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.num.partitions": 1,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
        }


def _write(path: Path, settings: Mapping[str, object]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
