"""Worker processes as an operator would run them: whichever ends by itself is started again."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import children_of
from tests.integration.worker_process import WorkerProcess


@dataclass(frozen=True)
class Exit:
    """A worker that ended by itself."""

    at: float
    worker: int
    status: int


class Fleet:
    """Workers by number; each has an identity of its own that survives its restarts.

    Args:
        environment: of worker ``number``.
        logs: folder for their logs.
    """

    def __init__(self, environment: Callable[[int], dict[str, str]], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._workers: dict[int, WorkerProcess] = {}
        self._once: set[int] = set()
        self.module = "worker"
        """The program that workers started from now on run."""
        self.exits: list[Exit] = []

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, number: int) -> WorkerProcess:
        return self._workers[number]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the workers that should run."""
        return sorted(self._workers)

    def metric(self, number: int, series: str) -> float:
        """The value of a series of a worker, given as it stands in /metrics; 0 if it is not there."""
        _, metrics = self._workers[number].http("/metrics")
        found = re.search(rf"^{re.escape(series)} (\S+)", metrics, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def partitions(self, number: int, topic: str) -> set[int]:
        """Those that a worker has said to own a few seconds ago."""
        _, metrics = self._workers[number].http("/metrics")
        return {
            int(found) for found in re.findall(rf'genprint_lag_records{{partition="(\d+)",topic="{topic}"}}', metrics)
        }

    def grow(self, count: int) -> None:
        """Start workers until there are so many; returns before they are ready.

        The kernel ends a process with the thread that started it, so this is for the main thread.
        """
        number = 0
        while len(self._workers) < count:
            if number not in self._workers:
                self.begin(number)
            number += 1

    def begin(self, number: int, identity: int | None = None) -> None:
        """Start one; with the ``identity`` of another where a successor is wanted."""
        log = self._logs / f"worker-{number}.log"
        environment = self._environment(number if identity is None else identity)
        self._workers[number] = WorkerProcess(environment, log, await_ready=False, module=self.module)
        self._workers[number].start()

    def shrink(self, count: int) -> None:
        """End workers in order (SIGTERM) until there are so many."""
        while len(self._workers) > count:
            self._workers.pop(max(self._workers)).stop()

    def drop(self, number: int) -> None:
        """Kill one (SIGKILL) for good."""
        worker = self._workers.pop(number)
        worker.kill()
        worker.stop()

    def kill(self, number: int) -> None:
        """Kill one (SIGKILL) and start it again."""
        self._workers[number].kill()
        self._workers[number].start()

    def freeze(self, number: int) -> None:
        """Stop one where it is (SIGSTOP)."""
        self._workers[number].pause()

    def thaw(self, number: int) -> None:
        """Let it go on (SIGCONT)."""
        self._workers[number].resume()

    def decoders(self, number: int) -> list[int]:
        """Process ids of its decoders; none while it starts."""
        pid = self._workers[number].pid
        return children_of(pid) if pid else []

    def let_end(self, number: int) -> None:
        """When this one ends by itself, it is not started again."""
        self._once.add(number)

    def tend(self) -> None:
        """Start again whatever has ended by itself."""
        for number, worker in list(self._workers.items()):
            status = worker.exit_status
            if status is not None:
                self.exits.append(Exit(time.monotonic(), number, status))
                worker.kill()  # forgets the process that is gone
                if number in self._once:
                    del self._workers[number]
                else:
                    worker.start()

    def ready(self) -> bool:
        """Whether all have their place in the group."""
        return all(self.is_ready(number) for number in self._workers)

    def is_ready(self, number: int) -> bool:
        """Whether one of them has."""
        try:
            return self._workers[number].http("/ready")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End all in order."""
        for worker in self._workers.values():
            worker.stop()
