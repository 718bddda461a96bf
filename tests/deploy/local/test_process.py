"""Shown with a stand-in server in Python, which is quick and fails as told."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.errors import ExitedError, StartError
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess

pytestmark = pytest.mark.integration

SERVER = """
import signal, socket, sys
print("listening", flush=True)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""
IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
DEADLINE_S = 60.0

MakeServer = Callable[..., ServerProcess]


def accepts(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=1):
        return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int) -> None:
    """Wait for a process that need not be our child."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(watch):
        ended, _, _ = select.select([watch], [], [], DEADLINE_S)
    assert ended, f"process {pid} still runs"


@pytest.fixture
def make_server(tmp_path: Path) -> MakeServer:
    def make(script: str = SERVER, start_timeout_s: float = DEADLINE_S, stop_timeout_s: float = 5.0) -> ServerProcess:
        port = free_port()
        return ServerProcess(
            "stand-in",
            lambda: [sys.executable, "-I", "-u", "-c", script, str(port)],
            port=port,
            log_path=tmp_path / "server.log",
            is_ready=lambda: accepts(port),
            start_timeout_s=start_timeout_s,
            stop_timeout_s=stop_timeout_s,
        )

    return make


def running(server: ServerProcess) -> int:
    assert server.pid is not None
    return server.pid


def test_it_is_ready_after_start_and_gone_after_stop(make_server: MakeServer) -> None:
    server = make_server()
    assert server.pid is None
    server.start()
    pid = running(server)
    assert accepts(server.port)
    server.stop()
    assert server.pid is None
    assert not is_alive(pid)


def test_the_process_is_gone_after_the_body_raised(make_server: MakeServer) -> None:
    pids = []

    def body() -> None:
        with make_server() as server:
            pids.append(running(server))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert not is_alive(pids[0])


def test_it_runs_in_its_own_session(make_server: MakeServer) -> None:
    with make_server() as server:
        assert os.getsid(running(server)) != os.getsid(0)


def test_stop_without_start_and_stop_twice_are_no_errors(make_server: MakeServer) -> None:
    server = make_server()
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_start_twice_keeps_the_first_process(make_server: MakeServer) -> None:
    with make_server() as server:
        pid = running(server)
        server.start()
        assert server.pid == pid


def test_a_server_that_ignores_sigterm_is_killed_after_its_deadline(make_server: MakeServer) -> None:
    server = make_server(IGNORES_SIGTERM, stop_timeout_s=0.2)
    server.start()
    pid = running(server)
    server.stop()
    assert not is_alive(pid)


def test_a_paused_server_stops(make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    pid = running(server)
    server.pause()
    server.stop()
    assert not is_alive(pid)


def test_a_pause_has_begun_when_it_returns(make_server: MakeServer) -> None:
    with make_server() as server:
        for _ in range(50):
            server.pause()
            server.pause()
            states = {
                path.read_text().rpartition(")")[2].split()[0]
                for path in Path(f"/proc/{server.pid}/task").glob("*/stat")
            }
            assert states == {"T"}
            server.resume()


def test_a_resumed_server_serves_again(make_server: MakeServer) -> None:
    with make_server() as server:
        server.pause()
        server.resume()
        assert accepts(server.port)


def test_signals_to_a_server_that_does_not_run_are_errors(make_server: MakeServer) -> None:
    with pytest.raises(ProcessLookupError, match="stand-in"):
        make_server().pause()


@pytest.mark.parametrize("killed", [True, False], ids=["after kill", "while running"])
def test_restart_gives_a_new_process_at_the_same_port(make_server: MakeServer, killed: bool) -> None:
    with make_server() as server:
        before = running(server)
        if killed:
            server.kill()
        server.restart()
        assert running(server) != before
        assert not is_alive(before)
        assert accepts(server.port)


def test_death_while_starting_names_the_status_and_the_end_of_the_log(make_server: MakeServer) -> None:
    server = make_server("import sys\nfor i in range(100): print('line', i)\nsys.exit('no room left')")
    with pytest.raises(StartError, match=r"exited with 1 while starting(?s:.*)line 99\nno room left") as caught:
        server.start()
    assert "line 1\n" not in str(caught.value)
    assert server.pid is None


def test_the_error_shows_only_the_log_of_this_start(make_server: MakeServer) -> None:
    server = make_server("import sys; sys.exit()")
    server.log_path.write_text("an older start\n", encoding="utf-8")
    with pytest.raises(StartError, match="empty"):
        server.start()


def test_a_missing_program_is_a_start_error(tmp_path: Path) -> None:
    server = ServerProcess(
        "nothing", lambda: ["/does/not/exist"], port=free_port(), log_path=tmp_path / "log", is_ready=lambda: False
    )
    with pytest.raises(StartError, match="cannot run /does/not/exist: No such file"):
        server.start()


def test_a_silent_server_fails_at_the_deadline_and_is_gone(make_server: MakeServer) -> None:
    server = make_server(
        "import os, signal; print('pid', os.getpid(), flush=True); signal.pause()", start_timeout_s=0.5
    )
    with pytest.raises(StartError, match=r"did not answer within 0\.5 s"):
        server.start()
    assert not is_alive(int(server.log_path.read_text().split()[1]))


def test_a_taken_port_is_refused_before_another_server_answers_for_ours(make_server: MakeServer) -> None:
    server = make_server()
    with socket.create_server((LOOPBACK, server.port)), pytest.raises(StartError, match=f"{server.port} is not free"):
        server.start()


def test_a_server_that_ended_by_itself_is_noticed(make_server: MakeServer) -> None:
    with make_server() as server:
        server.require_running()
        pid = running(server)
        os.kill(pid, signal.SIGKILL)
        # Not through the server object: the end is for require_running to find.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ExitedError, match=r"stand-in ended by itself with -9(?s:.*)listening"):
            server.require_running()


STARTER = """
import signal, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from deploy.local.process import ServerProcess
port = int(sys.argv[2])

def is_ready():
    with socket.create_connection(("127.0.0.1", port)):
        return True

command = [sys.executable, "-I", "-c", sys.argv[4], str(port)]
server = ServerProcess("stand-in", lambda: command, port=port, log_path=Path(sys.argv[3]), is_ready=is_ready)
server.start()
print(server.pid, flush=True)
if sys.argv[5] == "stay":
    signal.pause()
"""


@pytest.mark.parametrize("end", ["killed", "returned"])
def test_it_does_not_outlive_a_parent_that_was(end: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    arguments = [str(root), str(free_port()), str(tmp_path / "log"), IGNORES_SIGTERM if end == "killed" else SERVER]
    mode = "stay" if end == "killed" else "return"
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments, mode], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if end == "killed":
            assert is_alive(pid)
            parent.kill()
        parent.wait(DEADLINE_S)
    wait_for_end(pid)
