"""Fair sharing: how many slots one tenant may hold while other tenants are active.

A tenant is a value of one event attribute (``fairness.attribute``); events without it share one value. A tenant that is
alone may hold every slot. While another was seen within ``fairness.window_s``, none holds more than its share: further
events are deferred to the retry topic at the price of a copy, so that the events behind them are reached at the speed
of Kafka and not of the model. There they wait until their tenant has a free slot, and are not deferred again.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from worker.settings import FairnessSettings

_MAX_TENANTS = 10_000
"""Attributes come from outside: with more tenants than this, the one that was silent longest is forgotten."""


class Shares:
    """The slots that tenants hold; used by the pipeline's thread alone."""

    def __init__(
        self, settings: FairnessSettings, max_in_flight: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_s = settings.window_s
        self._most = max(1, int(settings.max_share * max_in_flight))
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._seen: OrderedDict[str, float] = OrderedDict()  # by time; the tenant seen last comes last

    def see(self, tenant: str) -> None:
        """Note that an event of this tenant has come in."""
        self._seen[tenant] = self._clock()
        self._seen.move_to_end(tenant)
        if len(self._seen) > _MAX_TENANTS:
            self._seen.popitem(last=False)

    def is_beyond(self, tenant: str) -> bool:
        """Whether the tenant holds its share already while other tenants are active."""
        return self._held[tenant] >= self._most and self._others_are_active(tenant)

    def take(self, tenant: str) -> None:
        """Take one slot."""
        self._held[tenant] += 1

    def give_back(self, tenant: str) -> None:
        """Free one slot."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def _others_are_active(self, tenant: str) -> bool:
        other = next((other for other in reversed(self._seen) if other != tenant), None)
        return other is not None and self._clock() - self._seen[other] <= self._window_s
