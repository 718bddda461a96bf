"""A server of asyncio streams beside a test, on a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class StreamServer:
    """Listens from ``start`` to ``close``, which ends every connection.

    Args:
        serve: one connection.
        addresses: host and port of each listener; port 0 takes a free one.
    """

    def __init__(self, serve: Serve, *addresses: tuple[str, int]) -> None:
        self._serve, self._addresses = serve, addresses
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stream-server", daemon=True)
        self._servers: Sequence[asyncio.Server] = ()

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return int(self._servers[0].sockets[0].getsockname()[1])

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        self._servers = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def close(self) -> None:
        """Return when nothing is left of it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """Have it called on the server's thread."""
        self._loop.call_soon_threadsafe(function)

    async def _listen(self) -> list[asyncio.Server]:
        return [await asyncio.start_server(self._serve, host, port) for host, port in self._addresses]

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
