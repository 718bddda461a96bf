"""Fetching the images of claim checks by HTTP(S), from object stores and from files, as far as the settings allow.

The addresses come from untrusted events. One that is not under ``fetch.sources`` is rejected. The IP address of an HTTP
connection is checked when the connection is made, on every redirect, so that a name cannot resolve to another one
later. Bytes are counted as they arrive, and nothing is unpacked. Proxies and credentials of the environment are not
used for HTTP. Slow or failing sources defer the event.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
import obstore.exceptions
from obstore.store import from_url
from yarl import URL

from worker.errors import (
    SourceBusy,
    SourceError,
    SourceForbidden,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
)
from worker.settings import FetchSettings

MAX_REDIRECTS: Final = 5
_OBJECT_STORES: Final = frozenset({"s3", "gs", "az"})
_TRY_LATER: Final = frozenset({408, 425, 429})
_OPEN_STORES: Final = 64
_CHUNK_BYTES: Final = 256 * 1024
_SLOW_AFTER: Final = 5
_REMEMBERED_HOSTS: Final = 1024


class _ForbiddenAddress(OSError):
    """Raised instead of a socket, so that no packet is sent."""

    def __init__(self) -> None:
        # One errno and one text: the connector joins the errors of several addresses only if these differ.
        super().__init__(errno.EPERM, "not a public address")


class Fetch:
    """A fetch under way; ``future`` gives the bytes, or a ``SourceError`` at the latest after the deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        self._loop = loop
        self._deadline_s = deadline_s
        self.timeout = asyncio.timeout_at(loop.time() + deadline_s)
        self.future: Future[bytes]
        self._given_up = False

    def give_up(self) -> None:
        """Stop waiting, because other events wait behind this one; from any thread, no effect once it is done."""
        self._given_up = True
        self._loop.call_soon_threadsafe(self._expire)

    def late(self) -> SourceUnavailable:
        """The error of a fetch whose time is over."""
        if self._given_up:
            return SourceUnavailable("no answer yet, and other events waited behind it")
        return SourceUnavailable(f"no answer within {self._deadline_s:g} s")

    def _expire(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is over, or has not begun
            self.timeout.reschedule(self._loop.time())


class SlowHosts:
    """Hosts that failed several times in a row: fresh events do not wait for them, deferred ones try them again.

    Used on the event loop alone. A mark lasts as long as a deferral, unless a success ends it or a failure renews it.
    """

    def __init__(self, mark_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._mark_s = mark_s
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How many in a row, and the time of the last."""

    def failed(self, host: str) -> None:
        """Note one more failure."""
        count, _ = self._failures.pop(host, (0, 0.0))
        self._failures[host] = count + 1, self._clock()
        if len(self._failures) > _REMEMBERED_HOSTS:
            self._failures.popitem(last=False)

    def succeeded(self, host: str) -> None:
        """Note that the host answers."""
        self._failures.pop(host, None)

    def __contains__(self, host: str) -> bool:
        count, last = self._failures.get(host, (0, 0.0))
        return count >= _SLOW_AFTER and self._clock() - last < self._mark_s


class Fetcher:
    """Fetches claim checks on an event loop of its own thread, many at a time.

    ``open_store`` gives the obstore store of an address such as ``s3://uploads``.
    """

    def __init__(self, settings: FetchSettings, open_store: Callable[[str], Any] = from_url) -> None:
        self._settings = settings
        self._allowed = tuple(URL(prefix) for prefix in settings.sources)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None
        self.held_bytes = 0
        """Bytes fetched and not yet released."""
        self.under_way = 0
        """Fetches begun and not done, including those that wait for a slot."""
        self._room = asyncio.Event()
        self._room.set()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._host_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._slow = SlowHosts(settings.retry_delay_s)
        self._open_store = lru_cache(_OPEN_STORES)(open_store)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        # Names are resolved and files read here; asyncio's own few threads would be held up by one slow name server.
        self._loop.set_default_executor(ThreadPoolExecutor(self._settings.concurrency, "fetch"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._submit(self._open()).result()

    def fetch(self, uri: str, *, deferred: bool = False) -> Fetch:
        """Begin to fetch the bytes behind ``uri``; ``deferred``: the event comes from the retry topic.

        The caller must ``release`` the bytes that it gets: with ``max_held_bytes`` held, no further fetch begins.

        The deadline includes the wait for a free slot, so that a source that fills its slots defers events instead of
        delaying them. One host has at most ``per_host`` slots, and none for fresh events while it is slow.
        """
        assert self._loop is not None  # start
        fetch = Fetch(self._loop, self._settings.deadline_s)
        fetch.future = self._submit(self._fetch(uri, fetch, deferred=deferred))
        return fetch

    def release(self, size: int) -> None:
        """Give back fetched bytes that are no longer held; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hold, -size)

    def close(self) -> None:
        """Cancel fetches under way and stop the thread; safe to call when not started."""
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

    async def _fetch(self, uri: str, fetch: Fetch, *, deferred: bool) -> bytes:
        try:
            # Parsed as aiohttp parses it: a check by another parser could be got round.
            url = self._permitted(URL(uri))
        except SourceError:
            raise
        except Exception as error:
            raise translate(error) from error
        host = url.raw_host or ""
        if host in self._slow and not deferred:
            raise SourceBusy("its host is slow or away")
        self.under_way += 1
        try:
            data = await self._fetch_in_turn(url, host, fetch)
        except SourceUnavailable:
            self._slow.failed(host)
            raise
        finally:
            self.under_way -= 1
        self._slow.succeeded(host)
        self._hold(len(data))
        return data

    async def _fetch_in_turn(self, url: URL, host: str, fetch: Fetch) -> bytes:
        slots = self._host_slots.setdefault(host, asyncio.Semaphore(self._settings.per_host))
        try:
            async with fetch.timeout, slots, self._slots:
                await self._room.wait()
                return await self._fetch_from(url)
        except SourceError:
            raise
        except (TimeoutError, asyncio.CancelledError) as error:
            raise fetch.late() from error
        except Exception as error:
            raise translate(error) from error

    async def _fetch_from(self, url: URL) -> bytes:
        if url.scheme in ("http", "https"):
            return await self._fetch_http(url)
        if url.scheme == "file":
            return await asyncio.to_thread(self._read_file, url)
        return await self._fetch_object(url)

    def _hold(self, size: int) -> None:
        """Add to the bytes held (negative: subtract); on the loop's thread."""
        self.held_bytes += size
        if self.held_bytes < self._settings.max_held_bytes:
            self._room.set()
        else:
            self._room.clear()

    def _permitted(self, url: URL) -> URL:
        if ".." in re.split(r"[/\\]", url.path):
            raise SourceForbidden("the address has '..' in its path")
        if not any(_covers(allowed, url) for allowed in self._allowed):
            known = url.scheme if url.scheme in {allowed.scheme for allowed in self._allowed} else "kind of"
            raise SourceForbidden(f"this {known} address is not under any of fetch.sources")
        return url

    async def _fetch_http(self, url: URL) -> bytes:
        assert self._session is not None  # start
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    url = self._permitted(url.join(URL(response.headers["Location"])))
                    continue
                if response.status >= 500 or response.status in _TRY_LATER:
                    raise SourceUnavailable(f"HTTP status {response.status}")
                if response.status != 200:
                    raise SourceRefused(f"HTTP status {response.status}")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise SourceRefused("the answer has a content encoding, which was not requested")
                return await self._counted(response.content.iter_any(), response.content_length)
        raise SourceRefused(f"more than {MAX_REDIRECTS} redirects")

    async def _counted(self, chunks: AsyncIterable[bytes], declared_bytes: int | None) -> bytes:
        """Collect the bytes and count them as they arrive; too large a declared size spares the transfer."""
        try:
            if declared_bytes is not None and declared_bytes > self._settings.max_bytes:
                raise SourceTooLarge(f"{declared_bytes} bytes, the ceiling is {self._settings.max_bytes}")
            data = bytearray()
            async for chunk in chunks:
                data += chunk
                if len(data) > self._settings.max_bytes:
                    raise SourceTooLarge(f"more than {self._settings.max_bytes} bytes")
            return bytes(data)
        finally:
            del chunks  # see _fetch_object

    async def _fetch_object(self, url: URL) -> bytes:
        store = self._open_store(f"{url.scheme}://{url.raw_host}")
        found = await store.get_async(url.path.lstrip("/"))
        try:
            return await self._counted(found.stream(min_chunk_size=_CHUNK_BYTES), found.meta["size"])
        finally:
            del found  # and its connection, if it is not read to its end: an error would keep it with this frame

    def _read_file(self, url: URL) -> bytes:
        path = os.path.realpath(url.path)
        roots = [os.path.realpath(allowed.path) for allowed in self._allowed if allowed.scheme == "file"]
        if not any(os.path.commonpath((path, root)) == root for root in roots):
            raise SourceForbidden("the file lies outside the allowed folders")  # a link led there
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceRefused("not a regular file")
            data = file.read(self._settings.max_bytes + 1)
        if len(data) > self._settings.max_bytes:
            raise SourceTooLarge(f"more than {self._settings.max_bytes} bytes")
        return data


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO, and without following a link that was put there a moment ago."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet; IPv4 inside IPv6 (mapped, 6to4, NAT64) counts as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or _nat64(ip) or ip
    # `is_global` alone lets multicast, IPv4-compatible (::127.0.0.1) and site-local (fec0::/10) addresses through.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or (ip.version == 6 and ip.is_site_local))


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    well_known = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(ip.packed[-4:]) if ip in well_known else None


def _covers(allowed: URL, url: URL) -> bool:
    """Whether ``url`` lies under a prefix of ``fetch.sources``; a host without a port means the scheme's own port."""
    if url.scheme != allowed.scheme:
        return False
    if url.scheme == "file":
        same_host = url.raw_host in (None, "localhost")
    elif not url.raw_host or (url.scheme in _OBJECT_STORES and (url.user or url.explicit_port)):
        same_host = False
    else:
        same_host = allowed.raw_host is None or (url.raw_host, url.port) == (allowed.raw_host, allowed.port)
    # By segments: /data/images-2 is not under /data/images.
    return same_host and f"{url.path}/".startswith(f"{allowed.path.rstrip('/')}/")


def translate(error: Exception) -> SourceError:
    """The ``SourceError`` that means the same as an exception of aiohttp, obstore or the file system."""
    match error:
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, _ForbiddenAddress):
            return SourceForbidden("the address is not a public one")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | obstore.exceptions.InvalidPathError():
            return SourceForbidden("not a valid address")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return SourceUnavailable("TLS failed")
        case aiohttp.ClientError():
            return SourceUnavailable(f"connection failed ({type(error).__name__})")
        case FileNotFoundError() | obstore.exceptions.NotFoundError():
            return SourceRefused("no such file or object")
        case (
            PermissionError() | IsADirectoryError() | NotADirectoryError() | obstore.exceptions.PermissionDeniedError()
        ):
            return SourceRefused("no permission to read it")
        case OSError() if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
            return SourceRefused("not a regular file")
        case ValueError():  # the parser's message may quote a password
            return SourceForbidden("not a valid address")
        case _:  # OSError, obstore.exceptions.BaseError (also for bad credentials), and what later versions add
            return SourceUnavailable(f"fetch failed ({type(error).__name__})")
