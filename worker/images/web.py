"""Fetching by HTTP(S): every hop passes the fence, and every socket the check of its IP address.

Proxies, cookies and credentials of the environment are not used, and nothing is unpacked.
"""

import asyncio
import contextlib
import email.utils
import functools
import re
import socket
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from worker.errors import SourceRefused, SourceUnavailable
from worker.images.addresses import Address, Fence, ForbiddenAddressError, is_public
from worker.images.threads import Threads
from worker.settings import FetchSettings

MAX_REDIRECTS: Final = 5
_MAX_HEAD_BYTES: Final = 256 * 1024
"""Most bytes of an answer's status line and header fields, as in browsers."""
_MAX_CHUNKING_BYTES, _LEAST_BODY = 16 * 1024, 16
"""Most bytes of chunk sizes, extensions and trailers: so many, and one for so many of the body."""
_INFORMATIONAL_BYTES: Final = _MAX_HEAD_BYTES // 32
"""What an informational answer counts as, with its own: each costs more than its bytes."""
_PORTION: Final = 16 * 1024
"""Bytes that are looked at before the next."""
_TRY_LATER: Final = frozenset({408, 425, 429})
_IDENTITY: Final = frozenset({"", "identity", "aws-chunked"})
"""Content encodings that change nothing: the last says how an object was uploaded, and some stores send it back."""
_KNOWN_NAMES, _KNOWN_FOR_S = 1024, 10.0
_MOST_ADDRESSES = 16
"""Of one name: an answer may have thousands."""

Enter = Callable[[Address], Awaitable[None]]
"""Waits for the turn at the address's host."""
Collect = Callable[[AsyncIterable[bytes], int | None], Awaitable[bytes]]
"""Puts a body together, given its declared length."""


class Web:
    """A client of web hosts; used on one event loop."""

    def __init__(self, settings: FetchSettings, fence: Fence, threads: Threads) -> None:
        self._settings = settings
        self._fence = fence
        self._threads = threads
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session."""
        # No limits and no shared look-ups here: in the connector's queues one tenant would wait for another.
        connector = aiohttp.TCPConnector(
            limit=0, use_dns_cache=False, resolver=_Names(self._threads), socket_factory=self._checked_socket
        )
        handler = functools.partial(_Answer, loop=asyncio.get_running_loop())
        connector._factory = handler  # type: ignore[assignment]  # noqa: SLF001 - there is no public way
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "genprint"},
            timeout=aiohttp.ClientTimeout(total=None),  # Fetch has the deadline
            max_line_size=_MAX_HEAD_BYTES,
            max_field_size=_MAX_HEAD_BYTES,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, address: Address, enter: Enter, collect: Collect) -> bytes:
        """The body at the end of all redirects.

        Raises:
            SourceError, aiohttp.ClientError, OSError, ValueError: there is none to be had.
        """
        assert self._session is not None  # open
        for _ in range(MAX_REDIRECTS + 1):
            await enter(address)
            async with self._session.get(address.url, allow_redirects=False) as response:
                status, headers = response.status, response.headers
                if status in (301, 302, 303, 307, 308) and "Location" in headers:
                    # Bytes that are not UTF-8 come as half surrogate pairs.
                    location = re.sub("[\udc80-\udcff]", lambda c: f"%{ord(c[0]) - 0xDC00:02X}", headers["Location"])
                    address = self._fence.permitted(urljoin(str(address.url), location.strip()))
                    continue
                if status >= 500 or status in _TRY_LATER:
                    wait_s = retry_after_s(headers.get("Retry-After", ""), time.time())
                    raise SourceUnavailable(f"HTTP status {status}", wait_s)
                if status != 200:
                    raise SourceRefused(f"HTTP status {status}")
                encodings = ",".join(headers.getall("Content-Encoding", [])).lower().split(",")
                if not {encoding.strip() for encoding in encodings} <= _IDENTITY:
                    raise SourceRefused("the answer has a content encoding, which was not requested")
                return await collect(response.content.iter_any(), response.content_length)
        raise SourceRefused(f"more than {MAX_REDIRECTS} redirects")

    def _checked_socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = address
        if not self._settings.allow_private_addresses and not is_public(where[0]):
            raise ForbiddenAddressError
        return socket.socket(family, kind, protocol)


def retry_after_s(text: str, now: float) -> float:
    """Seconds that a ``Retry-After`` header (RFC 9110, 10.2.3) asks for at the Unix time ``now``; 0 if it does not."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    return 0.0


class _Names(AbstractResolver):
    """Looks names up on threads that are counted, and remembers the answers for a moment."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._known: dict[tuple[str, int, int], tuple[float, list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        key = host, port, family
        until, known = self._known.get(key, (0.0, []))
        if time.monotonic() < until:
            return list(known)
        look_up = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = [
            ResolveResult(
                hostname=host, host=str(where[0]), port=int(where[1]), family=kind, proto=protocol, flags=flags
            )
            for kind, _, protocol, _, where in (await self._threads.call(look_up))[:_MOST_ADDRESSES]
        ]
        self._known.pop(key, None)
        self._known[key] = time.monotonic() + _KNOWN_FOR_S, found
        if len(self._known) > _KNOWN_NAMES:
            del self._known[next(iter(self._known))]
        return list(found)

    async def close(self) -> None:
        pass


class _Answer(ResponseHandler):
    """Bounds what an answer has beside its body: aiohttp bounds each field alone, and what chunks bring not at all.

    A chunk costs the event loop, which all fetches share, far more than its bytes.
    """

    _head_bytes = _chunking_bytes = 0
    _is_refused = False

    def set_response_params(self, **parameters: Any) -> None:
        self._head_bytes = self._chunking_bytes = 0
        self._payload = None
        super().set_response_params(**parameters)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if data[0].code < 200:  # one that comes before the answer
            self._head_bytes += _INFORMATIONAL_BYTES
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        for begin in range(0, max(1, len(data)), _PORTION):  # without data it goes on with what it has
            if not self._is_refused:
                self._receive(data[begin : begin + _PORTION])

    def _receive(self, data: bytes) -> None:
        is_body, before = self._payload not in (None, EMPTY_PAYLOAD), self._body_bytes
        super().data_received(data)
        beside = len(data) - (self._body_bytes - before)
        if is_body:
            self._chunking_bytes += beside
            if self._chunking_bytes > _MAX_CHUNKING_BYTES + self._body_bytes // _LEAST_BODY:
                self._refuse("its body comes in too many or too odd chunks")
        else:
            self._head_bytes += beside
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(f"more than {_MAX_HEAD_BYTES} bytes of header fields")

    @property
    def _body_bytes(self) -> int:
        return self._payload.total_bytes if self._payload is not None else 0

    def _refuse(self, why: str) -> None:
        self._is_refused = True
        for reader in (self, self._payload):
            if reader is not None:
                reader.set_exception(SourceRefused(why))
        if self.transport is not None:
            self.transport.abort()
