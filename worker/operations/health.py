"""Liveness, readiness and metrics over HTTP, and the watchdog that ends a process stuck in a call without a time limit.

Liveness means that the process itself makes progress: a restart would not bring back a broker or cache that is away.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker.errors import StartupError
from worker.operations.metrics import Metrics
from worker.settings import HttpSettings

_log = structlog.get_logger(__name__)

EXIT_STUCK = 70


class Health:
    """The last state that the pipeline reported; read by the HTTP threads."""

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._beat = clock()
        self._oldest: float | None = None
        self._joined = False
        self._paused: str | None = None
        self._impaired: str | None = None

    def beat(
        self, *, oldest_in_flight: float | None, joined: bool, paused: str | None = None, impaired: str | None = None
    ) -> None:
        """Report a turn of the main loop.

        Args:
            oldest_in_flight: monotonic time since when nothing has moved of the event that stands still longest.
            joined: whether the consumer group has given an assignment.
            paused: why events wait.
            impaired: what cannot be done while everything else goes on.
        """
        self._beat, self._joined, self._paused, self._impaired = self._clock(), joined, paused, impaired
        self._oldest = None if paused else oldest_in_flight

    def live(self) -> str | None:
        """None, or why the process should be restarted."""
        now = self._clock()
        if now - self._beat > self._stall_s:
            return f"main loop silent for {now - self._beat:.0f} s"
        if self._oldest is not None and now - self._oldest > self._stall_s:
            return f"an event stands still for {now - self._oldest:.0f} s"
        return None

    def ready(self) -> str | None:
        """None, or why the worker is not serving."""
        unassigned = None if self._joined else "the consumer group has given no assignment yet"
        return self.live() or self._paused or self._impaired or unassigned


class HealthServer:
    """/metrics, /live and /ready on a thread of their own."""

    def __init__(self, settings: HttpSettings, health: Health, metrics: Metrics) -> None:
        self._settings = settings
        self._health = health
        self._metrics = metrics
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        assert self._server is not None  # start
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen.

        Raises:
            StartupError: the port is taken.
        """
        health, metrics = self._health, self._metrics

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/metrics":
                        self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                    case "/live":
                        self._state(health.live())
                    case "/ready":
                        self._state(health.ready())
                    case _:
                        self._answer(404, "text/plain", b"/metrics /live /ready\n")

            do_HEAD = do_GET  # noqa: N815 - named by the base class

            def _state(self, trouble: str | None) -> None:
                self._answer(503 if trouble else 200, "text/plain", f"{trouble or 'ok'}\n".encode())

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Log no requests: scrapes come every few seconds."""

        try:
            self._server = _Server(self._settings.host.strip("[]"), self._settings.port, Handler)
        except OSError as error:
            where = f"http.host={self._settings.host} http.port={self._settings.port}"
            raise StartupError(f"{where}: cannot listen: {error.strerror}; set others") from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    """On IPv4 or IPv6; its troubles are lines of the log."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, *_: object) -> None:
        """Log what the base class would print as a traceback: a client that hangs up, mostly."""
        _log.debug("a request of the HTTP server failed", error=repr(sys.exception())[:200])


class Watchdog:
    """Ends the process when a guarded call exceeds its deadline.

    kafka-python's ``commit_transaction``, ``abort_transaction`` and ``send_offsets_to_transaction`` wait without a
    limit. Ending is safe: uncommitted events are read again.
    """

    def __init__(self, deadline_s: float, end: Callable[[int], object] = os._exit) -> None:
        self._deadline_s = deadline_s
        self._end = end

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Let the block run for at most ``deadline_s``."""
        timer = threading.Timer(self._deadline_s, self._expire, (what,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self, what: str) -> None:
        _log.critical("a call exceeds its deadline: the process ends, nothing is committed", call=what)
        self._end(EXIT_STUCK)
