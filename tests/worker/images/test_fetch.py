"""Claim checks against servers, stores and folders that misbehave, and addresses that try to evade the checks."""

import asyncio
import errno
import gzip
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getmembers, isclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import aiohttp
import obstore.exceptions
import pytest
from obstore.store import MemoryStore

from bundle.files import open_regular
from tests.stream_server import StreamServer
from tests.worker.messages.edges import until
from worker.errors import (
    Disposition,
    SourceBusy,
    SourceDenied,
    SourceError,
    SourceForbidden,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
)
from worker.images import files, web
from worker.images.addresses import is_public
from worker.images.fetch import Fetcher, translate
from worker.images.slow_hosts import SlowHosts
from worker.images.web import retry_after_s
from worker.settings import FetchSettings

MAX = 50_000
QUICK_S = 0.3
BODY = b"\x89PNG" + bytes(1000)

Start = Callable[..., Fetcher]
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def raw(sent: bytes) -> Answer:
    """Send exactly this and close the connection."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    return answer


def plain(head: str, body: bytes = b"") -> Answer:
    """Send this answer and close the connection."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + body)

    return answer


def redirect(to: str) -> Answer:
    return plain(f"302 Found\r\nLocation: {to}\r\nContent-Length: 0")


def then_silence(sent: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await reader.read()  # until the client disconnects

    return answer


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(10_000))
        await writer.drain()


def chunked(*parts: bytes, ending: bytes = b"0\r\n\r\n") -> Answer:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return plain("200 OK\r\nTransfer-Encoding: chunked", chunks + ending)


def without_end(sent: bytes, over_and_over: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
        while True:
            writer.write(over_and_over)
            await writer.drain()

    return answer


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a little at a time, so that no time-out between two reads ends it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


class Site:
    """A server that sends exactly the bytes of the table below, valid HTTP or not."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.answers: dict[str, Answer] = {
            "/ok": plain(f"200 OK\r\nContent-Length: {len(BODY)}", BODY),
            "/until-closed": plain("200 OK", BODY),
            "/empty": plain("200 OK\r\nContent-Length: 0"),
            "/full": plain("200 OK", bytes(MAX)),
            "/one-too-many": plain("200 OK", bytes(MAX + 1)),
            "/huge": then_silence(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
            "/endless": endless,
            "/short": plain("200 OK\r\nContent-Length: 100", b"x"),
            "/head-large": plain(f"200 OK\r\nContent-Length: {len(BODY)}\r\nX: {'x' * 200_000}", BODY),
            "/head-many": plain("200 OK\r\n" + "X: y\r\n" * 100 + f"Content-Length: {len(BODY)}", BODY),
            "/early-hints": raw(b"HTTP/1.1 103 \r\n\r\n" * 5 + b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY),
            "/endless-hints": raw(b"HTTP/1.1 103 \r\n\r\n" * 100_000),
            "/head-too-large": plain("200 OK" + f"\r\nX: {'x' * 60_000}" * 9),
            "/encoded-empty": plain("200 OK\r\nContent-Encoding:", BODY),
            "/encoded-identity": plain("200 OK\r\nContent-Encoding: Identity", BODY),
            "/encoded-aws": plain("200 OK\r\nContent-Encoding: aws-chunked", BODY),
            "/encoded-aws-comma": plain("200 OK\r\nContent-Encoding: aws-chunked,\r\nContent-Encoding:", BODY),
            "/encoded-twice": plain("200 OK\r\nContent-Encoding: aws-chunked\r\nContent-Encoding: gzip", BODY),
            "/gzip": plain("200 OK\r\nContent-Encoding: gzip", b"\x1f\x8b"),
            "/gzip-bomb": plain("200 OK\r\nContent-Encoding: gzip", gzip.compress(bytes(20_000_000))),
            "/chunked": chunked(BODY[:500], BODY[500:]),
            "/small-chunks": chunked(*(bytes(100) for _ in range(MAX // 100))),
            "/trailers": chunked(BODY, ending=b"0\r\n" + b"X: y\r\n" * 10 + b"\r\n"),
            "/extension": chunked(BODY, ending=b"0;name=text\r\n\r\n"),
            "/tiny-chunks": without_end(b"", b"1\r\na\r\n" * 1000),
            "/endless-size": without_end(b"", b"0" * 10_000),
            "/endless-extension": without_end(b"5;", b"x" * 10_000),
            "/endless-trailer": without_end(b"5\r\nabcde\r\n0\r\nX: ", b"y" * 10_000),
            "/drip": drip,
            **{f"/chain/{number}": redirect(f"/chain/{number + 1}") for number in range(10_000)},
            "/chain/10000": plain(f"200 OK\r\nContent-Length: {len(BODY)}", BODY),
            "/not-http": then_silence(b"SSH-2.0-x\r\n"),
            "/hang-up": then_silence(b""),
            "/slow-head": then_silence(b"HTTP/1.1 200 OK\r\nX: "),
            "/slow-body": then_silence(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1"),
            "/to-ok": redirect("/ok?secret"),
            "/loop": redirect("/loop"),
            "/nowhere": plain("302 Found\r\nContent-Length: 0"),
            **{f"/{status}": plain(f"{status} X\r\nContent-Length: 0") for status in range(201, 600)},
        }
        self._server = StreamServer(self._serve, ("127.0.0.1", 0))
        self.start, self.close = self._server.start, self._server.close

    @property
    def port(self) -> int:
        return self._server.port

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.read(65536)).decode("latin-1")
            if head.startswith("GET "):
                self.heads.append(head)
                self.paths.append(head.split()[1].partition("?")[0])
                await self.answers[self.paths[-1]](reader, writer)
            await writer.drain()
        except ConnectionError:
            pass  # the client has disconnected
        finally:
            writer.close()


@pytest.fixture(scope="module")
def shared_site() -> Iterator[Site]:
    site = Site()
    site.start()
    yield site
    site.close()


@pytest.fixture
def site(shared_site: Site) -> Site:
    shared_site.paths.clear()
    shared_site.heads.clear()
    return shared_site


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*, open_store: Callable[[str], Any] | None = None, **settings: Any) -> Fetcher:
            quick = {"sources": ("http://", "https://"), "allow_private_addresses": True, "deadline_s": 10}
            quick |= {"max_bytes": MAX}
            fetch = FetchSettings.model_validate({**quick, **settings})
            fetcher = Fetcher(fetch, open_store) if open_store else Fetcher(fetch)
            fetcher.start()
            stack.callback(fetcher.close)
            return fetcher

        yield started


def failure(fetcher: Fetcher, uri: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetcher.fetch(uri).future.result(timeout=120)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 200
    return caught.value


def refused(fetcher: Fetcher, uri: str) -> type[SourceError]:
    return type(failure(fetcher, uri))


# HTTP ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, BODY) for path in ("/ok", "/until-closed", "/to-ok", "/head-large", "/head-many", "/early-hints")),
        *((f"/{how}", BODY) for how in ("chunked", "trailers", "extension")),
        *((f"/encoded-{how}", BODY) for how in ("empty", "identity", "aws", "aws-comma")),
        *(("/empty", b""), ("/full", bytes(MAX)), ("/small-chunks", bytes(MAX))),
    ],
)
def test_http_bodies_come_whole(site: Site, start: Start, path: str, body: bytes) -> None:
    assert start().fetch(site.url(path)).future.result(20) == body


@pytest.mark.parametrize(
    ("path", "error"),
    [
        *((f"/{status}", SourceRefused) for status in (204, 206, 304, 400, 401, 403, 404, 410, 451)),
        *((f"/{status}", SourceUnavailable) for status in (408, 425, 429, 500, 502, 503, 504)),
        ("/one-too-many", SourceTooLarge),
        ("/huge", SourceTooLarge),
        ("/endless", SourceTooLarge),
        ("/short", SourceUnavailable),
        ("/encoded-twice", SourceRefused),
        ("/head-too-large", SourceRefused),
        ("/endless-hints", SourceRefused),
        ("/tiny-chunks", SourceRefused),
        *((f"/endless-{part}", SourceRefused) for part in ("size", "extension", "trailer")),
        ("/gzip", SourceRefused),
        ("/gzip-bomb", SourceRefused),
        ("/chain/0", SourceRefused),
        ("/chain/9000", SourceRefused),
        ("/not-http", SourceUnavailable),
        ("/loop", SourceRefused),
        ("/nowhere", SourceRefused),
    ],
)
def test_http_answers_have_their_disposition(site: Site, start: Start, path: str, error: type[SourceError]) -> None:
    assert refused(start(), site.url(path) + "?signature=secret") is error


@pytest.mark.parametrize("path", ["/hang-up", "/slow-head", "/slow-body", "/drip"])
def test_the_deadline_ends_a_slow_answer(site: Site, start: Start, path: str) -> None:
    fetcher, began = start(deadline_s=QUICK_S), time.monotonic()
    assert refused(fetcher, site.url(path)) is SourceUnavailable
    assert time.monotonic() - began < 4.5


SIGNED = [
    "/a%7Eb", "/a%2fb", "/a?x=%2B", "/a?x=a+b%20c", "/a?credential=AK%2F2020%2Fs3", "/a?credential=AK/2020/s3",
    "/a?s=x%3d%3D==", "/a?x='()*!%27%28%29", "/100%.png", "/%E9?%E9", "/a;b=c?x=1;y=2", "/a?x=a%3ab%3Ac", "/a?x=~%7e",
    "/x//a", "/a|b?c|d", "/a?x=%zz&", "/a?x?y=/z",
]  # fmt: skip


@pytest.mark.parametrize("path", SIGNED)
@pytest.mark.parametrize("redirected", [False, True])
def test_a_signed_address_is_asked_for_byte_by_byte(site: Site, start: Start, path: str, redirected: bool) -> None:
    site.answers |= {path.partition("?")[0]: site.answers["/ok"], "/signed": redirect(path)}
    assert start().fetch(site.url("/signed" if redirected else path)).future.result(20) == BODY
    assert site.heads[-1].split()[1] == path


@pytest.mark.parametrize(
    ("path", "sent"),
    [("/ü b?ö", "/%C3%BC%20b?%C3%B6"), ("/x/../a?%7e", "/a?~"), ("/./a", "/a"), ("/%2e/a", "/a"), ("/a#secret", "/a")],
)
def test_what_no_request_can_carry_is_encoded(site: Site, start: Start, path: str, sent: str) -> None:
    site.answers |= dict.fromkeys(("/a", "/%C3%BC%20b"), site.answers["/ok"])
    assert start().fetch(site.url(path)).future.result(20) == BODY
    assert site.heads[-1].split()[1] == sent


def test_a_redirect_may_name_bytes_that_are_no_text(site: Site, start: Start) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /to/\xe9\r\nContent-Length: 0\r\n\r\n")

    site.answers |= {"/latin": answer, "/to/%E9": site.answers["/ok"]}
    assert start().fetch(site.url("/latin")).future.result(20) == BODY


@pytest.mark.parametrize("address", ["/a\r\nX: secret", "/a\nb", "/a\tb"])
def test_nothing_can_be_added_to_a_request(site: Site, start: Start, address: str) -> None:
    assert refused(start(), site.url(address)) is SourceForbidden
    assert site.heads == []


def test_nothing_is_asked_for_that_could_be_unpacked_or_remembered(site: Site, start: Start) -> None:
    start().fetch(site.url("/ok")).future.result(20)
    head = site.heads[0].lower()
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


def test_proxies_and_credentials_of_the_environment_are_not_used(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert start().fetch(site.url("/ok")).future.result(20) == BODY
    assert "authorization" not in site.heads[0].lower()


def test_refused_connection_failed_tls_and_unknown_host_are_deferred(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = start()
    assert refused(fetcher, "http://127.0.0.1:1/secret") is SourceUnavailable
    assert refused(fetcher, site.url("/ok").replace("http:", "https:")) is SourceUnavailable

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refused(fetcher, "http://nowhere.example/secret") is SourceUnavailable


# Allowed addresses ---------------------------------------------------------------------------------------------------

LOCAL = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
    "localhost", "LOCALHOST", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
]  # fmt: skip
PRIVATE = [
    "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "10.0.0.1", "172.16.0.1", "192.168.0.1",
    "100.64.0.1", "198.18.0.1", "192.0.0.1", "240.0.0.1", "255.255.255.255", "224.0.0.1", "[ff02::1]", "[fe80::1]",
    "[fe80::1%25lo]", "[fc00::1]", "[fec0::1]", "[2001::1]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", [*LOCAL, *PRIVATE])
def test_no_spelling_of_a_private_address_is_connected_to(site: Site, start: Start, host: str) -> None:
    fetcher = start(allow_private_addresses=False)
    assert refused(fetcher, site.url("/ok?secret", host)) is SourceForbidden
    assert site.paths == []


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::1", "127.0.0.1"]])
def test_a_public_name_that_resolves_to_a_private_address(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> None:
    def resolve(_: object, port: int, *__: object) -> list[tuple[Any, ...]]:
        families = [socket.AF_INET6 if ":" in answer else socket.AF_INET for answer in answers]
        return [
            (family, socket.SOCK_STREAM, 6, "", (answer, port, 0, 0) if ":" in answer else (answer, port))
            for family, answer in zip(families, answers, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert refused(start(allow_private_addresses=False), site.url("/ok", "cdn.example")) is SourceForbidden
    assert start().fetch(site.url("/ok", "cdn.example")).future.result(20) == BODY  # it would have led here
    assert site.paths == ["/ok"]


def test_a_name_with_public_and_private_addresses_leads_to_the_public_ones(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site counts as public here; connecting to the others would hang, or reach what is not ours to reach."""
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, site.port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    fetcher = start(allow_private_addresses=False)
    assert fetcher.fetch(site.url("/ok", "mixed.example")).future.result(20) == BODY
    monkeypatch.setattr(web, "is_public", lambda address: address == "192.0.2.1")
    assert refused(start(allow_private_addresses=False), site.url("/ok", "mixed.example")) is SourceForbidden
    assert site.paths == ["/ok"]


def test_a_name_that_changes_its_address_between_check_and_connection(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        address = "192.0.2.1" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(web, "is_public", lambda address: address == "192.0.2.1")
    fetcher = start(allow_private_addresses=False, deadline_s=QUICK_S)
    assert refused(fetcher, site.url("/ok", "rebinding.example")) is SourceUnavailable  # no server there; it was public
    fetcher = start(allow_private_addresses=False)
    assert refused(fetcher, site.url("/ok", "rebinding.example")) is SourceForbidden
    assert site.paths == []
    assert len(asked) == 2


REDIRECTS = {
    "metadata": "http://169.254.169.254/latest/meta-data",
    "loopback": "http://127.0.0.2:{port}/ok",
    "name": "http://localhost.:{port}/ok",
    "other host": "http://192.0.2.1/ok",
    "protocol-relative": "//169.254.169.254/",
    "file": "file:///etc/passwd",
    "store": "s3://bucket/key",
    "data": "data:image/png;base64,secret",
    "garbage": "http://[::1",
    "out of the folder": "/404",
}


@pytest.mark.parametrize("to", REDIRECTS)
def test_every_redirect_passes_the_fence(site: Site, start: Start, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    site.answers["/in/redirect"] = redirect(REDIRECTS[to].format(port=site.port))
    # Each target would pass one of the two checks; the other has to stop it.
    prefixes = (site.url("/in"), "http://169.254.169.254", f"http://127.0.0.2:{site.port}")
    fetcher = start(sources=prefixes, allow_private_addresses=False)
    assert refused(fetcher, site.url("/in/redirect")) is SourceForbidden
    assert site.paths == ["/in/redirect"]


PREFIXES = ("https://cdn.example", "http://h.example:8080/in/", "s3://uploads/a", "gs://", "file:///data/images")


@pytest.mark.parametrize(
    "uri",
    [
        "https://cdn.example.evil.com/x",
        "https://evil-cdn.example/x",
        "https://cdn.example@evil.com/x",
        "https://cdn.example:secret@evil.com/x",
        "https://cdn.example\\@evil.com/x",
        "https://evil.com\\@cdn.example/x",
        "https://evil.com#@cdn.example/x",
        "https://cdn.example:8443/x",
        "https://cdn.example:secret/x",
        "https://user:sec/ret@cdn.example/x",
        "https://secret\uff03@cdn.example/x",
        "https://cdn.example./x",
        "http://cdn.example/x",
        "ftp://cdn.example/x",
        "//cdn.example/x",
        "cdn.example/x",
        "https:cdn.example/x",
        "https:///cdn.example/x",
        "https://",
        "http://h.example/in/x",
        "http://h.example:8080/in/../x",
        "http://h.example:8080/in/%2e%2e/x",
        "http://h.example:8080/in/..%2fx",
        "http://h.example:8080/in\\..\\x",
        "http://h.example:8080/inside",
        "s3://uploads/b",
        "s3://uploads/ab",
        "s3://uploads/a/%2e%2e/b",
        "s3://secret@uploads/a/x",
        "s3://uploads:99/a/x",
        "s3://other/a/x",
        "gs:///x",
        "az://uploads/a",
        "file:///data/images-2/x",
        "file:///data/images/../x",
        "file:///data/images/%2e%2e/x",
        "file://evil.com/data/images/x",
        "file:data/images/x",
        "http://[::1",
        "secret://x",
        "secret" * 1000 + "://x",
        "",
        " ",
        "\x00",
    ],
)
def test_what_no_prefix_covers_is_forbidden(start: Start, uri: str) -> None:
    def unreachable(_: str) -> Any:
        raise AssertionError(uri)

    assert refused(start(sources=PREFIXES, open_store=unreachable), uri) is SourceForbidden


@pytest.mark.parametrize("path", ["/in/ok", "/in//ok", "/in/x/../ok", "/in/%6fk", "/i%6E/ok"])
def test_what_a_prefix_covers_is_fetched(site: Site, start: Start, path: str) -> None:
    site.answers |= dict.fromkeys(("/in/ok", "/in//ok", "/in/%6fk", "/i%6E/ok"), site.answers["/ok"])
    for prefix in (site.url("/in"), site.url(""), "http://"):
        for spelling in (site.url(path), site.url(path).replace("http", "HTTP"), site.url(path, "me:secret@127.0.0.1")):
            assert start(sources=(prefix,)).fetch(spelling).future.result(20) == BODY


# Slots, deadlines, stopping ------------------------------------------------------------------------------------------


def test_waiting_for_a_slot_counts_against_the_deadline(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=QUICK_S, concurrency=1)
    began = time.monotonic()
    waiting = [
        fetcher.fetch(site.url(path, host)).future for path, host in (("/hang-up", "127.0.0.1"), ("/ok", "localhost"))
    ]
    assert [type(future.exception(20)) for future in waiting] == [SourceUnavailable, SourceBusy]
    assert time.monotonic() - began < 4.5


def test_a_host_that_hangs_leaves_slots_to_the_others(site: Site, start: Start) -> None:
    fetcher = start(concurrency=2, per_host=1, deadline_s=60)
    for _ in range(10):
        fetcher.fetch(site.url("/hang-up"))
    assert fetcher.fetch(site.url("/ok", "localhost")).future.result(40) == BODY


def test_giving_up_ends_a_fetch_that_hangs(site: Site, start: Start) -> None:
    fetch = start(deadline_s=60).fetch(site.url("/slow-body"))

    def gave_up() -> bool:
        fetch.give_up()  # too early is no harm either
        return fetch.future.done()

    until(gave_up, "given up")
    assert isinstance(fetch.future.exception(), SourceUnavailable)
    assert "other events waited" in str(fetch.future.exception())


def test_giving_up_too_late_is_no_harm(site: Site, start: Start) -> None:
    fetcher = start()
    fetch = fetcher.fetch(site.url("/ok"))
    assert fetch.future.result(20) == BODY
    fetch.give_up()
    assert fetcher.fetch(site.url("/ok")).future.result(20) == BODY


def test_fresh_events_do_not_wait_for_a_host_that_failed_several_times(site: Site, start: Start) -> None:
    fetcher = start()
    for _ in range(5):
        assert refused(fetcher, site.url("/503")) is SourceUnavailable
    assert refused(fetcher, site.url("/ok")) is SourceBusy
    assert fetcher.fetch(site.url("/ok", "localhost")).future.result(20) == BODY  # another host
    assert fetcher.fetch(site.url("/ok"), deferred=True).future.result(20) == BODY  # a deferred event tries it
    assert fetcher.fetch(site.url("/ok")).future.result(20) == BODY  # and with that it is one like others


def test_a_host_that_is_asked_in_vain_stays_one_that_nobody_waits_for(site: Site, start: Start) -> None:
    """Those that had to wait for their turn have little time left to ask: no failure, but no reason to trust it."""
    fetcher, now = start(deadline_s=60, per_host=1), 0.0
    fetcher._slow = SlowHosts(30, lambda: now)
    for _ in range(5):
        with pytest.raises(SourceUnavailable):
            fetcher.fetch(site.url("/503")).future.result(20)
    first, second = (fetcher.fetch(site.url("/hang-up"), deferred=True) for _ in range(2))
    until(lambda: site.paths.count("/hang-up") == 1, "the first asks")
    time.sleep(0.5)
    first.give_up()
    until(lambda: site.paths.count("/hang-up") == 2, "the second asks")
    now = 29.0
    second.give_up()
    assert isinstance(second.future.exception(20), SourceBusy)
    now = 31.0
    with pytest.raises(SourceBusy, match="slow or away"):
        fetcher.fetch(site.url("/ok")).future.result(20)


# Tenants -------------------------------------------------------------------------------------------------------------


@contextmanager
def hanging_at(site: Site, hosts: int) -> Iterator[list[str]]:
    """Addresses at so many hosts of the same site that never answer."""
    names = [f"127.0.1.{number}" for number in range(1, hosts + 1)]
    server = StreamServer(site._serve, *((name, site.port) for name in names))
    server.start()
    try:
        yield [site.url("/hang-up", name) for name in names]
    finally:
        server.close()


def test_a_tenant_whose_hosts_hang_leaves_slots_to_the_others(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=60)
    with hanging_at(site, 100) as addresses:
        assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY
        hanging = [fetcher.fetch(address, tenant="a") for address in addresses]
        until(lambda: fetcher._slots.taken == 16, "the tenant has its share of the 64 slots")
        for _ in range(50):
            assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY
        assert fetcher._slots.taken == 16
        assert not any(fetch.future.done() for fetch in hanging)


def test_a_tenant_that_hangs_at_a_host_leaves_slots_of_it_to_the_others(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=60, per_host=4)
    assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY
    hanging = [fetcher.fetch(site.url("/hang-up"), tenant="a") for _ in range(20)]
    until(lambda: site.paths.count("/hang-up") == 1, "the tenant has its share of the 4 slots")
    for _ in range(10):
        assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY
    assert site.paths.count("/hang-up") == 1
    assert not any(fetch.future.done() for fetch in hanging)


def test_a_redirect_takes_a_slot_of_the_host_that_it_leads_to(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=60, per_host=1)
    site.answers |= {"/away": redirect(site.url("/hang-up", "localhost"))}
    fetcher.fetch(site.url("/hang-up", "localhost"))
    until(lambda: site.paths == ["/hang-up"], "the other host hangs")
    away = fetcher.fetch(site.url("/away"))
    until(lambda: "/away" in site.paths, "redirected")
    assert fetcher.fetch(site.url("/ok")).future.result(20) == BODY  # the slot of the first host is free again
    assert site.paths == ["/hang-up", "/away", "/ok"]
    assert not away.future.done()


def test_one_tenants_failures_do_not_defer_anothers_events(site: Site, start: Start) -> None:
    fetcher = start()
    for _ in range(5):
        with pytest.raises(SourceUnavailable):
            fetcher.fetch(site.url("/503"), tenant="a").future.result(20)
    with pytest.raises(SourceBusy):
        fetcher.fetch(site.url("/ok"), tenant="a").future.result(20)
    assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY


def test_waiting_for_others_is_no_failure_of_a_host(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=QUICK_S, concurrency=1)
    with hanging_at(site, 1) as (address,):
        fetches = [fetcher.fetch(address), *(fetcher.fetch(site.url("/ok")) for _ in range(10))]
        assert {type(fetch.future.exception(20)) for fetch in fetches[1:]} <= {SourceBusy, type(None)}
        assert isinstance(fetches[0].future.exception(20), SourceUnavailable)
    assert fetcher.fetch(site.url("/ok")).future.result(20) == BODY


def test_an_event_given_up_while_it_waits_is_no_failure_of_its_host(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=60, per_host=1)
    fetcher.fetch(site.url("/hang-up"))
    until(lambda: site.paths == ["/hang-up"], "the slot is taken")
    for _ in range(6):
        fetch = fetcher.fetch(site.url("/ok"))
        until(lambda fetch=fetch: fetch.give_up() or fetch.future.done(), "given up")  # type: ignore[misc]
        assert isinstance(fetch.future.exception(), SourceBusy)
        assert "other fetches" in str(fetch.future.exception())


def test_a_refusal_shows_that_a_host_answers(site: Site, start: Start) -> None:
    fetcher = start()
    for path in ("/503", "/503", "/404", "/503", "/503", "/503"):
        failure(fetcher, site.url(path))
    assert fetcher.fetch(site.url("/ok")).future.result(20) == BODY


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded_by_fresh_and_deferred_events(site: Site, start: Start, status: int) -> None:
    site.answers["/later"] = plain(f"{status} X\r\nRetry-After: 3600\r\nContent-Length: 0")
    fetcher = start(retry_delay_s=30)
    assert refused(fetcher, site.url("/later")) is SourceUnavailable
    for deferred in (False, True):
        with pytest.raises(SourceBusy, match="left alone"):
            fetcher.fetch(site.url("/ok"), deferred=deferred).future.result(20)
    assert site.paths == ["/later"]
    assert fetcher.fetch(site.url("/ok"), tenant="b").future.result(20) == BODY
    assert fetcher.fetch(site.url("/ok", "localhost")).future.result(20) == BODY


def test_retry_after_is_over_after_a_deferral(site: Site, start: Start) -> None:
    site.answers["/later"] = plain("503 X\r\nRetry-After: 3600\r\nContent-Length: 0")
    fetcher = start(retry_delay_s=0.05)
    assert refused(fetcher, site.url("/later")) is SourceUnavailable
    until(lambda: fetcher.fetch(site.url("/ok")).future.exception(20) is None, "asked again")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("7", 7), (" 120 ", 120), ("0", 0), ("", 0), ("-1", 0), ("soon", 0), ("1e3", 0), ("9" * 400, 0)),
        *(("Wed, 21 Oct 2015 07:28:30 GMT", 30), ("Wed, 21 Oct 2015 07:27:00 GMT", 0), ("Wed, 99 Oct 2015", 0)),
    ],
)
def test_forms_of_retry_after(text: str, seconds: float) -> None:
    assert retry_after_s(text, 1445412480.0) == seconds  # 07:28:00


# Bytes ---------------------------------------------------------------------------------------------------------------


def stalled(size: int, *, declared: bool) -> Answer:
    """All but the last byte of so many, then silence."""
    length = f"\r\nContent-Length: {size}" if declared else ""
    return then_silence(f"HTTP/1.1 200 OK{length}\r\n\r\n".encode() + bytes(size - 1))


@pytest.mark.parametrize(("declared", "bodies"), [(True, 5), (False, 2)])
def test_bytes_of_bodies_that_stop_are_counted_and_bounded(
    site: Site, start: Start, declared: bool, bodies: int
) -> None:
    site.answers["/stalled"] = stalled(10_000, declared=declared)
    # As many as fit by their declared length, or by the ceiling.
    fetcher = start(max_bytes=25_000, max_held_bytes=50_000, deadline_s=60, per_host=64)
    fetches = [fetcher.fetch(site.url("/stalled")) for _ in range(20)]
    until(lambda: fetcher.held_bytes == bodies * 9_999, "as much as there is room for")
    until(lambda: site.paths.count("/stalled") == 20, "all are asked for")
    assert fetcher.held_bytes == bodies * 9_999
    for fetch in fetches:
        until(lambda fetch=fetch: fetch.give_up() or fetch.future.done(), "given up")  # type: ignore[misc]
    until(lambda: fetcher.held_bytes == 0, "nothing is held")
    assert fetcher.fetch(site.url("/ok", "localhost")).future.result(20) == BODY


def test_a_tenant_whose_bodies_stop_leaves_room_to_the_others(site: Site, start: Start) -> None:
    site.answers["/stalled"] = stalled(10_000, declared=True)
    fetcher = start(max_bytes=10_000, max_held_bytes=80_000, deadline_s=60)
    assert fetcher.fetch(site.url("/ok", "localhost"), tenant="b").future.result(20) == BODY
    fetcher.release(len(BODY), tenant="b")
    for _ in range(10):
        fetcher.fetch(site.url("/stalled"), tenant="a")
    until(lambda: fetcher.held_bytes == 2 * 9_999, "its share of a quarter")
    for _ in range(10):
        assert fetcher.fetch(site.url("/ok", "localhost"), tenant="b").future.result(20) == BODY
        fetcher.release(len(BODY), tenant="b")
    until(lambda: fetcher.held_bytes == 2 * 9_999, "released")


def test_what_is_not_released_holds_up_the_next_body_and_is_no_failure_of_its_host(site: Site, start: Start) -> None:
    fetcher = start(max_held_bytes=MAX, deadline_s=QUICK_S)
    for _ in range(2):
        assert fetcher.fetch(site.url("/full")).future.result(20) == bytes(MAX)
        assert [refused(fetcher, site.url("/ok")) for _ in range(5)] == [SourceBusy] * 5
        fetcher.release(MAX)


def test_an_error_keeps_nothing_of_what_has_arrived(site: Site, start: Start) -> None:
    site.answers["/stalled"] = stalled(40_000, declared=True)
    error = failure(start(deadline_s=QUICK_S), site.url("/stalled"))
    assert error.__cause__ is error.__context__ is None
    held = []
    frame = error.__traceback__
    while frame:
        held += [value for value in frame.tb_frame.f_locals.values() if isinstance(value, bytes | bytearray)]
        frame = frame.tb_next
    assert held == []


def test_room_for_less_than_one_image_stops_the_start() -> None:
    with pytest.raises(ValueError, match="would never fit"):
        FetchSettings(max_bytes=1000, max_held_bytes=999)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names that begin with ``silent`` are looked up until the event is set; others are this machine."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **named: Any) -> Any:
        if str(host).startswith("silent"):
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "later")
        return real("127.0.0.1", *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield answered
    answered.set()


def test_names_that_nobody_answers_for_hold_up_no_others(
    site: Site, start: Start, silent_names: threading.Event
) -> None:
    fetcher = start(concurrency=2, deadline_s=QUICK_S)
    assert fetcher.fetch(site.url("/ok", "cdn.example"), tenant="b").future.result(20) == BODY
    for number in range(8):
        fetch = fetcher.fetch(f"http://silent-{number}.example/", tenant="a")
        expected = SourceUnavailable if number < 4 else SourceBusy  # its share of 16 threads, each longer than a slot
        assert type(fetch.future.exception(20)) is expected
        assert fetcher._slots.taken == 0
        assert fetcher.fetch(site.url("/ok", f"cdn-{number}.example"), tenant="b").future.result(20) == BODY
    assert fetcher._threads.busy == 4
    silent_names.set()
    until(lambda: fetcher._threads.busy == 0, "the threads are free again")


def test_a_name_that_nobody_answers_for_does_not_keep_the_process(silent_names: threading.Event, start: Start) -> None:
    fetcher = start(deadline_s=QUICK_S)
    assert refused(fetcher, "http://silent.example/") is SourceUnavailable
    began = time.monotonic()
    fetcher.close()
    assert time.monotonic() - began < 20
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "fetch-call")
    assert not silent_names.is_set()


def test_closing_drops_what_hangs(site: Site, start: Start) -> None:
    fetcher = start(deadline_s=60)
    hanging = [fetcher.fetch(site.url(path)).future for path in ("/hang-up", "/slow-body")]
    began = time.monotonic()
    fetcher.close()
    assert time.monotonic() - began < 20
    assert all(isinstance(future.exception(1), SourceUnavailable) for future in hanging)
    fetcher.close()


def test_closing_before_the_start_is_no_error() -> None:
    Fetcher(FetchSettings()).close()


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in side"
    (inside / "sub").mkdir(parents=True)
    (inside / "a b%.png").write_bytes(BODY)
    (inside / os.fsdecode(b"\xe9.png")).write_bytes(b"1")
    (inside / "%E9.png").write_bytes(b"another")
    (inside / "full").write_bytes(bytes(MAX))
    (inside / "large").write_bytes(bytes(MAX + 1))
    (tmp_path / "outside").write_bytes(b"secret")
    os.mkfifo(inside / "fifo")
    (inside / "out").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to(tmp_path)
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "link").symlink_to(inside / "full")
    return inside


@pytest.mark.parametrize(
    ("name", "size"),
    [("a%20b%25.png", len(BODY)), ("%e9.png", 1), ("full", MAX), ("link", MAX), ("./full", MAX)],
)
def test_files_in_the_folder_are_read(folder: Path, start: Start, name: str, size: int) -> None:
    fetcher = start(sources=(folder.as_uri(),))
    for uri in (f"{folder.as_uri()}/{name}", f"FILE://localhost{folder.as_uri()[7:]}/{name}"):
        assert len(fetcher.fetch(uri).future.result(20)) == size


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("../outside", SourceForbidden),
        ("%2e%2e/outside", SourceForbidden),
        ("..%2foutside", SourceForbidden),
        ("out", SourceForbidden),
        ("up/outside", SourceForbidden),
        ("zero", SourceForbidden),
        ("a%00b", SourceForbidden),
        ("full?secret", SourceForbidden),
        ("full#secret", SourceForbidden),
        ("large", SourceTooLarge),
        ("missing", SourceRefused),
        ("full/x", SourceRefused),
        ("fifo", SourceRefused),
        ("sub", SourceRefused),
        ("", SourceRefused),
        ("loop", SourceRefused),
        ("x" * 300, SourceRefused),
    ],
)
def test_files_that_are_not_given_out(folder: Path, start: Start, name: str, error: type[SourceError]) -> None:
    assert refused(start(sources=(folder.as_uri(),)), f"{folder.as_uri()}/{name}") is error


def test_a_folder_that_becomes_a_link_while_its_file_is_opened(
    folder: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "swapped").mkdir()
    (folder / "swapped" / "outside").write_bytes(b"ours")
    fetcher, uri = start(sources=(folder.as_uri(),)), f"{folder.as_uri()}/swapped/outside"
    assert fetcher.fetch(uri).future.result(20) == b"ours"

    def swap(path: str, flags: int) -> BinaryIO:
        (folder / "swapped").rename(folder / "before")
        (folder / "swapped").symlink_to(tmp_path)
        return open_regular(path, flags)

    monkeypatch.setattr(files, "open_regular", swap)
    assert refused(fetcher, uri) is SourceForbidden


def test_devices_are_not_read_even_where_everything_is_allowed(start: Start) -> None:
    assert refused(start(sources=("file:///",)), "file:///dev/zero") is SourceRefused


def test_refusing_a_file_leaves_nothing_open(folder: Path, start: Start) -> None:
    fetcher = start(sources=(folder.as_uri(),))
    refused(fetcher, f"{folder.as_uri()}/sub")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("sub", "fifo", "large", "loop") * 5:
        refused(fetcher, f"{folder.as_uri()}/{name}")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Object stores -------------------------------------------------------------------------------------------------------


def test_objects_are_read_by_their_decoded_key_and_a_bucket_is_opened_once(start: Start) -> None:
    opened: list[str] = []
    store = MemoryStore()
    store.put("a/ü %.png", BODY)

    def open_store(address: str) -> MemoryStore:
        opened.append(address)
        return store

    fetcher = start(sources=("s3://uploads/a",), open_store=open_store)
    for _ in range(2):
        assert fetcher.fetch("s3://uploads/a/%C3%BC%20%25.png").future.result(20) == BODY
    assert opened == ["s3://uploads"]
    assert refused(fetcher, "s3://uploads/a/missing") is SourceRefused


OPAQUE = {
    "a/b.png": b"1",
    "b.png": b"2",
    "dir": b"3",
    "dot.png": b"4",
    "a": b"5",
    "%2e%2e": b"6",
    "...": b"7",
    "a+b": b"8",
}


@pytest.mark.parametrize("key", ["%252e%252e", "%252E%252E".lower(), "...", "a+b", "a%2Bb", "a/b.png", "a%2fb.png"])
def test_exactly_the_object_of_the_key_is_asked_for(start: Start, key: str) -> None:
    store = MemoryStore()
    for name, body in OPAQUE.items():
        store.put(name, body)
    fetcher = start(sources=("s3://",), open_store=lambda _: store)
    assert fetcher.fetch(f"s3://bucket/{key}").future.result(20) == OPAQUE[unquote(key)]


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/b.png", "%2Fb.png", "a//b.png", "a/%2Fb.png", "dir/", "dir%2F", "./dot.png", "%2e/dot.png"),
        *("a/./b.png", "a/.", "a?b.png", "a?", "a#b.png", "%FF", "a%00b", "a%0Ab", "a\nb", "a/b.png?versionId=secret"),
    ],
)
def test_a_key_that_cannot_be_asked_for_exactly_is_refused(start: Start, key: str) -> None:
    store = MemoryStore()
    for name, body in OPAQUE.items():
        store.put(name, body)
    assert refused(start(sources=("s3://",), open_store=lambda _: store), f"s3://bucket/{key}") is SourceForbidden


class LyingStore:
    """Declares a size and sends without end, or raises."""

    def __init__(self, size: int, error: Exception | None = None) -> None:
        self.meta = {"size": size}
        self.sent = 0
        self._error = error

    async def get_async(self, _: str) -> "LyingStore":
        if self._error:
            raise self._error
        return self

    async def stream(self, min_chunk_size: int) -> AsyncIterator[bytes]:
        while True:
            self.sent += min_chunk_size
            yield bytes(min_chunk_size)
            await asyncio.sleep(0)


@pytest.mark.parametrize("declared", [5, 10**12])
def test_bytes_of_an_object_are_counted_whatever_is_declared(start: Start, declared: int) -> None:
    store = LyingStore(declared)
    fetcher = start(sources=("gs://",), open_store=lambda _: store)
    assert refused(fetcher, "gs://bucket/secret") is SourceTooLarge
    assert store.sent <= 2**20


def test_stores_that_are_kept_open_are_bounded(start: Start) -> None:
    opened: list[str] = []

    def open_store(address: str) -> MemoryStore:
        opened.append(address)
        return MemoryStore()

    fetcher = start(sources=("s3://",), open_store=open_store)
    for name in [*range(100), 0]:
        refused(fetcher, f"s3://bucket-{name}/x")
    assert len(opened) == 101


# Translation ---------------------------------------------------------------------------------------------------------


def raised_by(module: Any) -> list[type[Exception]]:
    return [c for _, c in getmembers(module, isclass) if issubclass(c, Exception) and not issubclass(c, Warning)]


KNOWN = {
    aiohttp.InvalidURL: SourceForbidden,
    aiohttp.NonHttpUrlClientError: SourceForbidden,
    obstore.exceptions.InvalidPathError: SourceForbidden,
    obstore.exceptions.NotFoundError: SourceRefused,
    obstore.exceptions.PermissionDeniedError: SourceDenied,
    obstore.exceptions.UnauthenticatedError: SourceDenied,
    FileNotFoundError: SourceRefused,
    PermissionError: SourceDenied,
    IsADirectoryError: SourceRefused,
    NotADirectoryError: SourceRefused,
    ValueError: SourceForbidden,
    UnicodeError: SourceForbidden,
}
OTHERS: list[type[Exception]] = [OSError, ConnectionResetError, BlockingIOError, RuntimeError, MemoryError]


@pytest.mark.parametrize("cls", [*raised_by(aiohttp), *raised_by(obstore.exceptions), *OTHERS, *KNOWN])
def test_every_exception_of_the_libraries_has_a_disposition(cls: type[Exception]) -> None:
    error = cls.__new__(cls)
    if isinstance(error, aiohttp.ClientConnectorError):
        error._os_error = OSError()
    error.args = ("https://user:secret@h/?secret",)
    found = translate(error)
    # A certificate error is a ValueError, too; what aiohttp says comes first.
    parents = [p for p in KNOWN if issubclass(cls, p)]
    if issubclass(cls, aiohttp.ClientError):
        parents = [p for p in parents if issubclass(p, aiohttp.ClientError)]
    expected = KNOWN[parents[0]] if parents else SourceUnavailable
    assert type(found) is expected
    deferred = expected in (SourceUnavailable, SourceDenied)
    assert found.disposition is (Disposition.DEFER if deferred else Disposition.REJECT)
    assert "secret" not in str(found)


@pytest.mark.parametrize("number", [errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO])
def test_names_that_can_never_be_opened(number: int) -> None:
    assert type(translate(OSError(number, "secret"))) is SourceRefused
