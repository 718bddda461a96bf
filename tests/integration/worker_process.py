"""The worker as a process of its own, with topics of its own, and clients of another library around it."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess
from deploy.local.topics import create_topics

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
TOPICS = ("images", "retry", "dead", "verdicts")


class Stream:
    """Four topics of one test; ``config`` are settings of the topics, ``replication`` is how many copies they have."""

    def __init__(self, bootstrap: str, config: Mapping[str, str] | None = None, replication: int = 1) -> None:
        self.bootstrap = bootstrap
        self.prefix = uuid.uuid4().hex[:8]
        self._queued: list[tuple[bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]] = []
        topics = {self.topic(name): PARTITIONS for name in TOPICS}
        create_topics(bootstrap, topics, config=config, replication=replication)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def environment(self, bundle: Path, **settings: str) -> dict[str, str]:
        """For any of the worker's commands; ``settings`` are ``KAFKA__GROUP_ID="x"``."""
        own = {
            "BUNDLE": str(bundle),
            "KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA__GROUP_ID": self.prefix,
            **{f"KAFKA__{name.upper()}_TOPIC": self.topic(name) for name in TOPICS},
            "KAFKA__SESSION_TIMEOUT_S": "6",
            "KAFKA__START_TIMEOUT_S": "60",
            "INFERENCE__DEVICE": "cpu",
            "INFERENCE__THREADS": "1",
            "HTTP__HOST": LOOPBACK,
            **settings,
        }
        return clean_environment() | {f"GENPRINT_{name}": value for name, value in own.items()}

    def produce(self, value: bytes | None, headers: dict[str, bytes], key: bytes | None = None) -> None:
        """Queue one record; ``flush`` sends."""
        self._queued.append((value, key, list(headers.items())))

    def flush(self) -> None:
        """Send what is queued. The client lives no longer than that, or it would look for a stopped broker."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "log_level": 0})
        for value, key, headers in self._queued:
            producer.produce(self.topic("images"), value, key, headers=list(headers))
            producer.poll(0)
        self._queued.clear()
        assert producer.flush(90) == 0
        producer.close()

    def answers(self, count: int, deadline_s: float = 120) -> dict[str, list[Any]]:
        """Committed records of verdicts and dead letters: at least ``count``, and whatever else is there by then."""
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid.uuid4().hex,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        names = {self.topic(name): name for name in ("verdicts", "dead")}
        reader.assign([TopicPartition(topic, number, 0) for topic in names for number in range(PARTITIONS)])
        found: dict[str, list[Any]] = {"verdicts": [], "dead": []}
        at_end: set[tuple[str | None, int | None]] = set()
        deadline = time.monotonic() + deadline_s
        try:
            while sum(map(len, found.values())) < count or len(at_end) < len(names) * PARTITIONS:
                assert time.monotonic() < deadline, f"{ {n: len(f) for n, f in found.items()} } of {count} answers"
                for message in reader.consume(500, 0.2):
                    place = (message.topic(), message.partition())
                    if message.error():
                        at_end.add(place)
                    else:
                        at_end.discard(place)
                        found[names[str(message.topic())]].append(message)
        finally:
            reader.close()
        return found


class WorkerProcess(ServerProcess):
    """``python -m worker run``, ready when /ready says so; without ``await_ready`` as soon as it is a process."""

    def __init__(
        self, environment: dict[str, str], log_path: Path, *, await_ready: bool = True, module: str = "worker"
    ) -> None:
        port = free_port()
        super().__init__(
            "the worker",
            lambda: [sys.executable, "-m", module, "run"],
            port=port,
            log_path=log_path,
            is_ready=lambda: not await_ready or self.http("/ready")[0] == 200,
            start_timeout_s=300,
            stop_timeout_s=20,
            env=environment | {"GENPRINT_HTTP__PORT": str(port), "PYTHONPATH": str(ROOT)},
        )

    def http(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def logged(self) -> list[dict[str, Any]]:
        """Every line of its log; each must be JSON."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]


def worker_command(*arguments: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m worker`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Ours, without settings that the developer may have exported."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GENPRINT_")}
