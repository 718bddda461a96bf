"""Loopback addresses for servers that must not be reachable from outside, nor lose their port to a client."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_LOWEST_PORT = 10_000
_ATTEMPTS = 100
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START_ELSEWHERE = 32_768


def free_port() -> int:
    """Return a TCP port that nothing on loopback is bound to now.

    It lies below the range that the kernel hands to outgoing connections. A port from that range, which is what binding
    to port 0 gives, can be taken by any client; and a client that keeps reconnecting to a stopped server on loopback
    may be given the very port it dials, connect to itself and keep the server from ever coming back.
    """
    ports = range(_LOWEST_PORT, max(_ephemeral_start(), _LOWEST_PORT + 1000))
    for port in random.sample(ports, _ATTEMPTS):
        if is_free(port):
            return port
    raise OSError(f"{_ATTEMPTS} ports on {LOOPBACK} from {ports.start} to {ports.stop} were all in use")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port; connections still closing there do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _ephemeral_start() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except OSError:  # not Linux
        return _EPHEMERAL_START_ELSEWHERE
