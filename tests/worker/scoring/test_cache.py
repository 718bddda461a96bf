"""One conformance suite over both caches; then Redis when it lies, hangs, dies or denies access."""

import asyncio
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from bundle.preprocess import ImageFacts
from bundle.store import Bundle
from deploy.local.valkey import Valkey
from tests.stream_server import StreamServer
from tests.worker.messages.edges import until
from tests.worker.pipeline.harness import DictionaryCache
from tests.worker.small_bundle import small_bundle
from worker.errors import StartupError
from worker.operations.metrics import Metrics
from worker.scoring.cache import (
    CachedScores,
    NoCache,
    RedisCache,
    ScoreCache,
    decode_entry,
    encode_entry,
    models_digest,
)
from worker.scoring.engine import ImageScores
from worker.settings import RedisSettings

Make = Callable[..., RedisCache]

FACTS = ImageFacts("PNG", 640, 480, 12345, animated=False)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def entry(seed: int = 0, views: int = 3, dimension: int = 1) -> CachedScores:
    """An entry of the small bundle, whose embeddings have one dimension."""
    numbers = np.random.default_rng(seed)
    logits, embedding = numbers.normal(size=views), numbers.normal(size=dimension if views else 0)
    return CachedScores(FACTS, ImageScores(logits.astype(np.float32), embedding.astype(np.float32)))


def same(found: CachedScores | None, expected: CachedScores) -> bool:
    return (
        found is not None
        and found.facts == expected.facts
        and found.scores.logits.dtype == found.scores.embedding.dtype == np.float32
        and np.array_equal(found.scores.logits, expected.scores.logits)
        and np.array_equal(found.scores.embedding, expected.scores.embedding)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(url: str, bundle: Bundle, metrics: Metrics | None = None, **settings: Any) -> RedisCache:
            # A salt of its own keeps each test's keys apart; a long time-out, since these two cores are shared.
            quick = {"url": url, "timeout_s": 2, "salt": uuid.uuid4().hex}
            cache = RedisCache(RedisSettings.model_validate({**quick, **settings}), bundle, metrics or Metrics())
            return stack.enter_context(closing(cache))

        yield made


def count(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("genprint_cache_total", {"result": result}) or 0


@pytest.fixture(params=["memory", pytest.param("valkey", marks=pytest.mark.integration)])
def cache(request: pytest.FixtureRequest, bundle: Bundle, make: Make) -> ScoreCache:
    return DictionaryCache() if request.param == "memory" else make(request.getfixturevalue("valkey").url, bundle)


def test_what_was_put_is_found_in_the_order_of_asking(cache: ScoreCache) -> None:
    cache.put([(A, entry(1)), (B, entry(2, views=0))])
    found = cache.get([C, B, A, A])
    assert found[0] is None
    assert same(found[1], entry(2, views=0))
    assert same(found[2], entry(1))
    assert same(found[3], entry(1))


@pytest.mark.integration
def test_an_embedding_of_another_dimension_is_a_miss(valkey: Valkey, bundle: Bundle, make: Make) -> None:
    cache = make(valkey.url, bundle)
    cache.put([(A, entry(dimension=8)), (B, entry())])
    assert cache.get([A]) == [None]
    assert same(cache.get([B])[0], entry())


def test_the_last_of_two_entries_stays(cache: ScoreCache) -> None:
    cache.put([(A, entry(1))])
    cache.put([(A, entry(2)), (A, entry(3))])
    assert same(cache.get([A])[0], entry(3))


def test_nothing_asked_nothing_found(cache: ScoreCache) -> None:
    cache.put([])
    assert cache.get([]) == []
    assert cache.get([A]) == [None]


def test_no_cache_knows_nothing() -> None:
    NoCache().put([(A, entry())])
    assert NoCache().get([A, B]) == [None, None]


# The encoding --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_encoding_round_trip(views: int, dimension: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    scores = ImageScores(
        numbers.normal(size=views).astype(np.float32), numbers.normal(size=dimension).astype(np.float32)
    )
    assert same(decode_entry(encode_entry(CachedScores(FACTS, scores))), CachedScores(FACTS, scores))


@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_entry(value: bytes) -> None:
    assert decode_entry(value) is None
    assert decode_entry(b"gp1" + value) is None


@given(st.data())
def test_a_changed_byte_or_a_missing_end_is_noticed(data: st.DataObject) -> None:
    value = bytearray(encode_entry(entry()))
    position = data.draw(st.integers(0, len(value) - 1))
    assert decode_entry(bytes(value[:position])) is None
    value[position] ^= data.draw(st.integers(1, 255))
    assert decode_entry(bytes(value)) is None
    assert decode_entry(encode_entry(entry()) + b"\0") is None


@pytest.mark.parametrize(
    "facts",
    [
        b"{}",
        b"[]",
        b"5",
        b"{",
        b'{"a":' * 100_000,
        b'{"format":"PNG","width":"8","height":8,"bytes":1,"animated":false}',
        b'{"format":null,"width":8,"height":8,"bytes":1,"animated":false}',
    ],
)
def test_facts_of_another_shape_under_a_good_checksum(facts: bytes) -> None:
    facts = facts[:60_000]
    assert decode_entry(struct.pack("<3sIHHI", b"gp1", zlib.crc32(facts), len(facts), 0, 0) + facts) is None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_no_model_gives_under_a_good_checksum(number: float) -> None:
    poisoned = np.array([1, number], np.float32)
    assert decode_entry(encode_entry(CachedScores(FACTS, ImageScores(poisoned, np.ones(2, np.float32))))) is None
    assert decode_entry(encode_entry(CachedScores(FACTS, ImageScores(np.ones(2, np.float32), poisoned)))) is None


# Keys ----------------------------------------------------------------------------------------------------------------


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update=changes))


def with_model(bundle: Bundle, **changes: Any) -> Bundle:
    return with_manifest(bundle, models=(bundle.manifest.models[0].model_copy(update=changes),))


def test_whatever_changes_a_score_changes_the_keys(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, model = bundle.manifest, bundle.manifest.models[0]
    view = model.preprocessing.views[0].model_copy(update={"orient": False})
    assert model.logit is not None
    renamed = model.logit.model_copy(update={"name": "another output of the graph"})
    digests = [
        models_digest(bundle),
        models_digest(with_manifest(bundle, files={**manifest.files, model.file: "0" * 64})),
        models_digest(with_model(bundle, precision="fp16")),
        models_digest(with_model(bundle, logit=renamed)),
        models_digest(with_model(bundle, preprocessing=model.preprocessing.model_copy(update={"views": (view,)}))),
        models_digest(
            with_manifest(bundle, templates=manifest.templates.model_copy(update={"l2_normalised": True})),
        ),
    ]
    monkeypatch.setattr("worker.scoring.cache.decoder_version", lambda: "another")
    digests.append(models_digest(bundle))
    assert len(set(digests)) == len(digests)


def test_what_changes_no_score_keeps_the_keys(bundle: Bundle) -> None:
    manifest = bundle.manifest
    calibration = manifest.calibration.model_copy(update={"bias": 3.0})
    files = {**manifest.files, manifest.templates.file: "0" * 64}
    assert models_digest(with_manifest(bundle, calibration=calibration, files=files)) == models_digest(bundle)


@pytest.mark.integration
def test_another_bundle_or_another_salt_shares_nothing(valkey: Valkey, bundle: Bundle, make: Make) -> None:
    salt = uuid.uuid4().hex
    make(valkey.url, bundle, salt=salt).put([(A, entry())])
    assert make(valkey.url, bundle, salt=salt).get([A]) != [None]
    assert make(valkey.url, bundle).get([A]) == [None]
    assert make(valkey.url, bundle, salt="").get([A]) == [None]
    assert make(valkey.url, with_model(bundle, precision="fp16"), salt=salt).get([A]) == [None]


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.mark.integration
def test_entries_expire_and_their_keys_do_not_tell_what_is_kept(
    valkey: Valkey, bundle: Bundle, client: redis.Redis, make: Make
) -> None:
    make(valkey.url, bundle, ttl_s=1000, salt="tenant-1").put([(A, entry()), (B, entry())])
    keys: Any = client.keys()
    assert len(keys) == 2
    for key in keys:
        ttl: Any = client.ttl(key)
        assert 990 < ttl <= 1000
        assert A.encode() not in key
        assert b"tenant-1" not in key


@pytest.mark.integration
def test_corrupt_values_and_values_of_another_type_are_misses(
    valkey: Valkey, bundle: Bundle, client: redis.Redis, make: Make
) -> None:
    metrics = Metrics()
    cache = make(valkey.url, bundle, metrics)
    for spoil, result in ((b"garbage", "corrupt"), (encode_entry(entry())[:-1], "corrupt"), (b"", "corrupt")):
        cache.put([(A, entry())])
        [key] = client.keys()
        client.set(key, spoil)
        before = count(metrics, result)
        assert cache.get([A]) == [None]
        assert count(metrics, result) == before + 1
    client.delete(key)
    client.rpush(key, "x")
    assert cache.get([A]) == [None]
    cache.put([(A, entry())])
    assert same(cache.get([A])[0], entry())
    assert count(metrics, "error") == 0


# Trouble -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey.log") as server:
        yield server


@pytest.mark.integration
@pytest.mark.parametrize("warm", [False, True])
def test_a_server_that_hangs_costs_its_time_out_until_the_breaker_opens(
    own_valkey: Valkey, bundle: Bundle, warm: bool, make: Make
) -> None:
    metrics = Metrics()
    cache = make(own_valkey.url, bundle, metrics, timeout_s=0.1, breaker_failures=3, breaker_pause_s=60)
    if warm:
        cache.put([(A, entry())])
    own_valkey.pause()
    try:
        for _ in range(3):
            began = time.monotonic()
            assert cache.get([A]) == [None]
            assert 0.05 < time.monotonic() - began < 1.8
        began = time.monotonic()
        for _ in range(100):
            assert cache.get([A, B]) == [None, None]
            cache.put([(A, entry())])
        assert time.monotonic() - began < 5  # asked each time, it would be twenty
    finally:
        own_valkey.resume()
    assert count(metrics, "error") == 3


def served(answer: Callable[[bytes], list[bytes]], pause_s: float = 0.0) -> StreamServer:
    """A server that agrees to everything but MGET and SET, which it answers piece by piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readline()).startswith(b"*"):
                sizes_and_parts = [await reader.readline() for _ in range(2 * int(head[1:]))]
                name = sizes_and_parts[1].strip().upper()
                for piece in answer(name) if name in (b"MGET", b"SET") else [b"+OK\r\n"]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
        except (OSError, asyncio.CancelledError):
            pass  # the client has had enough, or the test is over
        finally:
            writer.transport.abort()

    return StreamServer(serve, ("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("pieces", "pause_s", "timeout_s"),
    [
        ([b"*1\r\n$100000\r\n", *[b"x"] * 10_000], 0.02, 0.1),
        ([b"*1\r\n$8000000000\r\n", *[bytes(2**20)] * 8_000], 0.0, 100),
    ],
    ids=["a byte at a time", "without an end"],
)
def test_an_answer_has_a_deadline_and_a_ceiling(
    bundle: Bundle, make: Make, pieces: list[bytes], pause_s: float, timeout_s: float
) -> None:
    metrics, server = Metrics(), served(lambda _: pieces, pause_s)
    server.start()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_kib()
    try:
        cache = make(f"redis://127.0.0.1:{server.port}?protocol=2", bundle, metrics, timeout_s=timeout_s)
        began = time.monotonic()
        cache.check()
        assert cache.get([A]) == [None]
        assert time.monotonic() - began < 30
        assert count(metrics, "error") == 1
    finally:
        server.close()
    assert peak_kib() - before < 64 * 1024  # not the 8 GB


@pytest.mark.parametrize(
    "answer",
    [
        b":5\r\n",
        b"+OK\r\n",
        b"$3\r\nabc\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n-ERR x\r\n",
        b"*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n",
        b"*0\r\n",
        b"*1\r\n" * 3000 + b"$-1\r\n",
        b">1\r\n+x\r\n" * 3000,
        b"$99999999999999999999\r\n",
        b"%1\r\n*1\r\n+x\r\n+y\r\n",
        b"nonsense\r\n",
    ],
    ids=lambda answer: answer[:12].decode(),
)
def test_an_answer_of_another_kind_is_a_failure_like_any_other(bundle: Bundle, make: Make, answer: bytes) -> None:
    metrics, server = Metrics(), served(lambda _: [answer])
    server.start()
    try:
        cache = make(f"redis://127.0.0.1:{server.port}?protocol=2", bundle, metrics, timeout_s=0.5)
        cache.check()
        assert cache.get([A]) == [None]
        cache.put([(A, entry())])
    finally:
        server.close()
    assert count(metrics, "hit") == 0


def test_a_late_answer_cuts_no_write_beside_it(bundle: Bundle, make: Make) -> None:
    metrics = Metrics()

    def answer(name: bytes) -> list[bytes]:
        return [b"*1\r\n", *[b""] * 1000] if name == b"MGET" else [b"", b"", b"+OK\r\n"]

    server = served(answer, 0.02)
    server.start()
    try:
        cache = make(f"redis://127.0.0.1:{server.port}?protocol=2", bundle, metrics, timeout_s=0.3)
        with ThreadPoolExecutor(2) as threads:
            late = threads.submit(cache.get, [A])
            while not late.done():
                cache.put([(B, entry())])
        assert late.result() == [None]
        assert count(metrics, "error") == 1
    finally:
        server.close()


def peak_kib() -> int:
    """The most memory that this process has had since the peak began."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (b"MOVED 1 10.0.0.1:6379", "is a node of a cluster"),
        (b"CLUSTERDOWN Hash slot not served", "is a node of a cluster"),
        (b"ERR DB index is out of range", "has no such database"),
    ],
)
def test_a_server_that_never_fits_stops_the_start(bundle: Bundle, make: Make, error: bytes, expected: str) -> None:
    server = served(lambda _: [b"-" + error + b"\r\n"])
    server.start()
    try:
        with pytest.raises(StartupError, match=rf"redis\.url: 127\.0\.0\.1:{server.port} {expected}"):
            make(f"redis://127.0.0.1:{server.port}?protocol=2", bundle).check()
    finally:
        server.close()


@pytest.mark.integration
def test_a_database_that_is_not_there_stops_the_start(valkey: Valkey, bundle: Bundle, make: Make) -> None:
    with pytest.raises(StartupError, match=r"redis\.url: .* has no such database"):
        make(f"{valkey.url.rpartition('/')[0]}/99", bundle).check()


def test_an_address_that_asks_for_text_is_refused(bundle: Bundle, make: Make) -> None:
    with pytest.raises(StartupError, match=r"setting redis\.url"):
        make("redis://127.0.0.1:1/0?decode_responses=true", bundle)


@pytest.mark.integration
def test_a_killed_server_is_a_miss_and_its_return_is_noticed(own_valkey: Valkey, bundle: Bundle, make: Make) -> None:
    cache = make(own_valkey.url, bundle, breaker_failures=2, breaker_pause_s=0.01)
    cache.put([(A, entry())])
    own_valkey.kill()
    for _ in range(5):
        assert cache.get([A]) == [None]
        cache.put([(A, entry())])
    own_valkey.start()

    def back() -> bool:
        cache.put([(A, entry())])
        return cache.get([A]) != [None]

    until(back, "an entry found again")


@pytest.mark.integration
def test_a_full_server_is_read_from_and_after_some_failures_not_written_to(
    own_valkey: Valkey, bundle: Bundle, make: Make
) -> None:
    metrics = Metrics()
    cache = make(own_valkey.url, bundle, metrics, breaker_failures=2, breaker_pause_s=60)
    cache.put([(A, entry())])
    with redis.Redis.from_url(own_valkey.url) as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)
        for _ in range(4):
            cache.put([(B, entry())])
            assert same(cache.get([A])[0], entry())
    assert count(metrics, "error") == 2


@pytest.mark.integration
def test_failures_with_successes_between_do_not_open_the_breaker(
    own_valkey: Valkey, bundle: Bundle, make: Make
) -> None:
    metrics = Metrics()
    cache = make(own_valkey.url, bundle, metrics, breaker_failures=2, breaker_pause_s=60)
    with redis.Redis.from_url(own_valkey.url) as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        for _ in range(4):
            admin.config_set("maxmemory", 1)
            cache.put([(A, entry())])
            admin.config_set("maxmemory", 0)
            cache.put([(A, entry())])
    assert same(cache.get([A])[0], entry())
    assert count(metrics, "error") == 4


@pytest.mark.integration
def test_a_server_that_turns_us_away_is_a_miss(own_valkey: Valkey, bundle: Bundle, make: Make) -> None:
    with redis.Redis.from_url(own_valkey.url) as admin:
        admin.config_set("requirepass", "right")
        right, wrong = (own_valkey.url.replace("//", f"//:{word}@") for word in ("right", "wrong"))
        make(right, bundle, salt="s").put([(A, entry())])
        assert make(right, bundle, salt="s").get([A]) != [None]
        for url in (wrong, own_valkey.url):
            cache = make(url, bundle, salt="s")
            cache.put([(A, entry(2))])
            assert cache.get([A]) == [None]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis://nowhere.invalid", "unix:///nowhere"])
def test_a_server_that_is_not_there_is_a_miss(bundle: Bundle, url: str, make: Make) -> None:
    cache = make(url, bundle)
    cache.put([(A, entry())])
    assert cache.get([A]) == [None]


@pytest.mark.parametrize(
    "url",
    ["http://secret", "secret", "redis://:secret@h:port", "redis://h?secret=1", "redis://h?socket_timeout=secret"],
)
def test_an_address_that_is_none_stops_the_start_and_is_not_shown(bundle: Bundle, url: str, make: Make) -> None:
    with pytest.raises(StartupError, match=r"redis\.url") as caught:
        make(url, bundle)
    assert "secret" not in str(caught.value)
