"""The score cache: scores of images that were seen before, in Redis or Valkey, and never verdicts.

There is one entry for each image and bundle of models, under a key of everything that scores depend on: graphs,
preprocessing, decoder version, precision, and the sha256 of the image bytes. Any failure is a miss; after a few in a
row the cache is bypassed for a while.

At the start, a worker serves without a cache that is away; but one that denies access stops the start, since that is a
mistake in the settings.
"""

import hashlib
import json
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np
import redis
import structlog
from pydantic import TypeAdapter
from redis.backoff import NoBackoff
from redis.retry import Retry

from bundle.manifest import canonical_digest
from bundle.preprocess import ImageFacts, decoder_version
from bundle.store import Bundle
from worker.errors import StartupError
from worker.operations.metrics import Metrics
from worker.operations.tls import alert, client_context, tls_trouble
from worker.scoring.engine import ImageScores
from worker.settings import RedisSettings

_log = structlog.get_logger(__name__)

_FORMAT: Final = b"gp1"
_HEAD: Final = struct.Struct("<3sIHHI")  # format, crc32 of the rest, length of facts, views, embedding dimension
_FACTS: Final = TypeAdapter(ImageFacts)
_CHECK_TIMEOUT_S: Final = 2.0
"""Time limit at the start, when no event waits: a TLS handshake on a busy machine is slow."""
_WAITS_A_CALL: Final = 4
"""How often a call may take ``redis.timeout_s`` altogether: to connect, to log in, to be sent and to be answered.
redis-py limits each wait on the socket, which an answer of a byte at a time, or without an end, never exceeds."""
_CALLS: Final = 4
_MOST_ANSWER_BYTES: Final = 8 * 2**20
"""Of one call; the scores of an image are a few KiB. ``Settings.memory_bytes`` counts as many for each of the calls."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachedScores:
    """What the cache keeps of an image: enough for another verdict without its bytes."""

    facts: ImageFacts
    scores: ImageScores


class ScoreCache(Protocol):
    """Scores of images, by the sha256 (hex) of their bytes."""

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """One answer for each digest, in order; a failure is a miss. May block for the cache's time-out."""

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        """Keep these; a failure is not reported to the caller."""


class NoCache:
    """``ScoreCache`` that keeps nothing, where no Redis is configured."""

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """Return a miss for each digest."""
        return [None] * len(digests)

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        """Keep nothing."""


class RedisCache:
    """``ScoreCache`` in Redis; used from several threads.

    Raises:
        StartupError: ``redis.url`` is no valid address, or a file of TLS cannot be used; nothing connects yet.
    """

    def __init__(self, settings: RedisSettings, bundle: Bundle, metrics: Metrics) -> None:
        assert settings.url is not None
        self._settings = settings
        self._metrics = metrics
        self._dimension = bundle.manifest.templates.dimension
        self._prefix = f"genprint:{models_digest(bundle)[:24]}:"
        try:
            self._reader, self._writer = (_client(settings, settings.timeout_s) for _ in range(2))
            self._reader.connection_pool.make_connection()  # does not connect, but refuses unknown options
        except (ValueError, TypeError) as error:
            expected = "expected redis://, rediss:// or unix:// with options that redis-py knows"
            raise StartupError(f"setting redis.url: {expected}") from error
        # Two breakers: a full cache refuses writes only, and each successful read would reset a common one.
        self._reads, self._writes = _Breaker("reads", settings), _Breaker("writes", settings)
        self._calls = ThreadPoolExecutor(_CALLS, "cache")
        metrics.cache_breaker.labels("reads").set_function(lambda: not self._reads.closed)
        metrics.cache_breaker.labels("writes").set_function(lambda: not self._writes.closed)

    def check(self) -> None:
        """Check access by a read and by a write that changes nothing; a server that is away, busy or full is logged.

        Raises:
            StartupError: password, certificate or rights are refused, the server's certificate is not trusted, there
                is no such database, or the server is one node of a cluster.
        """
        key = f"{self._prefix}start"
        try:
            wait_s = max(_CHECK_TIMEOUT_S, self._settings.timeout_s)
            with _client(self._settings, wait_s) as client:
                self._within(client, wait_s, lambda: client.mget([key]))
                # only if the key exists, which it does not
                self._within(client, wait_s, lambda: client.set(key, b"", ex=1, xx=True))
        except Exception as error:  # whatever an answer that makes no sense to redis-py ends in
            if refusal := self._refusal(error):
                raise StartupError(f"{refusal}; without redis.url a worker serves without a cache") from error
            _log.warning("cache unavailable, serving without it", at=_host(self._settings), error=type(error).__name__)

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """See ``ScoreCache``."""
        found: list[CachedScores | None] = [None] * len(digests)
        if not digests or not self._reads.closed:
            return found
        try:
            values = self._within(self._reader, self._settings.timeout_s, lambda: self._values(digests))
        except (redis.RedisError, OSError) as error:
            self._failed(self._reads, error)
            return found
        self._reads.succeeded()
        for i, value in enumerate(values):
            if value is not None:
                found[i] = self._fitting(decode_entry(value))
                self._metrics.cache.labels("hit" if found[i] else "corrupt").inc()
            else:
                self._metrics.cache.labels("miss").inc()
        return found

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        """See ``ScoreCache``."""
        if not entries or not (self._reads.closed and self._writes.closed):
            return
        try:
            with self._writer.pipeline(transaction=False) as pipeline:
                for digest, entry in entries:
                    pipeline.set(self._key(digest), encode_entry(entry), ex=self._settings.ttl_s)
                self._within(self._writer, self._settings.timeout_s, pipeline.execute)
        except (redis.RedisError, OSError) as error:
            self._failed(self._writes, error)
        else:
            self._writes.succeeded()

    def close(self) -> None:
        """See ``ScoreCache``."""
        self._calls.shutdown(wait=False)
        self._reader.close()
        self._writer.close()

    def _values(self, digests: Sequence[str]) -> list[bytes | None]:
        found: Any = self._reader.mget([self._key(digest) for digest in digests])
        if not isinstance(found, list) or len(found) != len(digests):
            raise TypeError("not one answer for each key")
        if not all(value is None or isinstance(value, bytes) for value in found):
            raise TypeError("an answer that is neither bytes nor none")
        return found

    def _within(self, client: redis.Redis, wait_s: float, call: Callable[[], T]) -> T:
        """Make a call on another thread, for as long as a call may take altogether.

        Args:
            client: makes the call.
            wait_s: how long each of its waits may take.
            call: gives the answer.

        Raises:
            TimeoutError: it takes longer; the client's connections are closed.
            OSError, RedisError: it failed, also because another call of the client was cut that way, or because of an
                answer that makes no sense; the client's connections are closed then, too.
        """
        answer = self._calls.submit(call)
        try:
            return answer.result(_WAITS_A_CALL * wait_s)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:  # redis-py's own, or ours: what comes next on that connection is anybody's guess
            client.connection_pool.disconnect()
            raise redis.ConnectionError(f"no valid answer ({type(error).__name__}: {error})") from error
        finally:
            if not answer.cancel() and not answer.done():
                client.connection_pool.disconnect()

    def _refusal(self, error: Exception) -> str | None:
        """What is wrong with settings or certificates; None if the error has another cause."""
        s = self._settings
        host, user = _host(s), s.username or urlsplit(_url(s)).username or "default"
        trouble = tls_trouble(error, "redis", s)
        if trouble is None and isinstance(error, redis.ConnectionError) and (refused := _alert(s)):
            trouble = tls_trouble(refused, "redis", s)
        if trouble:
            return f"setting redis.url: no TLS connection to {host}: {trouble}"
        match error:
            case redis.AuthenticationError():
                return f"setting redis.url: {host} refuses user {user} with that password (redis.password)"
            case redis.exceptions.NoPermissionError():
                right = "MGET and SET on the keys genprint:*"
                return f"setting redis.url: at {host} user {user} lacks a right; it needs {right}"
            case (
                redis.exceptions.MovedError()
                | redis.exceptions.AskError()
                | redis.exceptions.ClusterDownError()
                | redis.exceptions.ClusterCrossSlotError()
            ):
                return f"setting redis.url: {host} is a node of a cluster ({error}); name a server without one"
            case redis.ResponseError() if "DB index" in str(error):
                return f"setting redis.url: {host} has no such database ({error})"
        return None

    def _fitting(self, entry: CachedScores | None) -> CachedScores | None:
        """The entry if its embedding has the bundle's dimension, else None: others can write to the cache too."""
        if entry is None or len(entry.scores.embedding) != (self._dimension if len(entry.scores.logits) else 0):
            return None
        return entry

    def _key(self, digest: str) -> str:
        salt = self._settings.salt.get_secret_value()
        return self._prefix + (hashlib.sha256(f"{salt}:{digest}".encode()).hexdigest() if salt else digest)

    def _failed(self, breaker: "_Breaker", error: Exception) -> None:
        self._metrics.cache.labels("error").inc()
        breaker.failed(error)


def _client(settings: RedisSettings, timeout_s: float) -> redis.Redis:
    """A client that is not connected yet.

    Raises:
        StartupError: settings do not fit together.
        ValueError, TypeError: from redis-py, whose message may show the address.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    address = urlsplit(_url(settings))
    if settings.username is not None or settings.password is not None:
        if address.username or address.password:
            raise StartupError("setting redis.password: the user is in redis.url already; set it in one of them only")
        password = settings.password
        options |= {"username": settings.username, "password": password.get_secret_value() if password else None}
    files = {"ca_certs": settings.ssl_cafile, "certfile": settings.ssl_certfile, "keyfile": settings.ssl_keyfile}
    if address.scheme == "rediss":
        client_context("redis", settings)  # only for its errors: redis-py reads the files itself at every connection
        options |= {f"ssl_{name}": str(path) for name, path in files.items() if path is not None}
    elif any(files.values()):
        raise StartupError(
            "setting redis.ssl_cafile: certificates need an address that begins with rediss:// (redis.url)"
        )
    client: redis.Redis = redis.Redis.from_url(_url(settings), **options)
    if client.get_encoder().decode_responses:
        raise ValueError("entries are no text")
    pool: Any = client.connection_pool
    pool.connection_class = type("MeteredConnection", (_Metering, pool.connection_class), {})
    return client


class _Metering:
    """Part of a connection of redis-py (8.1), which believes whatever length an answer claims."""

    def _connect(self) -> Any:
        return _MeteredSocket(super()._connect())  # type: ignore[misc]  # redis-py's classes have it


class _MeteredSocket:
    """A socket that receives no more than ``_MOST_ANSWER_BYTES`` after anything is sent."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._received = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def sendall(self, data: bytes) -> None:
        self._received = 0
        self._wrapped.sendall(data)

    def recv(self, size: int) -> bytes:
        data: bytes = self._wrapped.recv(size)
        self._count(len(data))
        return data

    def recv_into(self, *where: Any) -> int:
        count: int = self._wrapped.recv_into(*where)
        self._count(count)
        return count

    def _count(self, count: int) -> None:
        self._received += count
        if self._received > _MOST_ANSWER_BYTES:
            raise redis.ConnectionError(f"an answer of more than {_MOST_ANSWER_BYTES} bytes")


def _alert(settings: RedisSettings) -> Exception | None:
    """The alert by which the server refuses the worker's certificate, if it speaks TLS and sends one."""
    address = urlsplit(_url(settings))
    if address.scheme != "rediss" or address.hostname is None:
        return None
    return alert(address.hostname, address.port or 6379, client_context("redis", settings), _CHECK_TIMEOUT_S / 2)


def _url(settings: RedisSettings) -> str:
    assert settings.url is not None
    return settings.url.get_secret_value()


def _host(settings: RedisSettings) -> str:
    """Host and port of the address, without user and password."""
    return urlsplit(_url(settings)).netloc.rpartition("@")[2] or "its socket"


class _Breaker:
    """Opens for a while after some failures in a row; then one more failure opens it again."""

    def __init__(self, what: str, settings: RedisSettings) -> None:
        self._what = what
        self._settings = settings
        self._failures = 0
        self._open_until = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls may be tried."""
        return time.monotonic() >= self._open_until

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= self._settings.breaker_failures:
            self._open_until = time.monotonic() + self._settings.breaker_pause_s
            pause_s = self._settings.breaker_pause_s
            _log.warning("cache bypassed", what=self._what, for_s=pause_s, error=type(error).__name__)


def models_digest(bundle: Bundle) -> str:
    """Sha256 (hex) of everything that scores depend on: graphs and their outputs, preprocessing, precision, decoder."""
    manifest = bundle.manifest
    models = [
        (
            manifest.files[model.file],
            *(output and output.name for output in (model.logit, model.embedding)),
            model.preprocessing.digest,
            model.precision,
        )
        for model in manifest.models
    ]
    return canonical_digest([models, manifest.templates.l2_normalised, decoder_version()])


def encode_entry(entry: CachedScores) -> bytes:
    """Encode an entry: header with checksum, image facts as JSON, logits and embedding as little-endian float32."""
    facts = json.dumps(asdict(entry.facts)).encode()
    logits, embedding = entry.scores.logits.astype("<f4"), entry.scores.embedding.astype("<f4")
    body = facts + logits.tobytes() + embedding.tobytes()
    return _HEAD.pack(_FORMAT, zlib.crc32(body), len(facts), len(logits), len(embedding)) + body


def decode_entry(value: bytes) -> CachedScores | None:
    """Decode what ``encode_entry`` made, with finite numbers; None for anything else."""
    try:
        form, checksum, facts_length, views, dimension = _HEAD.unpack_from(value)
        body = value[_HEAD.size :]
        if form != _FORMAT or checksum != zlib.crc32(body) or len(body) != facts_length + 4 * (views + dimension):
            return None
        facts = _FACTS.validate_json(body[:facts_length], strict=True)
    except (struct.error, ValueError):
        return None
    numbers = np.frombuffer(body[facts_length:], "<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        return None
    return CachedScores(facts, ImageScores(numbers[:views], numbers[views:]))
