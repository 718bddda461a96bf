"""Clients of kafka-python that leave no connection and no thread behind when they are closed.

kafka-python (3.0.12) leaves open, until the garbage collector finds it:

1. A connection that has bytes to send when its client is closed. It would be closed once they are sent, but the loop
   that would send them is ended first.
2. The socket of a connection that is still being made when its client is closed, or that cannot be made.
3. All connections of a client whose constructor raises, since nobody gets the client that could be closed.
4. All connections of a producer that cannot send what it holds, and of a consumer that cannot leave its group:
   ``close`` raises before it comes to them.

Besides, a client closes its connections while its own thread is still using them.
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

import structlog
from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket, create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

_log = structlog.get_logger(__name__)

C = TypeVar("C")

_DIRECT = "direct"
_SENDER_ENDS_S = 1.0
"""Time for a producer's thread to end, once it is told to drop what it holds."""


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
            with contextlib.suppress(Exception):  # the constructor's error is the one that matters
                one.close()
        raise


def close_producer(producer: Any, timeout_s: float) -> None:
    """Close a ``KafkaProducer``; what it cannot send within ``timeout_s`` is dropped, which the log tells."""
    try:
        producer.close(timeout=timeout_s)
    except errors.KafkaError as error:
        _log.warning("producer closed with records unsent", why=str(error))
    sender = producer._sender  # noqa: SLF001 - no public way to end its thread, which closes the connections
    if sender.is_alive():  # the time-out left it running
        sender.force_close()
        sender.join(_SENDER_ENDS_S)
        if sender.is_alive():
            _log.warning("a producer's thread is still waiting for its broker; its connections close when it ends")


def close_consumer(consumer: Any, timeout_ms: int | None = None) -> None:
    """Close a ``KafkaConsumer`` without a commit, its connections also where it cannot leave its group properly."""
    try:
        consumer.close(autocommit=False, timeout_ms=timeout_ms)
    finally:
        consumer._client.close()  # noqa: SLF001 - no public way; closing it twice does nothing


class ClosingLoop(NetworkSelector):  # type: ignore[misc]
    """An event loop that, when it is closed, closes every socket that was ever waited for in it."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self._waited_for: WeakSet[socket.socket] = WeakSet()

    def register_event(self, fileobj: Any, event: int, task: Any) -> None:
        """Remember the socket before it is waited for."""
        self._waited_for.add(fileobj)
        super().register_event(fileobj, event, task)

    def close(self) -> None:
        """End the loop; may be called again."""
        try:
            super().close()
        finally:
            for sock in list(self._waited_for):
                sock.close()


class ClosingConnections(KafkaConnectionManager):  # type: ignore[misc]
    """The connections of a client; an attempt that fails is closed at once."""

    def transport(self, sock: socket.socket, host: str) -> Any:
        """Wrap a connected socket, in TLS where the settings ask for it."""
        if self.ssl_enabled:
            return KafkaSSLTransport(self._net, sock, host=host, ssl_context=self.config["ssl_context"])
        return KafkaTCPTransport(self._net, sock, host=host)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        options = self.config["socket_options"]
        sock = await create_connection(
            self._net, node.host, node.port, options, proxy_url=f"{_DIRECT}:", timeout_at=timeout_at
        )
        made: Any = sock
        try:
            made = self.transport(sock, node.host)
            await made.handshake()
        except BaseException as error:
            made.close()
            if isinstance(error, Exception):
                raise errors.KafkaConnectionError(f"Handshake failed: {error}") from error
            raise
        return made


class _Client(KafkaNetClient):  # type: ignore[misc]
    """What consumers, producers and admin clients have in common: a loop and connections."""

    def __init__(self, **configs: Any) -> None:
        self._loop = ClosingLoop(**configs)
        super().__init__(self._loop, ClosingConnections(self._loop, **configs), **configs)

    def close(self, node_id: Any = None) -> None:
        """Close one connection, or all of them and the loop; may be called again."""
        if node_id is not None:
            super().close(node_id)
            return
        self._loop.stop()  # its thread, if it has one, uses the connections; without it the rest runs on this thread
        try:
            super().close()
        finally:  # also where the connections do not close properly
            self._loop.close()


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc]
    """Connects without a proxy, and closes the socket where that fails.

    kafka-python looks for a subclass by the scheme of a proxy's address: this is its way to connect otherwise.
    """

    SCHEMES = (_DIRECT,)

    async def sock_connect(
        self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None
    ) -> socket.socket:
        """Connect ``sock`` to the broker's own address."""
        try:
            await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
        return sock
