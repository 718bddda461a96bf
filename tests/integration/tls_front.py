"""TLS in front of a server that has none: the embedded Valkey is built without it, as are many in a cluster.

The handshake, the certificates and what a client makes of them are real; behind it bytes go on as they come.
"""

import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

from deploy.local.ports import LOOPBACK


class TlsFront:
    """Listens on a free port of loopback from ``__enter__`` to ``__exit__``.

    Args:
        behind: port of the server.
        certificate: key and certificate of the server, in one PEM file.
        client_authority: whose clients are let in; None asks for no certificate.
    """

    def __init__(self, behind: int, certificate: Path, client_authority: Path | None = None) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if client_authority is not None:
            self._context.load_verify_locations(client_authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server((LOOPBACK, 0))
        self._closing, self._told_to_close = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()  # each thread waits for this too
        for thread in self._threads:
            thread.join(10)
        self._told_to_close.close()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]  # of our methods
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while self._listener in select.select([self._listener, self._told_to_close], [], [])[0]:
            self._start(self._pass_on, self._listener.accept()[0])

    def _pass_on(self, client: socket.socket) -> None:
        client.settimeout(10)  # somebody may connect and say nothing
        try:
            with (
                self._context.wrap_socket(client, server_side=True) as tls,
                socket.create_connection((LOOPBACK, self._behind)) as server,
            ):
                while True:
                    waiting = [tls, server, self._told_to_close]
                    ready = [tls] if tls.pending() else select.select(waiting, [], [])[0]
                    if self._told_to_close in ready:
                        return
                    for source in ready:
                        data = source.recv(65536)
                        if not data:
                            return
                        (server if source is tls else tls).sendall(data)
        except OSError:
            client.close()  # refused, which is what is tested here, or gone
