"""Full batches under backlog, short waits without, nothing lost and order kept."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from worker.pipeline.batcher import Batcher

NEVER_S = 3600.0


@pytest.fixture
def taken() -> "Callable[[Batcher[int]], Future[list[int]]]":
    """Take on another thread, so that a take that never returns fails the test."""

    def take(batcher: Batcher[int]) -> "Future[list[int]]":
        future: Future[list[int]] = Future()
        threading.Thread(target=lambda: future.set_result(batcher.take()), daemon=True).start()
        return future

    return take


Take = Callable[[Batcher[int]], "Future[list[int]]"]


def filled(count: int, max_size: int, max_wait_s: float) -> Batcher[int]:
    batcher: Batcher[int] = Batcher(max_size, max_wait_s)
    for i in range(count):
        batcher.put(i)
    return batcher


def test_backlog_gives_full_batches_at_once_and_in_order(taken: Take) -> None:
    batcher = filled(10, 4, NEVER_S)
    assert [taken(batcher).result(5) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(batcher) == 2


def test_an_incomplete_batch_is_given_out_when_its_time_is_over(taken: Take) -> None:
    batcher: Batcher[int] = Batcher(4, 0.1)
    future = taken(batcher)
    began = time.monotonic()
    batcher.put(1)
    assert future.result(5) == [1]
    assert time.monotonic() - began >= 0.1


def test_a_batch_that_fills_up_while_waiting_goes_at_once(taken: Take) -> None:
    batcher: Batcher[int] = Batcher(3, NEVER_S)
    future = taken(batcher)
    for i in range(3):
        batcher.put(i)
    assert future.result(5) == [0, 1, 2]


def test_the_wait_counts_from_the_arrival_and_not_from_the_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("worker.pipeline.batcher.time.monotonic", lambda: now[0])
    batcher = filled(2, 4, 100)
    now[0] = 100.0
    assert batcher.take() == [0, 1]  # it has waited while the taker was busy; the clock stands still, so any wait hangs


def test_no_wait_at_all(taken: Take) -> None:
    assert taken(filled(2, 4, 0)).result(5) == [0, 1]


def test_closing_hands_out_what_is_left_and_then_nothing(taken: Take) -> None:
    batcher = filled(3, 2, NEVER_S)
    batcher.close()
    assert [taken(batcher).result(5) for _ in range(4)] == [[0, 1], [2], [], []]


@pytest.mark.parametrize("count", [0, 1])
def test_closing_wakes_a_taker(taken: Take, count: int) -> None:
    batcher = filled(count, 2, NEVER_S)
    future = taken(batcher)
    batcher.close()
    assert future.result(5) == list(range(count))


def test_many_producers_lose_nothing_and_keep_their_own_order() -> None:
    producers, each = 8, 400
    batcher: Batcher[tuple[int, int]] = Batcher(7, 0.001)
    batches: list[list[tuple[int, int]]] = []

    def consume() -> None:
        while batch := batcher.take():
            batches.append(batch)

    def produce(producer: int) -> None:
        for i in range(each):
            batcher.put((producer, i))

    taker = threading.Thread(target=consume, daemon=True)
    taker.start()
    with ThreadPoolExecutor(producers) as pool:
        list(pool.map(produce, range(producers)))
    batcher.close()
    taker.join(10)
    assert not taker.is_alive()
    found = [item for batch in batches for item in batch]
    assert max(map(len, batches)) <= 7
    for producer in range(producers):
        assert [i for p, i in found if p == producer] == list(range(each))
