"""Fair sharing: how much of something one tenant may hold while other tenants are active.

A tenant is a value of one event attribute (``fairness.attribute``); events without it share one value. A tenant that is
alone may hold everything. While another was seen within ``fairness.window_s``, none holds more than its share.

Shared so are the slots of the pipeline, where events beyond a share are deferred to the retry topic at the price of a
copy, so that the events behind them are reached at the speed of Kafka and not of the model; and whatever fetches take
(``SharedCapacity``), where they wait.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from worker.settings import FairnessSettings

_MAX_TENANTS = 10_000
"""Attributes come from outside: with more tenants than this, the one that was silent longest is forgotten."""


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
        return held > 0 and held + amount > self._most and self._others_are_active(tenant)

    def take(self, tenant: str, amount: int = 1) -> None:
        """Take so much."""
        self._held[tenant] += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Free so much."""
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]

    def _others_are_active(self, tenant: str) -> bool:
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
