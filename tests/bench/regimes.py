"""The three regimes: what binds the throughput in each, how many events show it, and what is expected."""

from dataclasses import dataclass

from bundle.manifest import Crop, Preprocessing, Resize, View


@dataclass(frozen=True)
class Regime:
    """A network, and how it is served."""

    name: str
    model: str
    preprocessing: Preprocessing
    events: int
    quick_events: int
    """For trying: about a tenth, but enough for some seconds."""
    processes: tuple[int, ...]
    """Numbers of worker processes to try on this machine; targets are for the first. Each runs ONNX Runtime with
    ``max(1, cores // processes)`` threads."""
    of_limit: float
    """Wanted: share of what the machine could do at best."""
    over_naive: float | None = None
    """Wanted: times as fast as one naive loop."""
    verdicts_per_s: float | None = None
    """Wanted, whatever the limit."""
    rounds: int = 1
    """How often limit and worker run, one right after the other, on fresh backlogs; medians count."""


def _crop(size: int) -> Preprocessing:
    return Preprocessing(views=(View(crop=Crop(mode="centre", size=size)),))


def _resize(size: int) -> Preprocessing:
    return Preprocessing(views=(View(resize=Resize(mode="exact", size=size)),))


MODEL_BOUND = Regime("model-bound", "ResNet-50 at 224 px", _crop(224), 2_000, 400, (2,), 0.92, rounds=3)
BALANCED = Regime("balanced", "ResNet-18 at 128 px", _resize(128), 20_000, 2_000, (2,), 0.84, over_naive=1.5)
PIPELINE_BOUND = Regime(
    "pipeline-bound",
    "256 pixels of 224 x 224",
    _crop(224),
    20_000,
    6_000,
    (2, 1),
    0.60,
    over_naive=4,
    verdicts_per_s=1_200,
)
REGIMES = (MODEL_BOUND, BALANCED, PIPELINE_BOUND)
