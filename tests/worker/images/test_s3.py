"""Claim checks in S3: a server of that protocol, and credentials from the environment."""

import asyncio
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from deploy.local.ports import LOOPBACK, free_port
from tests.stream_server import StreamServer
from tests.worker.messages.edges import until
from worker.errors import (
    SourceDenied,
    SourceError,
    SourceForbidden,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)
from worker.images.fetch import Fetcher
from worker.settings import FetchSettings

pytestmark = pytest.mark.integration

REGION, BUCKET, SECRET = "eu-central-1", "uploads", "a-secret-that-nobody-may-read"
BODY = bytes(range(256)) * 1000
MAX = 300_000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(LOOPBACK, 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id="x", aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key, body in {"a/image.png": BODY, "a/ü %.png": BODY[:10], "a/empty": b"", "a/large": bytes(MAX + 1)}.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    for key in ("a//image.png", "a/image.png/", "a/./image.png"):  # what S3 allows
        client.put_object(Bucket=BUCKET, Key=key, Body=b"another")
    client.put_object(Bucket=BUCKET, Key="a/chunked", Body=BODY, ContentEncoding="aws-chunked")
    yield url
    client.close()
    server.stop()


@pytest.fixture
def fetcher(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetcher]:
    yield from started(server, monkeypatch)


def started(endpoint: str, monkeypatch: pytest.MonkeyPatch, deadline_s: float = 60) -> Iterator[Fetcher]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    sources = (f"s3://{BUCKET}/a", "s3://elsewhere")
    fetcher = Fetcher(FetchSettings(sources=sources, max_bytes=MAX, deadline_s=deadline_s))
    fetcher.start()
    yield fetcher
    fetcher.close()


@pytest.mark.parametrize(
    ("key", "body"), [("a/image.png", BODY), ("a/%C3%BC%20%25.png", BODY[:10]), ("a/empty", b""), ("a/chunked", BODY)]
)
def test_an_object_is_fetched(fetcher: Fetcher, key: str, body: bytes) -> None:
    assert fetcher.fetch(f"s3://{BUCKET}/{key}").future.result(70) == body


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        (f"s3://{BUCKET}/a/missing.png", SourceRefused),
        ("s3://elsewhere/a/image.png", SourceRefused),  # no such bucket
        (f"s3://{BUCKET}/a/large", SourceTooLarge),
        (f"s3://{BUCKET}/b/image.png", SourceForbidden),
        (f"s3://{BUCKET}/a/../b", SourceForbidden),
        (f"s3://{BUCKET}/a//image.png", SourceForbidden),
        (f"s3://{BUCKET}/a/image.png/", SourceForbidden),
        (f"s3://{BUCKET}/a/./image.png", SourceForbidden),
        ("s3://others/a/image.png", SourceForbidden),
    ],
)
def test_what_is_not_ours_to_fetch_is_refused(fetcher: Fetcher, uri: str, error: type[SourceError]) -> None:
    with pytest.raises(error) as caught:
        fetcher.fetch(uri).future.result(70)
    assert SECRET not in str(caught.value)


def test_a_store_that_is_away_defers_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    for fetcher in started(f"http://{LOOPBACK}:{free_port()}", monkeypatch, deadline_s=2):
        with pytest.raises(SourceUnavailable) as caught:
            fetcher.fetch(f"s3://{BUCKET}/a/image.png").future.result(20)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_store_that_denies_access_defers_and_is_asked_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    asked: list[bytes] = []
    answers = {b"GET /uploads/a/there.png": 404}

    async def deny(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        code = answers.get(asked[-1].partition(b" HTTP")[0], status)
        writer.write(b"HTTP/1.1 %d Denied\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % code)
        await writer.drain()
        writer.close()

    server = StreamServer(deny, (LOOPBACK, 0))
    server.start()
    try:
        for fetcher in started(f"http://{LOOPBACK}:{server.port}", monkeypatch):
            for number in range(16):  # a key that is not there may look the same, so it says nothing about the others
                with pytest.raises(SourceDenied) as caught:
                    fetcher.fetch(f"s3://{BUCKET}/a/{max(0, number - 5)}.png").future.result(20)
                assert isinstance(caught.value, SourceUnreadable) is (number >= 14)
            assert fetcher.unreadable == (f"s3://{BUCKET}/a",)
            with pytest.raises(SourceRefused):
                fetcher.fetch(f"s3://{BUCKET}/a/there.png").future.result(20)
            assert not fetcher.unreadable
        assert len(asked) == 17
    finally:
        server.close()


def test_many_objects_come_at_a_time(fetcher: Fetcher) -> None:
    fetches = [fetcher.fetch(f"s3://{BUCKET}/a/image.png") for _ in range(50)]
    assert {len(fetch.future.result(70)) for fetch in fetches} == {len(BODY)}
    until(lambda: fetcher.under_way == 0, "all fetches done")
