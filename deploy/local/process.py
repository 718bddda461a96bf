"""A server as a child process: started until ready, stopped by its id, never left behind."""

import atexit
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.errors import ExitedError, StartError
from deploy.local.ports import LOOPBACK, is_free

_LAUNCHER = Path(__file__).with_name("die_with_parent.py")
_PROBE_TIMEOUT_S = 2.0
_POLL_INTERVAL_S = 0.02
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16_384


def children_of(pid: int) -> list[int]:
    """Ids of the processes that a process has started, by any of its threads, and that have not ended."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            found += map(int, file.read_text().split())
    return found


class ServerProcess:
    """One server program, in a session of its own so that a terminal's Ctrl-C reaches us first.

    Args:
        name: What to call it in errors.
        command: Called at each start: prepares what the program needs and returns program and arguments (no shell).
        port: The loopback port that it will listen on. If it is taken the start fails at once, rather than that
            `is_ready` is answered by somebody else.
        log_path: Receives standard output and error, appended.
        is_ready: One quick probe (it sets its own time-out). False and `OSError` mean *not yet*.
        start_timeout_s: From start to the first successful probe.
        stop_timeout_s: From SIGTERM to SIGKILL.
        env: The whole environment; None inherits that of this process.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        port: int,
        log_path: Path,
        is_ready: Callable[[], bool],
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.log_path = log_path
        self._command = command
        self._is_ready = is_ready
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._env = env
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when there is none to signal."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """With which the server that was started has ended by itself (negative: by that signal), else None."""
        return None if self._child is None else self._child.poll()

    def require_running(self) -> None:
        """Complain if the server that was started has ended by itself.

        Raises:
            ExitedError: It has.
        """
        if self._child is not None and self._child.poll() is not None:
            raise ExitedError(f"{self.name} ended by itself with {self._child.returncode}{self._log_tail()}")

    def start(self) -> None:
        """Start the server and return when it is ready; after an error nothing runs.

        Call it from a thread that lives as long as the server should: on Linux the kernel kills the server as soon as
        the *thread* that started it ends (PR_SET_PDEATHSIG, prctl(2)), so that a server cannot outlive even a parent
        that was killed with -9.

        Raises:
            StartError: Its port is taken, it exited, or it did not answer in time.
            UnavailableError: This machine lacks what it needs.
        """
        if self.pid is not None:
            return
        if not is_free(self.port):
            raise StartError(f"{self.name} cannot start: {LOOPBACK}:{self.port} is not free")
        atexit.register(self.stop)
        try:
            command = self._command()
            deadline = time.monotonic() + self._start_timeout_s
            with self.log_path.open("ab") as log:
                self._log_start = log.tell()
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                )
            self._wait_until_ready(self._child, deadline)
        except BaseException:
            self.kill()
            self.stop()
            raise

    def stop(self) -> None:
        """End the server for good. Stopping what does not run is no error."""
        self.terminate()
        atexit.unregister(self.stop)

    def restart(self) -> None:
        """End the server if it still runs and start it again, at the same address."""
        self.terminate()
        self.start()

    def terminate(self) -> None:
        """Ask the server to end (SIGTERM), and kill it if it does not."""
        if self._child is None:
            return
        try:
            self._child.send_signal(signal.SIGTERM)
            self._child.send_signal(signal.SIGCONT)  # a paused process would not notice
            self._child.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash or the kernel's out-of-memory killer would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def pause(self) -> None:
        """Freeze the server (SIGSTOP), all its threads: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        assert self.pid is not None
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is None or self.pid is None:
            raise ProcessLookupError(f"{self.name} is not running")
        self._child.send_signal(number)

    def _wait_until_ready(self, child: "subprocess.Popen[bytes]", deadline: float) -> None:
        while child.poll() is None:
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} did not answer within {self._start_timeout_s:g} s{self._log_tail()}")
            time.sleep(_POLL_INTERVAL_S)
        raise StartError(f"{self.name} exited with {child.returncode} while starting{self._log_tail()}")

    def _answers(self) -> bool:
        try:
            return self._is_ready()
        except OSError:
            return False

    def _log_tail(self) -> str:
        """Return the end of what this start wrote, as the end of a sentence."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"; end of {self.log_path}:\n" + "\n".join(lines) if lines else f"; {self.log_path} is empty"


def answers_ok(url: str) -> bool:
    """Whether somebody answers there with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S) as response:  # noqa: S310 - http, by us
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False
