"""What the two brokers have in common: their protocol, and the question that tells whether one is up."""

import socket
import struct
from types import TracebackType
from typing import Protocol, Self

from deploy.local.ports import LOOPBACK

_PROBE_TIMEOUT_S = 1.0
_METADATA, _METADATA_VERSION = 3, 1
_ANSWER_HEAD = struct.Struct(">iii")  # size, correlation id, number of brokers


class LocalBroker(Protocol):
    """A Kafka broker on loopback. Built without starting; `start` returns when it serves."""

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients, known before the start and unchanged by a restart."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""

    def start(self) -> None:
        """Start and wait until it serves."""

    def stop(self) -> None:
        """Stop, and forget all topics and records."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def serves_kafka(port: int) -> bool:
    """Ask for the cluster's metadata; true when the answer lists a broker.

    An open port is not enough: Apache Kafka listens before it processes requests. Spoken by hand because a client
    library retries and logs on its own.

    Raises:
        OSError: Nothing listens, or no answer comes in time.
    """
    correlation_id, no_client_id, no_topics = 0, -1, 0
    request = struct.pack(">hhihi", _METADATA, _METADATA_VERSION, correlation_id, no_client_id, no_topics)
    with (
        socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_S) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        head = stream.read(_ANSWER_HEAD.size)
    if len(head) < _ANSWER_HEAD.size:  # it hung up
        return False
    _, _, brokers = _ANSWER_HEAD.unpack(head)
    return bool(brokers > 0)
