"""A budget of memory that is shared by what decodes at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes that may be decoded at a time; claims beyond it wait in turn.

    A claim above the whole budget is granted when nothing else is held, so that it never waits for ever.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._held = 0
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        """Bytes that are reserved now."""
        return self._held

    @contextmanager
    def reserve(self, wanted_bytes: int) -> Iterator[None]:
        """Hold ``wanted_bytes`` during the block."""
        claim = min(wanted_bytes, self._total)
        # The turn is held while waiting, so that small claims that come later do not starve a large one.
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._held + claim <= self._total)
            self._held += claim
        try:
            yield
        finally:
            with self._freed:
                self._held -= claim
                self._freed.notify_all()
