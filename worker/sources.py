"""Redeeming claim checks: HTTP(S), object stores and files, inside the fence that the settings draw.

Untrusted events name these addresses. What is not under ``fetch.sources`` is rejected; an HTTP connection is made
only to an address that is checked at the moment of connecting, on every redirect, whatever the name resolved to
before; bytes are counted as they arrive; nothing is unpacked; proxies and credentials of the environment are not used
for HTTP. Slow or failing sources defer the event.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import aiohttp
import obstore.exceptions
from obstore.store import from_url

from worker.errors import SourceError, SourceForbidden, SourceRefused, SourceTooLarge, SourceUnavailable
from worker.settings import FetchSettings

MAX_REDIRECTS: Final = 5
_OBJECT_STORES: Final = frozenset({"s3", "gs", "az"})
_TRY_LATER: Final = frozenset({408, 425, 429})


class _ForbiddenAddress(OSError):
    """Raised instead of a socket, so that no packet is sent."""

    def __init__(self) -> None:
        # One errno and one text: the connector joins the errors of several addresses only if these differ.
        super().__init__(errno.EPERM, "not a public address")


class Fetcher:
    """Fetches claim checks on an event loop of its own thread, many at a time."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._allowed = tuple(urlsplit(prefix) for prefix in settings.sources)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._stores: dict[str, Any] = {}

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._submit(self._open()).result()

    def fetch(self, uri: str) -> "Future[bytes]":
        """The bytes behind ``uri``; the future raises a ``SourceError`` at the latest after the deadline.

        Waiting for a free slot counts: a source that fills all slots defers events instead of delaying them.
        """
        return self._submit(self._fetch(uri))

    def close(self) -> None:
        """Drop what is under way and stop the thread; safe to call when not started."""
        if self._loop is None or self._thread is None:
            return
        self._submit(self._close()).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()
        self._loop = None

    def _submit(self, work: "Coroutine[Any, Any, Any]") -> "Future[Any]":
        assert self._loop is not None  # start
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=self._settings.concurrency,
            limit_per_host=self._settings.per_host,
            socket_factory=self._checked_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "genprint"},
            timeout=aiohttp.ClientTimeout(total=self._settings.deadline_s),
        )

    async def _close(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _checked_socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = address
        if not self._settings.allow_private_addresses and not is_public(where[0]):
            raise _ForbiddenAddress
        return socket.socket(family, kind, protocol)

    async def _fetch(self, uri: str) -> bytes:
        try:
            async with asyncio.timeout(self._settings.deadline_s), self._slots:
                parts = self._permitted(uri)
                if parts.scheme in ("http", "https"):
                    return await self._fetch_http(uri)
                if parts.scheme == "file":
                    return await asyncio.to_thread(self._read_file, parts)
                return await self._fetch_object(parts)
        except SourceError:
            raise
        except (TimeoutError, asyncio.CancelledError) as error:
            raise SourceUnavailable(f"no answer within {self._settings.deadline_s:g} s") from error
        except Exception as error:
            raise translate(error) from error

    def _permitted(self, uri: str) -> SplitResult:
        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError as error:
            raise SourceForbidden(f"not an address: {error}") from error
        for allowed in self._allowed:
            same_place = parts.scheme == allowed.scheme and allowed.hostname in (None, parts.hostname)
            same_port = allowed.port is None or port == allowed.port
            inside = not allowed.path.strip("/") or _is_under(parts.path, allowed.path)
            if same_place and same_port and inside:
                return parts
        raise SourceForbidden(f"this {parts.scheme or 'schemeless'} address is not under any of fetch.sources")

    async def _fetch_http(self, uri: str) -> bytes:
        assert self._session is not None  # start
        for _ in range(MAX_REDIRECTS + 1):
            self._permitted(uri)
            async with self._session.get(uri, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    uri = urljoin(uri, response.headers["Location"])
                    continue
                if response.status >= 500 or response.status in _TRY_LATER:
                    raise SourceUnavailable(f"HTTP status {response.status}")
                if response.status != 200:
                    raise SourceRefused(f"HTTP status {response.status}")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise SourceRefused("answered with a content encoding that was not asked for")
                return await self._counted(response.content)
        raise SourceRefused(f"more than {MAX_REDIRECTS} redirects")

    async def _counted(self, chunks: aiohttp.StreamReader) -> bytes:
        data = bytearray()
        async for chunk in chunks.iter_any():
            data += chunk
            if len(data) > self._settings.max_bytes:
                raise SourceTooLarge(f"more than {self._settings.max_bytes} bytes")
        return bytes(data)

    async def _fetch_object(self, parts: SplitResult) -> bytes:
        if parts.scheme not in _OBJECT_STORES:
            raise SourceForbidden(f"scheme {parts.scheme!r} is not supported")
        bucket = f"{parts.scheme}://{parts.netloc}"
        if bucket not in self._stores:
            self._stores[bucket] = from_url(bucket)
        found = await self._stores[bucket].get_async(unquote(parts.path.lstrip("/")))
        if found.meta["size"] > self._settings.max_bytes:
            raise SourceTooLarge(f"an object of {found.meta['size']} bytes, the ceiling is {self._settings.max_bytes}")
        return bytes(await found.bytes_async())

    def _read_file(self, parts: SplitResult) -> bytes:
        if parts.netloc not in ("", "localhost"):
            raise SourceForbidden("file addresses have no host")
        path = Path(unquote(parts.path)).resolve()
        roots = [Path(unquote(a.path)).resolve() for a in self._allowed if a.scheme == "file"]
        if not any(path.is_relative_to(root) for root in roots):
            raise SourceForbidden("the file lies outside the allowed folders")  # a link or .. led there
        # O_NONBLOCK: a FIFO somebody left there must not block the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(self._settings.max_bytes + 1)
        if len(data) > self._settings.max_bytes:
            raise SourceTooLarge(f"more than {self._settings.max_bytes} bytes")
        return data


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet; mapped and translated IPv4 is looked into."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or _nat64(ip)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    well_known = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(ip.packed[-4:]) if ip in well_known else None


def _is_under(path: str, prefix: str) -> bool:
    """By segments: /data/images-2 is not under /data/images."""
    return f"{unquote(path)}/".startswith(f"{unquote(prefix).rstrip('/')}/")


def translate(error: Exception) -> SourceError:
    """The disposition of whatever aiohttp, obstore or the file system raised."""
    match error:
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, _ForbiddenAddress):
            return SourceForbidden("the address is not a public one")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | UnicodeError():
            return SourceForbidden("not an address")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return SourceUnavailable("TLS failed")
        case aiohttp.ClientError():
            return SourceUnavailable(f"connection failed ({type(error).__name__})")
        case FileNotFoundError() | obstore.exceptions.NotFoundError():
            return SourceRefused("no such file or object")
        case (
            PermissionError()
            | IsADirectoryError()
            | NotADirectoryError()
            | obstore.exceptions.PermissionDeniedError()
            | obstore.exceptions.UnauthenticatedError()
        ):
            return SourceRefused("no permission to read it")
        case ValueError():
            return SourceForbidden("not an address")
        case _:  # OSError, obstore.exceptions.BaseError, and what later versions add: worth another attempt
            return SourceUnavailable(f"fetch failed ({type(error).__name__})")
