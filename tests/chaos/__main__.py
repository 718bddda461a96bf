"""``make chaos``: real workers on real Apache Kafka, with everything that can go wrong; see docs/delivery.md.

The results go to build/chaos/report.json. Exit status 1 if a promise was broken.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from deploy.local.apache_kafka import ApacheKafka
from tests.chaos import broker_faults, cache_faults, cluster_faults, event_faults, worker_faults
from tests.chaos.report import Report, Result, markdown, say, table
from tests.chaos.rig import Rig
from tests.worker.small_bundle import small_bundle

SCENARIOS: Final[dict[str, Callable[[Rig], Iterator[Result]]]] = {
    "kill": worker_faults.kill,
    "scale": worker_faults.scale,
    "zombie": worker_faults.zombie,
    "rival": worker_faults.rival,
    "decoders": worker_faults.decoders,
    "broker_kill": broker_faults.broker_kill,
    "broker_freeze": broker_faults.broker_freeze,
    "proxy": broker_faults.proxy,
    "coordinator": broker_faults.coordinator,
    "produce": broker_faults.produce,
    "quota": broker_faults.quota,
    "cluster": cluster_faults.cluster,
    "cache": cache_faults.cache,
    "hanging": event_faults.hanging,
    "poison": event_faults.poison,
    "deadly": event_faults.deadly,
    "slow host": event_faults.slow_host,
    "tenant": event_faults.tenant,
    "many tenants": event_faults.many_tenants,
    "rejects": event_faults.rejects,
}
_PLAIN_WIDTH = 120
"""Columns where there is no terminal that would tell."""


def main(
    only: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCENARIOS)}.")] = ",".join(SCENARIOS),
    seed: Annotated[int, typer.Option(min=0, help="Of events and moments.")] = 0,
    scale: Annotated[float, typer.Option(min=0.001, max=10, help="Of the numbers of events and faults.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where logs and report.json go.")] = Path("build/chaos"),
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Run nothing; print the report's table.")] = False,
) -> None:
    """Break things, and count by origin what was lost or answered twice."""
    wanted = [name.strip() for name in only.split(",")]
    if unknown := set(wanted) - set(SCENARIOS):
        raise typer.BadParameter(f"no such scenario: {', '.join(sorted(unknown))}", param_hint="--only")
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    report = Report(out / "report.json")
    report.load()
    if as_markdown:
        typer.echo(markdown(report.sorted(SCENARIOS)), nl=False)
        return
    (out / "logs").mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as work, ApacheKafka(out / "logs" / "kafka.log") as kafka:
        rig = Rig(kafka, small_bundle(Path(work) / "bundle").path, out, seed, scale)
        for name in wanted:
            for result in SCENARIOS[name](rig):
                say(console, result)
                report.add(result)
                results.append(result)
    console.print(table(results))
    if not all(result.held for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
