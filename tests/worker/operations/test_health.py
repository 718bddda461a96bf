"""Liveness and readiness, also over HTTP, and the watchdog."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from tests.worker.messages.edges import until
from worker.errors import StartupError
from worker.operations.health import EXIT_STUCK, Health, HealthServer, Watchdog
from worker.operations.metrics import Metrics
from worker.settings import HttpSettings

STALL_S = 60.0


class Clock:
    """Monotonic time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(STALL_S, clock)


def test_a_new_process_lives_and_is_not_ready(health: Health) -> None:
    assert health.live() is None
    assert "no assignment" in (health.ready() or "")


def test_ready_is_live_and_joined(health: Health, clock: Clock) -> None:
    health.beat(oldest_in_flight=None, joined=True)
    assert health.ready() is None
    health.beat(oldest_in_flight=None, joined=False)
    assert health.live() is None
    assert health.ready() is not None
    health.beat(oldest_in_flight=None, joined=True)
    clock.now += STALL_S + 1
    assert health.ready() == health.live() == "main loop silent for 61 s"


def test_a_pause_is_alive_and_not_ready(health: Health, clock: Clock) -> None:
    health.beat(oldest_in_flight=clock.now - 1000, joined=True, paused="no decoder works")
    assert (health.live(), health.ready()) == (None, "no decoder works")
    health.beat(oldest_in_flight=None, joined=True)
    assert health.ready() is None


def test_what_is_impaired_is_not_ready_and_its_events_in_flight_still_count(health: Health, clock: Clock) -> None:
    health.beat(oldest_in_flight=clock.now, joined=True, impaired="nothing can be read of s3://uploads")
    assert (health.live(), health.ready()) == (None, "nothing can be read of s3://uploads")
    health.beat(oldest_in_flight=clock.now - STALL_S - 1, joined=True, impaired="nothing can be read of s3://uploads")
    assert health.ready() == health.live() == "an event stands still for 61 s"


@pytest.mark.parametrize(("silent_s", "alive"), [(0, True), (STALL_S, True), (STALL_S + 1, False)])
def test_a_silent_loop_is_dead(health: Health, clock: Clock, silent_s: float, alive: bool) -> None:
    health.beat(oldest_in_flight=clock.now, joined=True)
    clock.now += silent_s
    assert (health.live() is None) is alive


@pytest.mark.parametrize(("age_s", "alive"), [(0, True), (STALL_S, True), (STALL_S + 1, False)])
def test_an_event_that_never_ends_is_a_stall_though_the_loop_beats(
    health: Health, clock: Clock, age_s: float, alive: bool
) -> None:
    health.beat(oldest_in_flight=clock.now - age_s, joined=True)
    assert (health.live() is None) is alive
    assert alive or "stands still" in (health.live() or "")
    health.beat(oldest_in_flight=None, joined=True)
    assert health.live() is None


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    server = HealthServer(HttpSettings(host="127.0.0.1", port=0), health, Metrics())
    server.start()
    yield server
    server.close()


def request(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read()


def test_endpoints(server: HealthServer, health: Health, clock: Clock) -> None:
    assert request(server, "/live") == (200, "text/plain", b"ok\n")
    assert request(server, "/ready")[0] == 503
    health.beat(oldest_in_flight=None, joined=True)
    assert request(server, "/ready?verbose") == (200, "text/plain", b"ok\n")
    clock.now += STALL_S + 1
    assert request(server, "/live") == (503, "text/plain", b"main loop silent for 61 s\n")
    status, content_type, body = request(server, "/metrics")
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert b"# HELP genprint_events_total" in body


def test_other_paths_are_not_found_and_nothing_can_be_sent(server: HealthServer) -> None:
    paths = ["/", "/liveness", "/metrics/", "/../live", "/%6cive"]
    assert [request(server, path)[0] for path in paths] == [404] * len(paths)
    assert request(server, "/live", "POST")[0] == 501


def test_head_is_get_without_a_body(server: HealthServer) -> None:
    for path in ("/live", "/ready", "/metrics", "/x"):
        assert request(server, path, "HEAD") == (*request(server, path)[:2], b"")


def test_a_taken_port_stops_the_start_and_is_named(server: HealthServer, health: Health) -> None:
    with pytest.raises(StartupError, match=rf"http.host=127\.0\.0\.1 http\.port={server.port}"):
        HealthServer(HttpSettings(host="127.0.0.1", port=server.port), health, Metrics()).start()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_it_listens_on_ipv6(health: Health, host: str) -> None:
    server = HealthServer(HttpSettings(host=host, port=0), health, Metrics())
    server.start()
    try:
        with closing(http.client.HTTPConnection("::1", server.port, timeout=5)) as connection:
            connection.request("GET", "/live")
            assert connection.getresponse().status == 200
    finally:
        server.close()


def test_a_client_that_hangs_up_is_a_line_of_the_log(server: HealthServer, capsys: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as logged:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\n" * 2)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        until(lambda: request(server, "/live")[0] == 200 and len(logged) == 3, "three lines")
    assert {line["event"] for line in logged} == {"a request of the HTTP server failed"}
    assert capsys.readouterr().err == ""


def test_closing_before_the_start_is_no_error(health: Health) -> None:
    HealthServer(HttpSettings(), health, Metrics()).close()


def test_the_watchdog_ends_the_process_of_a_call_that_hangs() -> None:
    ended, status = threading.Event(), []

    def end(code: int) -> None:
        status.append(code)
        ended.set()

    with Watchdog(0.01, end).guard("commit"):
        assert ended.wait(5)
    assert status == [EXIT_STUCK]


def timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


@pytest.mark.parametrize("failure", [None, RuntimeError()])
def test_the_watchdog_lets_go_of_a_call_that_returns_or_fails(failure: Exception | None) -> None:
    def call() -> None:
        with Watchdog(3600, lambda _: pytest.fail("ended")).guard("commit"):
            assert len(timers()) == 1
            if failure:
                raise failure

    if failure:
        with pytest.raises(RuntimeError):
            call()
    else:
        call()
    for timer in timers():
        timer.join(5)
    assert timers() == []
