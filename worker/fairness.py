"""Fair sharing: how much of something one tenant may hold while other tenants are active.

A tenant is a value of one event attribute (``fairness.attribute``); events without it share one value. A tenant that is
alone may hold everything. While another was seen within ``fairness.window_s``, none holds more than its share.

Shared so are the slots of the pipeline, where events beyond a share are deferred to the retry topic at the price of a
copy, so that the events behind them are reached at the speed of Kafka and not of the model; and whatever fetches take
(``SharedCapacity``), where they wait. Decoders are shared by the time that images take (``Turns``).
"""

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.settings import FairnessSettings

_MAX_TENANTS = 10_000
"""Attributes come from outside: with more tenants than this, the one that was silent longest is forgotten."""
_TOGETHER_S = 0.05
"""Most time that work should take which one thread takes together: who comes next waits for all of it."""

T = TypeVar("T")


class Shares:
    """What tenants hold of ``total``; used by one thread alone."""

    def __init__(self, settings: FairnessSettings, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = settings.window_s
        self._most = max(1, int(settings.max_share * total))
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._seen: OrderedDict[str, float] = OrderedDict()  # by time; the tenant seen last comes last

    def see(self, tenant: str) -> None:
        """Note that an event of this tenant has come in."""
        self._seen[tenant] = self._clock()
        self._seen.move_to_end(tenant)
        if len(self._seen) > _MAX_TENANTS:
            self._seen.popitem(last=False)

    def held(self, tenant: str) -> int:
        """How much the tenant holds."""
        return self._held[tenant]

    def is_beyond(self, tenant: str, amount: int = 1) -> bool:
        """Whether so much more is beyond the tenant's share while others are active; one that has none may take any."""
        held = self._held[tenant]
        return held > 0 and held + amount > self._most and self.others_are_active(tenant)

    def take(self, tenant: str, amount: int = 1) -> None:
        """Take so much."""
        self._held[tenant] += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Free so much."""
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]

    def others_are_active(self, tenant: str) -> bool:
        """Whether another tenant was seen lately."""
        other = next((other for other in reversed(self._seen) if other != tenant), None)
        return other is not None and self._clock() - self._seen[other] <= self._window_s


class SharedCapacity:
    """Something that there is ``capacity`` of, and that tenants wait for; used on one event loop alone.

    What is free goes to the tenant that holds least, and within a tenant to who came first.
    """

    def __init__(self, settings: FairnessSettings, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._shares = Shares(settings, capacity, clock)
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}
        self.taken = 0

    async def take(self, tenant: str, amount: int = 1) -> None:
        """Wait until so much (at most the capacity) is free for the tenant, and take it."""
        assert amount <= self._capacity
        self._shares.see(tenant)
        waiter = (amount, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(waiter)
        self._grant()
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter[1].cancelled():
                self._forget(tenant, waiter)
                self._grant()
            else:  # granted in the same moment
                self.give_back(tenant, amount)
            raise

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Free so much, for those who wait."""
        self.taken -= amount
        self._shares.give_back(tenant, amount)
        self._grant()

    def _grant(self) -> None:
        while (tenant := self._next()) is not None:
            amount, turn = waiter = self._waiting[tenant][0]
            self._forget(tenant, waiter)
            if not turn.cancelled():
                self.taken += amount
                self._shares.take(tenant, amount)
                turn.set_result(None)

    def _next(self) -> str | None:
        """Whose turn it is; nobody overtakes the one who has to wait for more than is free."""
        for tenant in sorted(self._waiting, key=self._shares.held):
            amount, _ = self._waiting[tenant][0]
            if not self._shares.is_beyond(tenant, amount):
                return tenant if self.taken + amount <= self._capacity else None
        return None

    def _forget(self, tenant: str, waiter: tuple[int, "asyncio.Future[None]"]) -> None:
        queue = self._waiting.get(tenant, deque())
        if waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[tenant]


@dataclass(eq=False, slots=True)
class Turn(Generic[T]):
    """Work that a thread has taken."""

    tenant: str
    work: T
    began: float
    expected_s: float
    """What its tenant was charged for it."""


@dataclass(slots=True)
class _Account:
    had_s: float = 0.0
    """Time of the threads that the tenant has had, or would have had if it had always been there."""
    mean_s: float = 0.0
    """What its work took lately."""


class Turns(Generic[T]):
    """Work that waits for one of several threads, which may use it at the same time.

    Whoever has had the least of their time is next, and within a tenant who came first (start-time fair queueing;
    Goyal, Vin and Cheng, 1996). One that was away comes back as if it had had as much as the others: turns cannot be
    saved up.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._waiting: dict[str, deque[T]] = {}
        self._accounts: OrderedDict[str, _Account] = OrderedDict()  # the tenant seen last comes last
        self._now_s = 0.0
        """What the tenant whose turn came last had had."""
        self._changed = threading.Condition()
        self._closed = False

    def put(self, tenant: str, work: T) -> None:
        """Let work wait; never blocks."""
        with self._changed:
            account = self._account(tenant)
            if tenant not in self._waiting:
                account.had_s = max(account.had_s, self._now_s)
            self._waiting.setdefault(tenant, deque()).append(work)
            self._changed.notify()

    def take(self, most: int = 1, is_small: Callable[[T], bool] = lambda _: False) -> list[Turn[T]]:
        """Wait for work, to be given to ``done`` afterwards; [] once closed.

        Small work comes up to ``most`` at a time, of one tenant whose work lately took little, as long as the other
        threads find as much.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            most = min(most, max(1, self._count() // self._threads))
            tenant = min(self._waiting, key=lambda name: self._account(name).had_s)
            turns = [self._take(tenant)]
            mean_s = turns[0].expected_s
            most = min(most, int(_TOGETHER_S / mean_s)) if mean_s else 1
            while len(turns) < most and tenant in self._waiting:
                if not (is_small(turns[0].work) and is_small(self._waiting[tenant][0])):
                    break
                turns.append(self._take(tenant))
            return turns

    def done(self, turns: Sequence[Turn[T]]) -> None:
        """Charge the tenant what its work has taken; work that was taken together, in equal parts."""
        with self._changed:
            for turn in turns:
                account, took_s = self._account(turn.tenant), (self._clock() - turn.began) / len(turns)
                account.had_s += took_s - turn.expected_s
                account.mean_s += (took_s - account.mean_s) / (4 if account.mean_s else 1)

    def withdraw(self, tenant: str, work: T) -> bool:
        """Let work wait no longer; False if it does not."""
        with self._changed:
            return self._forget(tenant, work)

    def wait_s(self, tenant: str) -> float:
        """How long all threads would take for what waits of a tenant, as far as one can tell."""
        with self._changed:
            return self._wait_s(tenant)

    @property
    def longest_wait_s(self) -> float:
        """The longest of those, of all tenants."""
        with self._changed:
            return max(map(self._wait_s, self._waiting), default=0.0)

    def close(self) -> None:
        """Wake all takers; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _take(self, tenant: str) -> Turn[T]:
        account = self._account(tenant)
        self._now_s = max(self._now_s, account.had_s)
        account.had_s += account.mean_s
        turn = Turn(tenant, self._waiting[tenant][0], self._clock(), account.mean_s)
        self._forget(tenant, turn.work)
        return turn

    def _wait_s(self, tenant: str) -> float:
        account = self._accounts.get(tenant)
        return len(self._waiting.get(tenant, ())) * account.mean_s / self._threads if account else 0.0

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.setdefault(tenant, _Account(self._now_s))
        self._accounts.move_to_end(tenant)
        if len(self._accounts) > _MAX_TENANTS:
            self._accounts.popitem(last=False)
        return account

    def _forget(self, tenant: str, work: T) -> bool:
        waiting = self._waiting.get(tenant, deque())
        if work not in waiting:
            return False
        waiting.remove(work)
        if not waiting:
            del self._waiting[tenant]
        return True
