"""Tenants and their slots."""

from worker.pipeline.fairness import Shares
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
