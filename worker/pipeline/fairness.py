"""Fair sharing: how many places in flight one tenant may take while others want some too.

A tenant is a value of one event attribute (``fairness.attribute``); events without it share one value. A tenant that is
alone may take every place. While another was seen within ``fairness.window_s``, none takes more than its share: what
is beyond it is put off to the retry topic at the price of a copy, so that the events behind it are reached at the
speed of Kafka and not of the model. There it waits until its tenant has a place again, and is not put off twice.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from worker.settings import FairnessSettings

_MAX_TENANTS = 10_000
"""Attributes come from outside: of more tenants than these, those that were silent longest are forgotten."""


class Shares:
    """The places that tenants hold; used by the pipeline's thread alone."""

    def __init__(
        self, settings: FairnessSettings, max_in_flight: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_s = settings.window_s
        self._most = max(1, int(settings.max_share * max_in_flight))
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._seen: OrderedDict[str, float] = OrderedDict()  # the tenant that was seen last comes last

    def see(self, tenant: str) -> None:
        """An event of this tenant has come in."""
        self._seen[tenant] = self._clock()
        self._seen.move_to_end(tenant)
        if len(self._seen) > _MAX_TENANTS:
            self._seen.popitem(last=False)

    def is_beyond(self, tenant: str) -> bool:
        """Whether the tenant holds its share already, and others are there to want the rest."""
        return self._held[tenant] >= self._most and self._has_company(tenant)

    def take(self, tenant: str) -> None:
        """One place is taken."""
        self._held[tenant] += 1

    def give_back(self, tenant: str) -> None:
        """One place is free again."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def _has_company(self, tenant: str) -> bool:
        other = next((other for other in reversed(self._seen) if other != tenant), None)
        return other is not None and self._clock() - self._seen[other] <= self._window_s
