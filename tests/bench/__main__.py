"""``make bench``: how fast are worker and trainer, against what this machine could do at best and a naive loop.

See docs/benchmark.md. The figures go to build/bench/worker.json.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from deploy.local.apache_kafka import ApacheKafka
from tests.bench.bundles import make_bundle
from tests.bench.cached import measure_cached
from tests.bench.images import Images
from tests.bench.latency import measure_latency
from tests.bench.machine import cores, device
from tests.bench.memory import measure_memory
from tests.bench.regimes import REGIMES
from tests.bench.report import Measure, Report
from tests.bench.rig import Rig
from tests.bench.scaling import measure_scaling
from tests.bench.throughput import Throughput
from tests.bench.training import measure_training

PARTS: Final = ("throughput", "cached", "latency", "scaling", "memory", "training")

_PLAIN_WIDTH = 110
"""Columns where there is no terminal that would tell."""


def main(
    only: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(PARTS)}.")] = ",".join(PARTS),
    quick: Annotated[bool, typer.Option(help="A tenth of the events, for trying: its figures are rough.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of images, weights and templates.")] = 0,
    out: Annotated[Path, typer.Option(help="Where bundles, logs and worker.json go.")] = Path("build/bench"),
) -> None:
    """Measure worker and trainer on this machine; all that is compared is measured in one run."""
    wanted = [part.strip() for part in only.split(",")]
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"no such part: {', '.join(sorted(unknown))}", param_hint="--only")
    (out / "logs").mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    report = Report(console, out / "worker.json", {"only": wanted, "quick": quick, "seed": seed})
    report.introduce()
    if "training" in wanted:
        measure_training(report, quick=quick, seed=seed)
    if set(wanted) - {"training"}:
        _measure_worker(wanted, report, out, quick=quick, seed=seed)
    if missed := report.missed():
        report.say(f"{len(missed)} targets missed: {', '.join(measure.name for measure in missed)}")


def _measure_worker(wanted: list[str], report: Report, out: Path, *, quick: bool, seed: int) -> None:
    images = Images(seed)
    with report.section("images"):
        sizes = [len(image) for image in images.first(1000)]
        report.add(Measure("mean size of an image", sum(sizes) / len(sizes), "bytes"))
    with report.step("bundles"):
        probe = list(images.first(2))
        bundles = {regime.name: make_bundle(regime, out / "bundles", probe, seed).path for regime in REGIMES}
    with tempfile.TemporaryDirectory() as logs, ApacheKafka(Path(logs) / "kafka.log") as kafka:
        rig = Rig(kafka, images, bundles, report, out, cores(), device(), quick)
        throughput = Throughput(rig)
        if "throughput" in wanted:
            throughput.report()
        if "cached" in wanted:
            measure_cached(rig)
        if "latency" in wanted:
            measure_latency(rig, throughput)
        if "scaling" in wanted:
            measure_scaling(rig, throughput)
        if "memory" in wanted:
            measure_memory(rig)


if __name__ == "__main__":
    typer.run(main)
