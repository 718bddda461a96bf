"""`python -m deploy.local up`: a broker and a cache in the foreground, until Ctrl-C."""

import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.apache_kafka import ApacheKafka, unavailable_reason
from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.errors import LocalServerError
from deploy.local.kafka_jars import cached_jars, fetch_jars
from deploy.local.process import ServerProcess
from deploy.local.topics import GENPRINT_TOPICS, create_topics
from deploy.local.valkey import Valkey

_WATCH_INTERVAL_S = 0.5

app = typer.Typer(help="Real servers on this machine, without containers.", no_args_is_help=True)
progress = Console(stderr=True)  # standard output carries the result alone


class BrokerKind(StrEnum):
    """Which broker to run."""

    EMBEDDED = "embedded"
    APACHE = "apache"


@app.callback()
def _program() -> None:
    # With a callback, typer asks for the command's name even while there is only one.
    pass


@app.command()
def up(
    broker: Annotated[
        BrokerKind, typer.Option(help="embedded: in memory, at once; apache: Java 17, proves durability.")
    ] = BrokerKind.EMBEDDED,
    port: Annotated[int | None, typer.Option(help="Port of the broker; a free one if not given.")] = None,
    redis_port: Annotated[int | None, typer.Option(help="Port of Valkey; a free one if not given.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as one line of JSON.")] = False,
) -> None:
    """Start a broker and Valkey on loopback, create the topics, and stay until Ctrl-C or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        with ExitStack() as running:
            logs = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="genprint-logs-")))
            kafka = _broker(broker, logs / "broker.log", port)
            valkey = Valkey(logs / "valkey.log", port=redis_port)
            for server in (kafka, valkey):
                with progress.status(f"Starting {server.name} …"):
                    running.enter_context(server)
            create_topics(kafka.bootstrap, dict.fromkeys(GENPRINT_TOPICS, partitions))
            settings = {
                "GENPRINT_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
                "GENPRINT_REDIS__URL": valkey.url,
            }
            if as_json:
                print(json.dumps(settings), flush=True)
            else:
                _show(kafka, valkey, logs, settings)
            _watch(kafka, valkey)
    except LocalServerError as error:
        progress.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _broker(kind: BrokerKind, log_path: Path, port: int | None) -> EmbeddedBroker | ApacheKafka:
    if kind is BrokerKind.EMBEDDED:
        return EmbeddedBroker(log_path, port=port)
    if unavailable_reason() is None and cached_jars() is None:
        with progress.status("Fetching Apache Kafka with Maven (44 MB, once) …"):
            fetch_jars()
    return ApacheKafka(log_path, port=port)


def _show(kafka: EmbeddedBroker | ApacheKafka, valkey: Valkey, logs: Path, settings: dict[str, str]) -> None:
    table = Table("server", "address", "process")
    table.add_row(kafka.name, kafka.bootstrap, str(kafka.pid))
    table.add_row(valkey.name, valkey.url, str(valkey.pid))
    progress.print(table)
    for name, value in settings.items():
        print(f"export {name}={value}", flush=True)
    progress.print(f"Topics: {', '.join(GENPRINT_TOPICS)}. Logs: {logs}. Ctrl-C stops everything.")


def _watch(*servers: ServerProcess) -> NoReturn:
    """Stay until a signal comes.

    Raises:
        ExitedError: A server ended by itself.
    """
    while True:
        for server in servers:
            server.require_running()
        time.sleep(_WATCH_INTERVAL_S)


def _leave(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    app(prog_name="python -m deploy.local")
