"""Tenants and their slots."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import pytest

from worker.fairness import SharedCapacity, Shares, Turns
from worker.settings import FairnessSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shares(clock: Clock, *, max_share: float = 0.25, slots: int = 8) -> Shares:
    return Shares(FairnessSettings(max_share=max_share, window_s=60), slots, clock)


def take(held: Shares, tenant: str, count: int) -> None:
    for _ in range(count):
        held.see(tenant)
        held.take(tenant)


def test_alone_a_tenant_may_take_every_slot() -> None:
    held = shares(Clock())
    take(held, "a", 100)
    assert not held.is_beyond("a")


def test_beside_others_no_more_than_its_share() -> None:
    held = shares(Clock())
    take(held, "b", 1)
    take(held, "a", 1)
    assert not held.is_beyond("a")
    take(held, "a", 1)
    assert held.is_beyond("a")
    assert not held.is_beyond("b")


def test_a_slot_given_back_may_be_taken_again() -> None:
    held = shares(Clock())
    take(held, "b", 1)
    take(held, "a", 2)
    held.give_back("a")
    assert not held.is_beyond("a")


def test_tenants_that_have_been_silent_for_long_do_not_count() -> None:
    clock = Clock()
    held = shares(clock)
    take(held, "b", 1)
    clock.now += 60
    take(held, "a", 2)
    assert held.is_beyond("a")
    clock.now += 1
    assert not held.is_beyond("a")


def test_a_share_is_at_least_one_slot() -> None:
    held = shares(Clock(), max_share=0.01)
    take(held, "b", 1)
    assert not held.is_beyond("a")


def test_names_from_outside_do_not_fill_the_memory() -> None:
    held = shares(Clock())
    for number in range(20_000):
        held.see(str(number))
        held.take(str(number))
        held.give_back(str(number))
    assert len(held._seen) == 10_000
    assert not held._held


def test_one_that_holds_nothing_may_take_more_than_its_share_at_once() -> None:
    held = shares(Clock(), slots=100)
    take(held, "b", 1)
    assert not held.is_beyond("a", 80)
    held.take("a", 80)
    assert held.is_beyond("a")
    held.give_back("a", 56)
    assert not held.is_beyond("a", 1)
    assert held.is_beyond("a", 2)


# Capacity that is waited for -----------------------------------------------------------------------------------------


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Waiters:
    """Takes amounts in tasks, and notes in which order they are granted."""

    def __init__(self, capacity: int, max_share: float = 0.25) -> None:
        self.capacity = SharedCapacity(FairnessSettings(max_share=max_share, window_s=60), capacity, Clock())
        self.granted: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def take(self, tenant: str, amount: int = 1, times: int = 1) -> None:
        for _ in range(times):
            self.tasks.append(asyncio.ensure_future(self._take(tenant, amount)))
        await settled()

    async def _take(self, tenant: str, amount: int) -> None:
        await self.capacity.take(tenant, amount)
        self.granted.append(tenant)

    async def give_back(self, tenant: str, amount: int = 1) -> None:
        self.capacity.give_back(tenant, amount)
        await settled()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def in_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_what_is_free_goes_to_who_holds_least() -> None:
    waiters = Waiters(8)
    await waiters.take("a", times=12)
    assert waiters.granted == ["a"] * 8  # it was alone
    await waiters.take("b", times=3)
    await waiters.give_back("a")
    await waiters.give_back("a")
    assert waiters.granted == ["a"] * 8 + ["b"] * 2
    await waiters.give_back("a")
    assert waiters.granted == ["a"] * 8 + ["b"] * 2  # both are at their share of two, or above it
    await waiters.give_back("b")
    assert waiters.granted == ["a"] * 8 + ["b"] * 3
    assert waiters.capacity.taken == 7
    await waiters.stop()


@in_a_loop
async def test_beside_others_a_tenant_leaves_the_rest_free() -> None:
    waiters = Waiters(64)
    await waiters.take("b")
    await waiters.take("a", times=100)
    assert waiters.granted.count("a") == 16
    await waiters.take("b", times=15)
    assert waiters.granted.count("b") == 16  # at once
    await waiters.stop()


@in_a_loop
async def test_nobody_overtakes_one_that_waits_for_much() -> None:
    waiters = Waiters(100, max_share=1)
    await waiters.take("a", 60)
    await waiters.take("b", 50)
    await waiters.take("a", 10)
    await waiters.take("c", 50)
    assert waiters.granted == ["a"]
    await waiters.give_back("a", 60)
    assert waiters.granted == ["a", "b", "a"]
    await waiters.stop()


@in_a_loop
async def test_one_that_stops_waiting_takes_nothing() -> None:
    waiters = Waiters(2, max_share=1)
    await waiters.take("a", 2)
    await waiters.take("b", 2)
    await waiters.take("c", 1)
    waiters.tasks[1].cancel()
    await settled()
    await waiters.give_back("a", 1)
    assert waiters.granted == ["a", "c"]
    waiters.tasks.append(late := asyncio.ensure_future(waiters.capacity.take("d")))
    await settled()
    waiters.capacity.give_back("a")
    late.cancel()  # in the moment in which it is granted
    await settled()
    assert late.cancelled()
    assert waiters.capacity.taken == 1
    await waiters.stop()


# Time of threads ------------------------------------------------------------------------------------------------------


def work_off(turns: Turns[str], clock: Clock, took_s: dict[str, float], count: int) -> str:
    """The tenants of the next turns on one thread, of which each takes its tenant's time."""
    served = ""
    for _ in range(count):
        [turn] = taken = turns.take()
        clock.now += took_s[turn.tenant]
        turns.done(taken)
        served += turn.tenant
    return served


def test_turns_are_shared_by_the_time_that_they_take() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(1, clock)
    for number in range(40):
        turns.put("a", f"slow {number}")
    assert work_off(turns, clock, {"a": 10}, 2) == "aa"
    for number in range(25):
        turns.put("b", f"quick {number}")
    assert work_off(turns, clock, {"a": 10, "b": 1}, 29) == "b" * 10 + "a" + "b" * 10 + "a" + "b" * 5 + "aa"


def test_within_a_tenant_who_came_first_is_first_and_one_may_leave() -> None:
    turns: Turns[int] = Turns(1, Clock())
    for number in range(4):
        turns.put("a", number)
    assert turns.withdraw("a", 1)
    assert not turns.withdraw("a", 1)
    assert not turns.withdraw("b", 2)
    assert len(turns) == 3
    assert [turn.work for _ in range(3) for turn in turns.take()] == [0, 2, 3]


def test_turns_cannot_be_saved_up_nor_debts_left_behind() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(1, clock)
    for name in "aaab":
        turns.put(name, name)
    took_s = {"a": 10.0, "b": 1.0}
    assert work_off(turns, clock, took_s, 2) == "ab"
    turns.put("b", "b")
    assert work_off(turns, clock, took_s, 1) == "b"
    for _ in range(20):  # one at a time: it is never among those who wait for long
        turns.put("b", "b")
        assert work_off(turns, clock, took_s, 1) in ("a", "b")
    assert turns.wait_s("a") <= 10
    turns.put("c", "c")  # for the first time
    turns.put("c", "c")
    assert work_off(turns, clock, {**took_s, "c": 100}, len(turns)).count("c") == 2


def test_what_waits_is_reckoned_by_what_its_tenants_took() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(2, clock)
    for name in "aaaaab":
        turns.put(name, name)
    assert turns.longest_wait_s == 0  # nothing is known yet
    work_off(turns, clock, {"a": 3, "b": 0.5}, 2)
    assert (turns.wait_s("a"), turns.wait_s("b"), turns.longest_wait_s) == (6, 0, 6)


def test_small_work_comes_several_at_a_time_as_long_as_all_threads_find_some() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(2, clock)
    for work in "abcdefghijkLmnOp":
        turns.put("one", work)
    found = []
    while len(turns):
        taken = turns.take(4, str.islower)
        clock.now += 0.002 * len(taken)
        turns.done(taken)
        found.append("".join(turn.work for turn in taken))
    assert found == ["a", "bcde", "fghi", "jk", "L", "mn", "O", "p"]  # first it is not known how long each takes
    turns.put("one", "")
    assert turns.wait_s("one") == pytest.approx(0.001)  # each took 2 ms of a thread


def test_small_work_of_several_tenants_is_not_mixed_and_shared_by_its_time() -> None:
    clock = Clock()
    turns: Turns[str] = Turns(1, clock)
    took_s = {"quick": 0.005, "slow": 0.3}
    had_s = dict.fromkeys(took_s, 0.0)
    for tenant in took_s:
        for _ in range(5):
            turns.put(tenant, tenant)
    while sum(had_s.values()) < 100:
        taken = turns.take(4, lambda _: True)
        [tenant] = {turn.tenant for turn in taken}
        clock.now += len(taken) * took_s[tenant]
        turns.done(taken)
        had_s[tenant] += len(taken) * took_s[tenant]
        for _ in taken:
            turns.put(tenant, tenant)
    assert had_s["quick"] == pytest.approx(had_s["slow"], rel=0.1)


def test_accounts_from_outside_do_not_fill_the_memory() -> None:
    turns: Turns[str] = Turns(1, Clock())
    for number in range(20_000):
        turns.put(str(number), "")
        assert turns.take()
    assert len(turns._accounts) == 10_000
    assert not turns._waiting


def test_closing_wakes_who_waits_for_work() -> None:
    turns: Turns[str] = Turns(1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(turns.take()))
    thread.start()
    turns.close()
    thread.join(10)
    assert found == [[]]
