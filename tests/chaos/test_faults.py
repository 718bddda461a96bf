"""A few faults of ``make chaos``, small enough for every test run."""

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from deploy.local.apache_kafka import ApacheKafka
from tests.chaos import broker_faults, event_faults, worker_faults
from tests.chaos.report import Result
from tests.chaos.rig import Rig
from tests.worker.small_bundle import small_bundle

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rig(apache_kafka: ApacheKafka, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    bundle = small_bundle(tmp_path_factory.mktemp("bundle") / "b")
    return Rig(apache_kafka, bundle.path, tmp_path_factory.mktemp("chaos"), seed=0, scale=0.05)


@pytest.mark.parametrize(
    ("scenario", "cases"),
    [(worker_faults.kill, 2), (broker_faults.proxy, 2), (event_faults.poison, 1)],
    ids=["killed workers", "cut connections", "bad records"],
)
def test_nothing_is_lost_and_nothing_comes_twice(
    rig: Rig, scenario: Callable[[Rig], Iterator[Result]], cases: int
) -> None:
    for result in islice(scenario(rig), cases):
        assert result.broken == ()
        assert result.events >= 400
