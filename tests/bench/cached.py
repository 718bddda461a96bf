"""Images whose scores are in Redis already: the pipeline without decoding and inference."""

from deploy.local.valkey import Valkey
from tests.bench.backlog import Backlog
from tests.bench.regimes import BALANCED
from tests.bench.report import Measure
from tests.bench.rig import Rig
from tests.bench.throughput import drain_with, fill, processes, throughput

_TARGET_PER_S = 2_500
_EVENTS, _QUICK_EVENTS = 20_000, 6_000
_KNOWN = 2_000
"""Different images; the events repeat them, which for a look-up by hash makes no difference."""
_PROCESSES = (2, 1)
"""The target is for the first: one for each core of two, as in the other regimes."""
_ALL = 0.999


def measure_cached(rig: Rig) -> None:
    """With the embeddings of the balanced regime's network: 512 numbers each, as a real detector has."""
    bundle = rig.bundles[BALANCED.name]
    with Valkey(rig.out / "logs" / "valkey.log") as valkey, rig.report.section("cached images"):
        cache = {"REDIS__URL": valkey.url}
        cold = fill(rig, _KNOWN)
        with rig.workers(cold.stream, bundle, 1, **cache) as workers:
            drain_with(rig, cold, workers, "cached images: filling the cache")
        for count in _PROCESSES:
            known = _repeated(rig, rig.events(_EVENTS, _QUICK_EVENTS))
            with rig.workers(known.stream, bundle, count, **cache) as workers:
                run = drain_with(rig, known, workers, f"cached images: {processes(count)}")
            name = f"worker, {processes(count)}"
            rig.report.add(throughput(name, run, _TARGET_PER_S if count == _PROCESSES[0] else None))
            rig.report.add(Measure(f"share of them cached, {processes(count)}", run.cached, "", _ALL))


def _repeated(rig: Rig, events: int) -> Backlog:
    backlog = Backlog(rig.stream())
    known = list(rig.images.first(_KNOWN))
    backlog.add(known[number % _KNOWN] for number in range(events))
    backlog.flush()
    return backlog
