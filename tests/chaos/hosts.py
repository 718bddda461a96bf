"""Web hosts that serve the pictures of claim checks; all but one of them can hang."""

import asyncio
from collections.abc import Iterator, Sequence

from deploy.local.ports import LOOPBACK, free_port
from tests.chaos.events import Event, Pictures, claim_check
from tests.stream_server import StreamServer

FAST, SLOW = LOOPBACK, "127.0.0.2"
"""Different hosts to the worker, the same machine."""
MANY_SLOW = [f"127.0.{1 + number // 200}.{1 + number % 200}" for number in range(800)]


class Hosts:
    """Serves ``/<picture's number>`` under each name, on a thread of its own."""

    def __init__(self, pictures: Pictures, slow: Sequence[str] = (SLOW,)) -> None:
        self._pictures = pictures
        self._names = (FAST, *slow)
        self._port = free_port()
        self._server = StreamServer(self._serve, *((name, self._port) for name in self._names))
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self.waiting = 0
        """Requests that hang, and whose client still waits."""

    def __enter__(self) -> "Hosts":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @property
    def settings(self) -> dict[str, str]:
        """For workers that may fetch from here."""
        sources = ",".join(f"http://{host}:{self._port}" for host in self._names)
        return {"FETCH__SOURCES": sources, "FETCH__ALLOW_PRIVATE_ADDRESSES": "true"}

    def hang(self) -> None:
        """The slow hosts take requests and say nothing."""
        self._server.call(self._may_answer.clear)

    def recover(self) -> None:
        """They answer, those that wait too."""
        self._server.call(self._may_answer.set)

    def events(self, count: int, *hosts: str) -> Iterator[Event]:
        """So many claim checks of these hosts in turn."""
        for turn in range(count):
            number, logit = self._pictures.choose_number()
            yield claim_check(f"http://{hosts[turn % len(hosts)]}:{self._port}/{number}", logit)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_slow = writer.get_extra_info("sockname")[0] != FAST
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                if is_slow:
                    self.waiting += 1
                    try:
                        await self._answer_or_goodbye(reader)
                    finally:
                        self.waiting -= 1
                data = self._pictures[int(request.split(b" ", 2)[1][1:])]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _answer_or_goodbye(self, reader: asyncio.StreamReader) -> None:
        """Until it may answer, or the client has gone: while it waits it sends nothing else."""
        either = {asyncio.ensure_future(self._may_answer.wait()), asyncio.ensure_future(reader.read(1))}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in either:
                one.cancel()
            await asyncio.gather(*either, return_exceptions=True)
