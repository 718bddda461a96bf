"""The check that stands at the end of every other test."""

import socket
from collections.abc import Iterator

import pytest

from deploy.local.ports import LOOPBACK
from tests.open_sockets import _FD, _describe, _left_open, _of_wider_scope, open_sockets

pytestmark = pytest.mark.skipif(not _FD.exists(), reason="needs /proc")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.open_sockets._CLOSING_S", 0)


def test_what_is_left_open_is_named() -> None:
    before = open_sockets()
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = [_describe(name, fd) for name, fd in _left_open(before).items()]
        ends = [f"{LOOPBACK}:{one.getsockname()[1]}" for one in (client, server)]
    assert len(found) == 2
    assert any(f"{ends[1]} -> 0.0.0.0:0 (listening), held by " in text for text in found)
    assert any(f"{' -> '.join(ends)} (established), held by " in text for text in found)
    assert not _left_open(before)


def test_what_was_open_before_is_not_of_this_test() -> None:
    with socket.create_server((LOOPBACK, 0)):
        assert not _left_open(open_sockets())


def test_what_a_fixture_of_the_session_opens_is_not_of_this_test(request: pytest.FixtureRequest) -> None:
    before = open_sockets()
    server = request.getfixturevalue("server_of_the_module")
    assert open_sockets().keys() - before.keys() <= _of_wider_scope
    assert not _left_open(before)
    assert server.fileno() >= 0


@pytest.fixture(scope="module")
def server_of_the_module() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server
