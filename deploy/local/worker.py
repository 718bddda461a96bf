"""The worker as a process beside the embedded broker and Valkey."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess, answers_ok
from deploy.local.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]


def local_worker(
    broker: EmbeddedBroker, valkey: Valkey, bundle: Path, log_path: Path, settings: Mapping[str, str] | None = None
) -> ServerProcess:
    """`python -m worker run`, on a GPU where there is one; ready when `/ready` says so.

    Args:
        broker: Where events come from.
        valkey: The cache.
        bundle: What it serves.
        log_path: Receives its log.
        settings: More of them, by their variables.
    """
    port = free_port()
    environment = worker_environment(broker, valkey) | dict(settings or {}) | {"GENPRINT_HTTP__PORT": str(port)}
    return ServerProcess(
        "the worker",
        lambda: [sys.executable, "-m", "worker", "run", "--bundle", str(bundle)],
        port=port,
        log_path=log_path,
        is_ready=lambda: answers_ok(f"http://{LOOPBACK}:{port}/ready"),
        start_timeout_s=180,
        env=environment,
    )


def worker_environment(broker: EmbeddedBroker, valkey: Valkey) -> dict[str, str]:
    """The environment of a worker's command: this process's own, without settings that the user may have exported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GENPRINT_")}
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "GENPRINT_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        # The embedded broker shows aborted transactions to everybody, so there is no exactly-once on it, and it takes
        # half the session time-out for each join.
        "GENPRINT_KAFKA__DELIVERY": "at_least_once",
        "GENPRINT_KAFKA__SESSION_TIMEOUT_S": "6",
        "GENPRINT_REDIS__URL": valkey.url,
        "GENPRINT_INFERENCE__DEVICE": "auto",
        "GENPRINT_HTTP__HOST": LOOPBACK,
    }
