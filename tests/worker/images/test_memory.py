"""The memory budget of decoding."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.images.memory import MemoryBudget


class Claim(threading.Thread):
    """Holds a claim until it is told to let go."""

    def __init__(self, budget: MemoryBudget, wanted_bytes: int) -> None:
        super().__init__(name="claim", daemon=True)
        self._budget, self._wanted = budget, wanted_bytes
        self.asked, self.granted, self.done = threading.Event(), threading.Event(), threading.Event()
        self.start()
        assert self.asked.wait(5)

    def run(self) -> None:
        self.asked.set()
        with self._budget.reserve(self._wanted):
            self.granted.set()
            self.done.wait(10)

    def end(self) -> None:
        self.done.set()
        self.join(5)
        assert not self.is_alive()


def test_claims_fit_together_or_wait() -> None:
    budget = MemoryBudget(10)
    first, second = Claim(budget, 6), Claim(budget, 4)
    assert first.granted.wait(5)
    assert second.granted.wait(5)
    assert budget.held_bytes == 10
    third = Claim(budget, 1)
    assert not third.granted.wait(0.05)
    first.end()
    assert third.granted.wait(5)
    assert budget.held_bytes == 5
    second.end()
    third.end()
    assert budget.held_bytes == 0


def test_a_claim_above_everything_is_granted_alone() -> None:
    budget = MemoryBudget(10)
    small = Claim(budget, 1)
    assert small.granted.wait(5)
    large = Claim(budget, 1000)
    assert not large.granted.wait(0.05)
    small.end()
    assert large.granted.wait(5)
    late = Claim(budget, 1)
    assert not late.granted.wait(0.05)
    large.end()
    assert late.granted.wait(5)
    late.end()


def test_a_large_claim_is_not_starved_by_small_ones_that_come_later() -> None:
    budget = MemoryBudget(10)
    small = Claim(budget, 1)
    assert small.granted.wait(5)
    large = Claim(budget, 10)
    assert not large.granted.wait(0.05)
    later = [Claim(budget, 1) for _ in range(3)]
    assert not any(claim.granted.wait(0.02) for claim in later)
    small.end()
    assert large.granted.wait(5)
    large.end()
    for claim in later:
        assert claim.granted.wait(5)
        claim.end()


def test_a_claim_is_released_when_its_block_fails() -> None:
    budget = MemoryBudget(10)
    with pytest.raises(RuntimeError), budget.reserve(10):
        raise RuntimeError
    with budget.reserve(10):
        assert budget.held_bytes == 10


def test_many_threads_never_exceed_the_budget_and_never_lock_up() -> None:
    budget, lock, held, most = MemoryBudget(100), threading.Lock(), 0, 0

    def work(seed: int) -> None:
        nonlocal held, most
        for i in range(100):
            wanted = (seed * 37 + i * 61) % 120 + 1
            with budget.reserve(wanted):
                with lock:
                    held += min(wanted, 100)
                    most = max(most, held)
                with lock:
                    held -= min(wanted, 100)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result(20)
    assert 0 < most <= 100
    assert budget.held_bytes == 0
