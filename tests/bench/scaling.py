"""One, two and four worker processes on one topic and on the same cores: what scale-out costs."""

from tests.bench.regimes import BALANCED, PIPELINE_BOUND
from tests.bench.report import Measure
from tests.bench.rig import Rig
from tests.bench.throughput import Throughput, processes, throughput

_PROCESSES = (1, 2, 4)


def measure_scaling(rig: Rig, measured: Throughput) -> None:
    """Throughput and its ratio to one process, where the pipeline binds and where the model does."""
    for regime in (PIPELINE_BOUND, BALANCED):
        with rig.report.section(f"scale-out, {regime.name}"):
            runs = {count: measured.run(regime, count) for count in _PROCESSES}
            for count, run in runs.items():
                rig.report.add(throughput(processes(count), run))
                if count > 1:
                    ratio = run.verdicts_per_s / runs[1].verdicts_per_s
                    rig.report.add(Measure(f"{processes(count)} to one", ratio, "x"))
