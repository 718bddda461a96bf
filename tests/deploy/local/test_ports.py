import socket
from pathlib import Path

from deploy.local.ports import LOOPBACK, free_port, is_free


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server((LOOPBACK, free_port())):
        pass


def test_a_listening_port_is_not_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_port_with_connections_that_are_closing_is_free() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # this side goes through TIME_WAIT
            assert client.recv(1) == b""
    assert is_free(port)


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")
    start = int(kernel.read_text().split()[0]) if kernel.exists() else 32_768
    assert all(port < start for port in (free_port() for _ in range(20)))
