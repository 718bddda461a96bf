"""One publication at a time, on a thread of its own; how it ended is told to the thread that asks."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.worker.edges import until
from worker.errors import PublishAborted
from worker.health import Watchdog
from worker.metrics import Metrics
from worker.publisher import Publisher

woken = threading.Event()
ended: list[int] = []


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    woken.clear()
    ended.clear()
    with closing(Publisher(Watchdog(0.2, ended.append), Metrics(), woken.set)) as made:
        yield made


def test_begins_elsewhere_and_wakes_when_it_has_ended(publisher: Publisher) -> None:
    go_on, ran_on = threading.Event(), []

    def publication() -> None:
        assert go_on.wait(10)
        ran_on.append(threading.current_thread())

    assert not publisher.is_busy
    publisher.begin([], [], publication)
    assert publisher.is_busy
    assert not publisher.finish()
    assert not woken.is_set()
    go_on.set()
    assert woken.wait(10)
    until(publisher.finish, "the end")
    assert not publisher.is_busy
    assert not publisher.finish()
    assert ran_on
    assert ran_on[0] is not threading.current_thread()


def test_a_failure_is_raised_where_it_is_asked_for_and_another_may_follow(publisher: Publisher) -> None:
    def publication() -> None:
        raise PublishAborted("the coordinator is away")

    publisher.begin([], [], publication)
    assert woken.wait(10)
    with pytest.raises(PublishAborted, match="coordinator"):
        until(publisher.finish, "the end")
    assert not publisher.is_busy
    publisher.begin([], [], lambda: None)
    until(publisher.finish, "the end")


def test_a_publication_that_takes_too_long_ends_the_process(publisher: Publisher) -> None:
    stuck = threading.Event()
    publisher.begin([], [], lambda: until(lambda: bool(ended) or stuck.wait(0.01), "the watchdog"))
    until(publisher.finish, "the end")
    assert ended


def test_closing_waits_for_what_is_under_way() -> None:
    tick, done = threading.Event(), threading.Event()

    def publication() -> None:
        tick.wait(0.05)
        done.set()

    publisher = Publisher(Watchdog(10), Metrics(), woken.set)
    publisher.begin([], [], publication)
    publisher.close()
    assert done.is_set()
