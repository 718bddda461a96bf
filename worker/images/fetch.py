"""Read this first: fetching the images of claim checks, as far as the settings allow, and who waits for whom.

The addresses come from untrusted events: ``addresses`` decides what may be fetched, ``web`` and ``files`` fetch it,
object stores are obstore's. Bytes are counted as they arrive. Slow or failing sources defer the event, and what one
tenant has to wait for does not hold up another: slots, threads and bytes are shared (``worker.fairness``), hosts are
remembered by tenant (``slow_hosts``).
"""

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
import obstore.exceptions
import structlog
from obstore.store import from_url

from worker.errors import (
    SourceBusy,
    SourceDenied,
    SourceError,
    SourceForbidden,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)
from worker.fairness import SharedCapacity
from worker.images.addresses import Address, Fence, ForbiddenAddressError
from worker.images.files import read_file
from worker.images.slow_hosts import SlowHosts
from worker.images.threads import CALLER, Caller, Threads
from worker.images.unreadable_sources import UnreadableSources
from worker.images.web import Web
from worker.settings import FairnessSettings, FetchSettings

_log = structlog.get_logger(__name__)

_CLOSE_S: Final = 20
"""Fetches end at once when they are cancelled; only a machine that stands still takes longer."""
_OPEN_STORES: Final = 64
_CHUNK_BYTES: Final = 256 * 1024
_RECENT_HOSTS: Final = 1024
_THREADS_A_SLOT: Final = 8
"""A look-up that nobody answers keeps its thread for half a minute, a fetch its slot for ``fetch.deadline_s``."""
_ALONE: Final = FairnessSettings()


class Fetch:
    """A fetch under way; ``future`` gives the bytes, or a ``SourceError`` at the latest after the deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float, tenant: str, *, deferred: bool) -> None:
        self._loop = loop
        self._deadline_s = deadline_s
        self._began = loop.time()
        self._waited_s = 0.0
        self._given_up = False
        self.timeout = asyncio.timeout_at(self._began + deadline_s)
        self.tenant = tenant
        self.deferred = deferred
        self.at: tuple[str, SharedCapacity] | None = None
        """The host whose slot it holds, and that host's slots."""
        self.has_asked = False
        """Whether it has had its turn."""
        self.future: Future[bytes]

    def give_up(self) -> None:
        """Stop waiting, because other events wait behind this one; from any thread, no effect once it is done."""
        self._given_up = True
        self._loop.call_soon_threadsafe(self._expire)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for other fetches, not for the source."""
        began = self._loop.time()
        try:
            yield
        finally:
            self._waited_s += self._loop.time() - began

    def late(self) -> SourceError:
        """The error of a fetch whose time is over: its source's, unless it waited most of it for other fetches."""
        if not self.has_asked or 2 * self._waited_s > self._loop.time() - self._began:
            return SourceBusy("it waited for other fetches, of its host or of its tenant")
        if self._given_up:
            return SourceUnavailable("no answer yet, and other events waited behind it")
        return SourceUnavailable(f"no answer within {self._deadline_s:g} s")

    def _expire(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is over, or has not begun
            self.timeout.reschedule(self._loop.time())


class Fetcher:
    """Fetches claim checks on an event loop of its own thread, many at a time.

    ``open_store`` gives the obstore store of an address such as ``s3://uploads``.
    """

    def __init__(
        self,
        settings: FetchSettings,
        open_store: Callable[[str], Any] = from_url,
        fairness: FairnessSettings = _ALONE,
    ) -> None:
        self._settings = settings
        self._fairness = fairness
        self._fence = Fence(settings.sources)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.held_bytes = 0
        """Bytes that have arrived and are not yet released."""
        self.under_way = 0
        """Fetches begun and not done, including those that wait for a slot."""
        self._slots = SharedCapacity(fairness, settings.concurrency)
        self._host_slots: WeakValueDictionary[str, SharedCapacity] = WeakValueDictionary()
        self._recent_slots = lru_cache(_RECENT_HOSTS)(self._slots_of)
        """The same: those of the latest hosts are kept, to remember which tenants were there."""
        self._room = SharedCapacity(fairness, settings.max_held_bytes)
        self._slow = SlowHosts(settings.retry_delay_s)
        self._unreadable = UnreadableSources(2 * settings.retry_delay_s)
        self._threads = Threads(SharedCapacity(fairness, _THREADS_A_SLOT * settings.concurrency))
        self._web = Web(settings, self._fence, self._threads)
        self._open_store = lru_cache(_OPEN_STORES)(open_store)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The configured sources of which nothing can be read."""
        return self._unreadable.names

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._submit(self._web.open()).result()

    def fetch(self, uri: str, *, tenant: str = "", deferred: bool = False) -> Fetch:
        """Begin to fetch the bytes behind ``uri``; ``deferred``: the event comes from the retry topic.

        The caller must ``release`` the bytes that it gets: with ``max_held_bytes`` held, no further body is read.

        The deadline includes the wait for a free slot, so that a source that fills its slots defers events instead of
        delaying them. One host has at most ``per_host`` slots, and none for fresh events while it is slow. While other
        tenants fetch, one tenant has at most its share of all slots, of one host's, and of the bytes.
        """
        assert self._loop is not None  # start
        fetch = Fetch(self._loop, self._settings.deadline_s, tenant, deferred=deferred)
        fetch.future = self._submit(self._fetch(uri, fetch))
        return fetch

    def release(self, size: int, *, tenant: str = "") -> None:
        """Give back fetched bytes that are no longer held; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release, size, tenant)

    def close(self) -> None:
        """Cancel fetches under way and stop the thread; safe to call when not started."""
        if self._loop is None or self._thread is None:
            return
        try:
            self._submit(self._close()).result(timeout=_CLOSE_S)
        except TimeoutError:
            _log.warning("fetches do not end, going on without them", under_way=self.under_way)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = None

    def _submit(self, work: "Coroutine[Any, Any, Any]") -> "Future[Any]":
        assert self._loop is not None  # start
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._web.close()

    async def _fetch(self, uri: str, fetch: Fetch) -> bytes:
        CALLER.set(Caller(fetch.tenant, fetch.waiting))
        self.under_way += 1
        source = ""
        try:
            address = self._fence.permitted(uri)
            source = address.source
            async with fetch.timeout:
                return await self._fetch_in_turn(address, fetch)
        except (TimeoutError, asyncio.CancelledError):
            failure = fetch.late()
        except SourceError as error:
            failure = error
        except Exception as error:
            failure = translate(error)
        finally:
            self.under_way -= 1
        self._note(fetch, failure)
        self._leave(fetch)
        # Frames, of this error or of its cause, would keep what has arrived, and the connection.
        raise self._with_source_state(failure, source, uri).with_traceback(None)

    def _with_source_state(self, failure: SourceError, source: str, uri: str) -> SourceError:
        """The failure, in the light of what its source has answered lately."""
        match failure:
            case SourceDenied() if self._unreadable.note_denied(source, uri):
                return SourceUnreadable(f"{failure}; so was everything else that was asked of this source lately")
            case SourceRefused() | SourceTooLarge():
                self._unreadable.note_readable(source)
        return failure

    async def _fetch_in_turn(self, address: Address, fetch: Fetch) -> bytes:
        await self._enter(fetch, address)
        with fetch.waiting():
            await self._slots.take(fetch.tenant)
        fetch.has_asked = True
        try:
            data = await self._fetch_from(address, fetch)
        finally:
            self._slots.give_back(fetch.tenant)
        self._unreadable.note_readable(address.source)
        self._note(fetch, None)
        self._leave(fetch)
        return data

    async def _fetch_from(self, address: Address, fetch: Fetch) -> bytes:
        collect = partial(self._collect, fetch)
        if address.scheme in ("http", "https"):
            return await self._web.get(address, partial(self._enter, fetch), collect)
        if address.scheme == "file":
            return await collect(self._read_file(address), None)
        store = self._open_store(address.store)
        found = await store.get_async(address.key)
        return await collect(found.stream(min_chunk_size=_CHUNK_BYTES), found.meta["size"])

    async def _read_file(self, address: Address) -> AsyncIterator[bytes]:
        read = partial(read_file, address.path, self._fence.folders, self._settings.max_bytes + 1)
        yield await self._threads.call(read)

    async def _enter(self, fetch: Fetch, address: Address) -> None:
        """Wait for a slot of the address's host, after giving back that of another."""
        if fetch.at is not None:
            if fetch.at[0] == address.host:
                return
            self._note(fetch, None)
            self._leave(fetch)
        if self._slow.is_left_alone(fetch.tenant, address.host):
            raise SourceBusy("its host asked to be left alone for a while")
        if self._slow.is_slow(fetch.tenant, address.host) and not fetch.deferred:
            raise SourceBusy("its host is slow or away")
        slots = self._recent_slots(address.host)
        with fetch.waiting():
            await slots.take(fetch.tenant)
        fetch.at = address.host, slots

    def _leave(self, fetch: Fetch) -> None:
        if fetch.at is not None:
            fetch.at[1].give_back(fetch.tenant)
            fetch.at = None

    def _slots_of(self, host: str) -> SharedCapacity:
        return self._host_slots.setdefault(host, SharedCapacity(self._fairness, self._settings.per_host))

    def _note(self, fetch: Fetch, error: SourceError | None) -> None:
        """Remember its host as one that fails or answers, if it was asked."""
        if fetch.at is None:
            return
        if isinstance(error, SourceBusy):
            if fetch.has_asked:
                self._slow.gave_no_answer(fetch.tenant, fetch.at[0])
        elif isinstance(error, SourceUnavailable):
            self._slow.failed(fetch.tenant, fetch.at[0], error.retry_after_s)
        else:
            self._slow.succeeded(fetch.tenant, fetch.at[0])

    async def _collect(self, fetch: Fetch, chunks: AsyncIterable[bytes], declared_bytes: int | None) -> bytes:
        """Put the body together, once there is room for all of it: bodies that stop half-way would block each other."""
        ceiling = self._settings.max_bytes
        if declared_bytes is not None and declared_bytes > ceiling:
            raise SourceTooLarge(f"{declared_bytes} bytes, the ceiling is {ceiling}")
        reserved = ceiling if declared_bytes is None else declared_bytes
        with fetch.waiting():
            await self._room.take(fetch.tenant, reserved)
        data = bytearray()
        kept = 0
        try:
            async for chunk in chunks:
                if len(data) + len(chunk) > reserved:
                    raise SourceTooLarge(f"more than {reserved} bytes")
                data += chunk
                self.held_bytes += len(chunk)
            kept = len(data)
            return bytes(data)
        finally:
            self.held_bytes -= len(data) - kept
            self._room.give_back(fetch.tenant, reserved - kept)

    def _release(self, size: int, tenant: str) -> None:
        self.held_bytes -= size
        self._room.give_back(tenant, size)


def translate(error: Exception) -> SourceError:
    """The ``SourceError`` that means the same as an exception of aiohttp, obstore or the file system."""
    match error:
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ForbiddenAddressError):
            return SourceForbidden("the address is not a public one")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | obstore.exceptions.InvalidPathError():
            return SourceForbidden("not a valid address")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return SourceUnavailable("TLS failed")
        case aiohttp.ClientError():
            return SourceUnavailable(f"connection failed ({type(error).__name__})")
        case FileNotFoundError() | obstore.exceptions.NotFoundError():
            return SourceRefused("no such file or object")
        case PermissionError() | obstore.exceptions.PermissionDeniedError() | obstore.exceptions.UnauthenticatedError():
            return SourceDenied("no permission to read it, or no such object")
        case IsADirectoryError() | NotADirectoryError():
            return SourceRefused("not a regular file")
        case OSError() if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
            return SourceRefused("not a regular file")
        case ValueError():  # the parser's message may quote a password
            return SourceForbidden("not a valid address")
        case _:  # OSError, obstore.exceptions.BaseError (also without credentials), and what later versions add
            return SourceUnavailable(f"fetch failed ({type(error).__name__})")
