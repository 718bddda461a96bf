"""Two web hosts that serve the pictures of claim checks; one of them can hang."""

import asyncio
from collections.abc import Iterator

from deploy.local.ports import LOOPBACK, free_port
from tests.chaos.events import Event, Pictures, claim_check
from tests.stream_server import StreamServer

FAST, SLOW = LOOPBACK, "127.0.0.2"
"""Different hosts to the worker, the same machine."""


class Hosts:
    """Serves ``/<picture's number>`` under both names, on a thread of its own."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._port = free_port()
        self._server = StreamServer(self._serve, (FAST, self._port), (SLOW, self._port))
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self.waiting = 0
        """Requests that hang."""

    def __enter__(self) -> "Hosts":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @property
    def settings(self) -> dict[str, str]:
        """For workers that may fetch from here."""
        sources = ",".join(f"http://{host}:{self._port}" for host in (FAST, SLOW))
        return {"FETCH__SOURCES": sources, "FETCH__ALLOW_PRIVATE_ADDRESSES": "true"}

    def hang(self) -> None:
        """The slow host takes requests and says nothing."""
        self._server.call(self._may_answer.clear)

    def recover(self) -> None:
        """It answers, those that wait too."""
        self._server.call(self._may_answer.set)

    def events(self, count: int, host: str) -> Iterator[Event]:
        """So many claim checks of one host."""
        for _ in range(count):
            number, logit = self._pictures.choose_number()
            yield claim_check(f"http://{host}:{self._port}/{number}", logit)

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
