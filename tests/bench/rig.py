"""What every measurement needs: one broker, images, bundles, and worker processes on topics of their own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from deploy.local.apache_kafka import ApacheKafka
from tests.bench.images import Images
from tests.bench.report import Report
from tests.integration.worker_process import Stream, WorkerProcess

_BROKER_CLOCK = {"message.timestamp.type": "LogAppendTime"}
"""Events and verdicts are stamped when the broker has them: one clock for both, whoever sent them."""
_log_numbers = count()


@dataclass(frozen=True)
class Rig:
    """The servers, images and options of one run."""

    kafka: ApacheKafka
    images: Images
    bundles: dict[str, Path]
    """By the name of their regime."""
    report: Report
    out: Path
    cores: int
    device: str
    quick: bool

    def events(self, full: int, quick: int) -> int:
        """How many, by how closely we look."""
        return quick if self.quick else full

    def seconds(self, full: float) -> float:
        """So long, or a quarter of it for a quick look."""
        return full / 4 if self.quick else full

    def stream(self) -> Stream:
        """New topics."""
        return Stream(self.kafka.bootstrap, _BROKER_CLOCK)

    def threads(self, processes: int) -> int:
        """Threads of ONNX Runtime, and decoders, of each of so many processes."""
        return max(1, self.cores // processes)

    @contextmanager
    def workers(self, stream: Stream, bundle: Path, processes: int, **settings: str) -> Iterator[list[WorkerProcess]]:
        """So many worker processes, ready; with their default settings but for what it takes to run here."""
        cores = dict.fromkeys(("INFERENCE__THREADS", "IMAGES__DECODE_PROCESSES"), str(self.threads(processes)))
        environment = stream.environment(
            bundle, **cores, INFERENCE__DEVICE=self.device, LOG_LEVEL="warning", **settings
        )
        logs = [self.out / "logs" / f"worker-{next(_log_numbers)}.log" for _ in range(processes)]
        started = [WorkerProcess(environment, log) for log in logs]
        # The kernel ends a server with the thread that started it, so these threads stay until the end.
        with ThreadPoolExecutor(processes) as starters, ExitStack() as stack:
            for worker in started:
                stack.callback(worker.stop)
            for done in [starters.submit(worker.start) for worker in started]:
                done.result()
            yield started
