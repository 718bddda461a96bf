"""Clients of kafka-python that leave no connection and no thread behind when they are closed.

What kafka-python (3.0.12) leaves open, until the garbage collector finds it:

1. a connection that has bytes to send when its client is closed. It is to be closed when they are sent, and then the
   loop that would send them is ended;
2. a connection that is being made when its client is closed, or that cannot be made: its socket is dropped;
3. everything, where a constructor raises: nobody has the client that could be closed;
4. everything, where a producer cannot send what it holds: ``KafkaProducer.close`` waits for that first, and raises.

Besides, a client closes its connections while its own thread is still at work with them.
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket, create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

C = TypeVar("C")

_DIRECT = "direct"
_SENDER_ENDS_S = 1.0


def opened(kind: Callable[..., C], **options: Any) -> C:
    """A consumer, producer or admin client that closes what it opens, also where its constructor raises."""
    made: list[_Client] = []

    def client(**configs: Any) -> _Client:
        made.append(_Client(**configs))
        return made[-1]

    try:
        return kind(**options, kafka_client=client)
    except BaseException:
        for one in made:
            one.close()
        raise


def close_producer(producer: Any, timeout_s: float) -> None:
    """Close a ``KafkaProducer``.

    Raises:
        KafkaError: something was not sent in time and is given up; the producer is closed all the same.
    """
    try:
        producer.close(timeout=timeout_s)
    finally:
        # It has ended, but where something is not sent. Its thread closes its connections.
        sender = producer._sender  # noqa: SLF001 - there is no public way
        if sender.is_alive():
            sender.force_close()
            sender.join(_SENDER_ENDS_S)


class Loop(NetworkSelector):  # type: ignore[misc]
    """An event loop that closes the sockets it has waited for, all that it was used with."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self._waited_for: WeakSet[socket.socket] = WeakSet()

    def register_event(self, fileobj: Any, event: int, task: Any) -> None:
        """Before each waiting; also for a socket that nobody else holds yet."""
        self._waited_for.add(fileobj)
        super().register_event(fileobj, event, task)

    def close(self) -> None:
        """End the loop; may be called again."""
        try:
            super().close()
        finally:
            for sock in list(self._waited_for):
                sock.close()


class Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Closes at once what comes to nothing."""

    def transport(self, sock: socket.socket, host: str) -> Any:
        """What speaks over a socket."""
        if self.ssl_enabled:
            return KafkaSSLTransport(self._net, sock, host=host, ssl_context=self.config["ssl_context"])
        return KafkaTCPTransport(self._net, sock, host=host)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        options = self.config["socket_options"]
        sock = await create_connection(
            self._net, node.host, node.port, options, proxy_url=f"{_DIRECT}:", timeout_at=timeout_at
        )
        transport = self.transport(sock, node.host)
        with contextlib.ExitStack() as stack:
            stack.callback(transport.close)
            try:
                await transport.handshake()
            except OSError as error:
                raise errors.KafkaConnectionError(f"Handshake failed: {error}") from error
            stack.pop_all()
        return transport


class _Client(KafkaNetClient):  # type: ignore[misc]
    """What a consumer, a producer and an admin client have in common."""

    def __init__(self, **configs: Any) -> None:
        self._loop = Loop(**configs)
        super().__init__(self._loop, Manager(self._loop, **configs), **configs)

    def close(self, node_id: Any = None) -> None:
        if node_id is not None:
            super().close(node_id)
            return
        self._loop.stop()  # its thread, if it has one, uses the connections; without it the rest runs on this thread
        try:
            super().close()
        finally:
            self._loop.close()


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc]
    """Connects without a proxy. Subclasses are kafka-python's way to connect otherwise, found by an address' scheme."""

    SCHEMES = (_DIRECT,)

    async def sock_connect(
        self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None
    ) -> socket.socket:
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
            stack.pop_all()
        return sock
