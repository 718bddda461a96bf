"""Two web hosts that serve the pictures of claim checks; one of them can hang."""

import asyncio
import threading
from collections.abc import Iterator

from deploy.local.ports import LOOPBACK, free_port
from tests.chaos.events import Event, Pictures, claim_check

FAST, SLOW = LOOPBACK, "127.0.0.2"
"""Different hosts to the worker, the same machine."""


class Hosts:
    """Serves ``/<picture's number>`` under both names, on a thread of its own."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hosts", daemon=True)
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self._servers: list[asyncio.Server] = []
        self.waiting = 0
        """Requests that hang."""

    def __enter__(self) -> "Hosts":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def settings(self) -> dict[str, str]:
        """For workers that may fetch from here."""
        sources = ",".join(f"http://{host}:{self._port}" for host in (FAST, SLOW))
        return {"FETCH__SOURCES": sources, "FETCH__ALLOW_PRIVATE_ADDRESSES": "true"}

    def hang(self) -> None:
        """The slow host takes requests and says nothing."""
        self._loop.call_soon_threadsafe(self._may_answer.clear)

    def recover(self) -> None:
        """It answers, those that wait too."""
        self._loop.call_soon_threadsafe(self._may_answer.set)

    def events(self, count: int, host: str) -> Iterator[Event]:
        """So many claim checks of one host."""
        for _ in range(count):
            number, logit = self._pictures.choose_number()
            yield claim_check(f"http://{host}:{self._port}/{number}", logit)

    async def _listen(self) -> None:
        self._servers = [await asyncio.start_server(self._serve, host, self._port) for host in (FAST, SLOW)]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_slow = writer.get_extra_info("sockname")[0] == SLOW
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                if is_slow:
                    self.waiting += 1
                    try:
                        await self._may_answer.wait()
                    finally:
                        self.waiting -= 1
                data = self._pictures[int(request.split(b" ", 2)[1][1:])]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()
