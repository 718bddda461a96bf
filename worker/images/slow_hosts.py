"""Hosts that are not asked for a while, by what they answered to one tenant."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

_SLOW_AFTER: Final = 5
_REMEMBERED_HOSTS: Final = 1024


@dataclass(frozen=True, slots=True)
class _Record:
    failures: int = 0
    """In a row."""
    last: float = 0.0
    left_alone_until: float = 0.0


class SlowHosts:
    """Hosts that failed several times in a row, or that asked to be left alone, each by tenant.

    Fresh events do not wait for a host that failed; deferred ones try it again. A mark lasts as long as a deferral,
    unless a success ends it or a failure renews it, or that somebody who came late has had no answer until its time was
    over. A host that sent ``Retry-After`` is not asked before that time is
    over, but for no longer than a deferral. Used on the event loop alone.
    """

    def __init__(self, mark_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._mark_s = mark_s
        self._clock = clock
        self._records: dict[str, OrderedDict[str, _Record]] = {}
        """By tenant, so that none can make the others forget."""

    def failed(self, tenant: str, host: str, retry_after_s: float = 0.0) -> None:
        """Note one more failure, and how long the host asked to be left alone."""
        before, now = self._record(tenant, host), self._clock()
        until = max(before.left_alone_until, now + min(retry_after_s, self._mark_s))
        self._keep(tenant, host, _Record(before.failures + 1, now, until))

    def gave_no_answer(self, tenant: str, host: str) -> None:
        """Note that the host was asked in vain, for too short a time to count as a failure."""
        if self.is_slow(tenant, host):
            self._keep(tenant, host, replace(self._record(tenant, host), last=self._clock()))

    def succeeded(self, tenant: str, host: str) -> None:
        """Note that the host answers."""
        before = self._record(tenant, host)
        if before.left_alone_until > self._clock():
            self._keep(tenant, host, _Record(left_alone_until=before.left_alone_until))
        else:
            self._forget(tenant, host)

    def is_slow(self, tenant: str, host: str) -> bool:
        """Whether it failed several times in a row."""
        found = self._record(tenant, host)
        return found.failures >= _SLOW_AFTER and self._clock() - found.last < self._mark_s

    def is_left_alone(self, tenant: str, host: str) -> bool:
        """Whether it asked to be."""
        return self._clock() < self._record(tenant, host).left_alone_until

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    def _record(self, tenant: str, host: str) -> _Record:
        hosts = self._records.get(tenant)
        return (hosts and hosts.get(host)) or _Record()

    def _keep(self, tenant: str, host: str, record: _Record) -> None:
        hosts = self._records.setdefault(tenant, OrderedDict())
        hosts[host] = record
        hosts.move_to_end(host)
        if len(self) > _REMEMBERED_HOSTS:
            most = max(self._records, key=lambda name: len(self._records[name]))
            self._forget(most, next(iter(self._records[most])))

    def _forget(self, tenant: str, host: str) -> None:
        hosts = self._records.get(tenant, OrderedDict())
        hosts.pop(host, None)
        if not hosts:
            self._records.pop(tenant, None)
