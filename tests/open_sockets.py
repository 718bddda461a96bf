"""Finds the sockets that a test leaves open, at that test.

Left alone, such a socket is closed by the garbage collector, wherever that happens to run, and the ``ResourceWarning``
that it raises then fails another test; the sockets of a library in C are closed without a word.

What is looked at are the sockets of this process in ``/proc/self/fd``, of any kind and whoever has opened them. Where
there is no ``/proc``, nothing is found.
"""

import gc
import inspect
import os
import socket
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

_FD = Path("/proc/self/fd")
_TCP = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_STATES = {"01": "established", "02": "connecting", "08": "closed by the other side", "0A": "listening"}
_CLOSING_S = 10.0
"""So long a client's own threads may take to close what they have; it is waited for only where something is open."""
_LOOK_EVERY_S = 0.01
_HOLDERS = 8

_of_wider_scope: set[str] = set()
"""Opened while fixtures of a module, a package or the session were set up: these close them, after other tests."""


def open_sockets() -> dict[str, int]:
    """File descriptors by what the kernel calls a socket (``socket:[inode]``), which it gives to no other one."""
    found = {}
    if _FD.exists():
        for fd in os.listdir(_FD):  # noqa: PTH208 - a tenth of the time, at every test
            try:
                name = os.readlink(f"{_FD}/{fd}")  # noqa: PTH115 - the same
            except OSError:  # closed meanwhile, as that of the listing itself
                continue
            if name.startswith("socket:"):
                found[name] = int(fd)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Take note of the sockets of fixtures that outlive the test, which may ask for them in its midst."""
    if fixturedef.scope == "function":
        return (yield)
    before = open_sockets()
    try:
        return (yield)
    finally:
        _of_wider_scope.update(open_sockets().keys() - before.keys())


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    """Fail where a test, or a fixture of its own, leaves a socket open.

    Being the first fixture that a test is given, it is the last that is taken down. What the garbage collector alone
    would close counts as left open; it does so here, and not in the midst of another test.
    """
    before = open_sockets()
    yield
    if left := _left_open(before):
        told = [_describe(name, fd) for name, fd in left.items()]
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it would come at the next test
            gc.collect()
        pytest.fail(f"left open: {'; '.join(told)}", pytrace=False)


def _left_open(before: dict[str, int]) -> dict[str, int]:
    deadline = time.monotonic() + _CLOSING_S
    while True:
        left = {name: fd for name, fd in open_sockets().items() if name not in before and name not in _of_wider_scope}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_LOOK_EVERY_S)


def _describe(name: str, fd: int) -> str:
    """Where it leads, and who holds it as far as Python knows."""
    where = _connections().get(name.removeprefix("socket:[").removesuffix("]"), "no TCP")
    return f"{where}, held by {_holders(fd)}"


def _connections() -> dict[str, str]:
    """Both ends and the state of each TCP socket on this machine, by inode."""
    found = {}
    for table in _TCP:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, here, there, state, *_ = fields = line.split()
            found[fields[9]] = f"{_address(here)} -> {_address(there)} ({_STATES.get(state, f'state {state}')})"
    return found


def _address(text: str) -> str:
    """The kernel writes each 32-bit word of an address in the machine's byte order."""
    address, port = text.split(":")
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    raw = b"".join(words)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, raw)}:{int(port, 16)}"


def _holders(fd: int) -> str:
    """Types of the objects from the socket outwards."""
    # By its type: an object may pretend to be of another class, and some that torch keeps for old callers warn then.
    sockets = [one for one in gc.get_objects() if issubclass(type(one), socket.socket) and one.fileno() == fd]
    if not sockets:
        return "no object of Python's (a library in C)"
    chain: list[object] = sockets[:1]
    del sockets
    while len(chain) <= _HOLDERS:
        own = {id(chain), *map(id, chain)}
        holders = [one for one in gc.get_referrers(chain[-1]) if id(one) not in own and not inspect.isframe(one)]
        if not holders:
            break
        chain.append(holders[0])
        del holders
    return " in ".join(type(one).__qualname__ for one in chain[1:]) or "nobody"
