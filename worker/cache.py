"""Scores of images seen before, in Redis or Valkey. Never a verdict, and never in the way.

One entry for each image and bundle of models, keyed by everything that could change the numbers: graphs, preprocessing,
decoder version, precision, and the sha256 of the image bytes. Any failure is a miss; after a few in a row the cache is
left alone for a while.
"""

import hashlib
import json
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Protocol

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
from worker.inference import Scores
from worker.metrics import Metrics
from worker.settings import RedisSettings

_log = structlog.get_logger(__name__)

_FORMAT: Final = b"gp1"
_HEAD: Final = struct.Struct("<3sIHHI")  # format, crc32 of the rest, length of facts, views, embedding dimension
_FACTS: Final = TypeAdapter(ImageFacts)


@dataclass(frozen=True, slots=True)
class CachedScores:
    """What is kept of an image: enough to judge it again without its bytes."""

    facts: ImageFacts
    scores: Scores


class ScoreCache(Protocol):
    """Images by the sha256 (hex) of their bytes."""

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """One answer for each digest, in order; a failure is a miss. May block for the cache's time-out."""

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        """Keep these; a failure is forgotten."""


class NoCache:
    """Where no Redis is configured."""

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """Nothing is known."""
        return [None] * len(digests)

    def put(self, entries: Sequence[tuple[str, CachedScores]]) -> None:
        """Nothing is kept."""


class RedisCache:
    """``ScoreCache`` in Redis; used from several threads.

    Raises:
        StartupError: ``redis.url`` is no address; whether somebody answers there does not matter.
    """

    def __init__(self, settings: RedisSettings, bundle: Bundle, metrics: Metrics) -> None:
        assert settings.url is not None
        self._settings = settings
        self._metrics = metrics
        self._dimension = bundle.manifest.templates.dimension
        self._prefix = f"genprint:{models_digest(bundle)[:24]}:"
        try:
            self._client = redis.Redis.from_url(
                settings.url.get_secret_value(),
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
            self._client.connection_pool.make_connection()  # does not connect, but refuses unknown options
        except (ValueError, TypeError) as error:
            expected = "expected redis://, rediss:// or unix:// with options that redis-py knows"
            raise StartupError(f"setting redis.url: {expected}") from error
        # A full cache refuses writes alone; each success of a read would keep the writes going.
        self._reads, self._writes = _Breaker("reads", settings), _Breaker("writes", settings)

    def get(self, digests: Sequence[str]) -> list[CachedScores | None]:
        """See ``ScoreCache``."""
        found: list[CachedScores | None] = [None] * len(digests)
        if not digests or not self._reads.closed:
            return found
        try:
            values: list[bytes | None] = self._client.mget([self._key(d) for d in digests])  # type: ignore[assignment]
        except (redis.RedisError, OSError, ValueError) as error:
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
            with self._client.pipeline(transaction=False) as pipeline:
                for digest, entry in entries:
                    pipeline.set(self._key(digest), encode_entry(entry), ex=self._settings.ttl_s)
                pipeline.execute()
        except (redis.RedisError, OSError, ValueError) as error:
            self._failed(self._writes, error)
        else:
            self._writes.succeeded()

    def _fitting(self, entry: CachedScores | None) -> CachedScores | None:
        """The entry, if its embedding has the bundle's dimension: a cache is written to by others."""
        if entry is None or len(entry.scores.embedding) != (self._dimension if len(entry.scores.logits) else 0):
            return None
        return entry

    def _key(self, digest: str) -> str:
        salt = self._settings.salt.get_secret_value()
        return self._prefix + (hashlib.sha256(f"{salt}:{digest}".encode()).hexdigest() if salt else digest)

    def _failed(self, breaker: "_Breaker", error: Exception) -> None:
        self._metrics.cache.labels("error").inc()
        breaker.failed(error)


class _Breaker:
    """After some failures in a row everything is left out for a while; then one more failure is enough."""

    def __init__(self, what: str, settings: RedisSettings) -> None:
        self._what = what
        self._settings = settings
        self._failures = 0
        self._open_until = 0.0

    @property
    def closed(self) -> bool:
        """Whether to try."""
        return time.monotonic() >= self._open_until

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= self._settings.breaker_failures:
            self._open_until = time.monotonic() + self._settings.breaker_pause_s
            pause_s = self._settings.breaker_pause_s
            _log.warning("cache left alone", what=self._what, for_s=pause_s, error=type(error).__name__)


def models_digest(bundle: Bundle) -> str:
    """Sha256 (hex) of everything that scores depend on: graphs, preprocessing, precision, decoder."""
    manifest = bundle.manifest
    models = [(manifest.files[m.file], m.preprocessing.digest, m.precision) for m in manifest.models]
    return canonical_digest([models, manifest.templates.l2_normalised, decoder_version()])


def encode_entry(entry: CachedScores) -> bytes:
    """Header with checksum, then image facts as JSON, logits and embedding as little-endian float32."""
    facts = json.dumps(asdict(entry.facts)).encode()
    logits, embedding = entry.scores.logits.astype("<f4"), entry.scores.embedding.astype("<f4")
    body = facts + logits.tobytes() + embedding.tobytes()
    return _HEAD.pack(_FORMAT, zlib.crc32(body), len(facts), len(logits), len(embedding)) + body


def decode_entry(value: bytes) -> CachedScores | None:
    """What ``encode_entry`` made, with finite numbers; None for anything else."""
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
    return CachedScores(facts, Scores(numbers[:views], numbers[views:]))
