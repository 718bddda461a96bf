"""Figures with their bounds against plain loops over the resamples."""

from typing import Any

import numpy as np
import pytest

from trainer.data.transforms import BEYOND, CLEAN
from trainer.evaluation.abstention import UNSURE, ConformalKinds, RiskCoverage
from trainer.experiments.measures import Sample
from trainer.experiments.section import Measured
from trainer.protocols import unsure
from trainer.protocols.unsure import LogitsOf

pytestmark = pytest.mark.slow

RECIPE = {"protocol": "unsure", "table": [{"name": "unsure", "title": "unsure", "columns": []}]}
CHANGES = (CLEAN, *BEYOND)
ALPHA, RISK = 0.15, 0.2


def noisy(seed: int) -> LogitsOf:
    """A detector that is right more often than not, and says something else after each change."""

    def detector(images: Any, change: Any) -> Any:
        rng = np.random.default_rng([seed, *change.name.encode(), len(images)])
        return rng.normal([1.5 * image.generated for image in images]).astype(np.float32)

    return detector


@pytest.fixture
def tested(make_study: Any) -> tuple[Any, list[LogitsOf], list[ConformalKinds], dict[str, Measured]]:
    study = make_study(RECIPE, resamples=60)
    detectors = [noisy(seed) for seed in range(3)]
    kinds = unsure._calibrated(study, detectors, CHANGES)
    return study, detectors, kinds, unsure._tested(study, detectors, kinds, CHANGES, ALPHA, RISK)[0]


def test_figures_are_those_of_a_loop_over_resamples(tested: Any) -> None:
    study, detectors, kinds, measured = tested
    images = unsure._tests(study)
    sample = Sample.of(study, images, 3)
    logits = [np.stack([detector(images, change) for change in CHANGES]) for detector in detectors]
    truth = np.array([image.generated for image in images])
    found: dict[str, list[float]] = {column: [] for column in measured}
    for cells, photographs in zip(sample.resamples.cells[:, :, 0], sample.resamples.photographs, strict=True):
        files = [i for i, photo in enumerate(sample.photograph) for _ in range(int(photographs[photo]))]
        decided, wrong, coverage = [], [], []
        for backbone in (s for s in range(3) for _ in range(int(cells[s]))):
            scores, kind = logits[backbone][:, files].ravel(), np.tile(truth[files], len(CHANGES))
            decisions = kinds[backbone].decide(scores, ALPHA)
            decided += (decisions != UNSURE).tolist()
            wrong += [bool(d != k) for d, k in zip(decisions, kind, strict=True) if d != UNSURE]
            called, confidence = kinds[backbone].likelier(scores)
            curve = RiskCoverage.of(confidence, called != kind)
            coverage.append(curve.coverage[curve.risk <= RISK].max(initial=0.0))
        for column, values in (("decided", decided), ("wrong", wrong), ("coverage at the risk", coverage)):
            found[column].append(100 * float(np.mean(values)))
    for column, (value, *resampled) in found.items():
        low, high = np.quantile(resampled, [0.025, 0.975])
        one = measured[column]
        assert (one.value, one.low, one.high) == pytest.approx((value, low, high))
        assert one.low < one.value < one.high


def test_all_calibration_images_are_calibrated_on_after_each_change(tested: Any) -> None:
    study, _, kinds, _ = tested
    photographs = len(study.corpus.photographs("calib"))
    fakes = sum(len(study.corpus.fakes(name, "calib")) for name in study.generators.values())
    assert fakes > photographs > 0
    assert {(len(one.real), len(one.generated)) for one in kinds} == {
        (photographs * len(CHANGES), fakes * len(CHANGES))
    }


def test_copies_of_a_photograph_move_together(tested: Any) -> None:
    """Ten copies that all say the same are not ten times as many photographs."""
    study, *_ = tested
    detectors: list[LogitsOf] = [lambda images, _: noisy(0)(images, CLEAN)]
    kinds = unsure._calibrated(study, detectors, (CLEAN,))
    once, often = (unsure._tested(study, detectors, kinds, (CLEAN,) * times, ALPHA, RISK)[0] for times in (1, 10))
    assert once == often


def test_no_error_is_told_where_nothing_is_decided(tested: Any) -> None:
    study, detectors, kinds, _ = tested
    measured, _ = unsure._tested(study, detectors, kinds, CHANGES, 0.0, RISK)
    assert measured["decided"] == Measured(value=0, low=0, high=0)
    assert "wrong" not in measured


def test_each_backbone_counts_and_a_variant_may_have_fewer(make_study: Any) -> None:
    settings = {
        "variants": {"one": {"system": "s1", "seeds": 1}, "two": {"system": "s1"}},
        "alpha": 0.2,
        "risks": {"clean": 0.1},
    }
    said: list[str] = []
    study = make_study({**RECIPE, "settings": settings}, seeds=2)
    study.steps._say = said.append
    unsure.run(study)
    assert sum(line.startswith("train") for line in said) == 2
