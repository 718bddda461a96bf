"""Sources of which nothing can be read any more: their events wait, since it is not the events that are at fault."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_DENIED_IN_A_ROW: Final = 10


@dataclass(slots=True)
class _Denials:
    addresses: set[str] = field(default_factory=set)
    last: float = 0.0


class UnreadableSources:
    """Configured sources (``fetch.sources``) that have denied so many addresses in a row that it must be all of them.

    One event, or the same address again and again, proves nothing: the object may not be there, or be somebody else's.
    Any other answer of the source ends it, and so does a while without a denial: somebody else may have its events now.
    Used on the event loop alone, but for ``names``.

    Args:
        mark_s: how long a denial is remembered after the last one.
    """

    def __init__(self, mark_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._mark_s = mark_s
        self._clock = clock
        self._denials: dict[str, _Denials] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Those sources."""
        return tuple(source for source, found in list(self._denials.items()) if self._is_unreadable(found))

    def note_denied(self, source: str, address: str) -> bool:
        """Note that a source has denied an address; whether nothing of it can be read."""
        found = self._denials.get(source)
        if found is None or self._is_over(found):
            found = self._denials[source] = _Denials()
        if len(found.addresses) < _DENIED_IN_A_ROW:
            found.addresses.add(address)
        found.last = self._clock()
        return self._is_unreadable(found)

    def note_readable(self, source: str) -> None:
        """Note that a source has answered anything else."""
        self._denials.pop(source, None)

    def _is_unreadable(self, found: _Denials) -> bool:
        return len(found.addresses) == _DENIED_IN_A_ROW and not self._is_over(found)

    def _is_over(self, found: _Denials) -> bool:
        return self._clock() - found.last > self._mark_s
