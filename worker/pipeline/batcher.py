"""Batches that are full whenever there is backlog, and never wait long when there is none."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """A queue that hands out batches to one taker.

    It has no limit of its own: the pipeline admits a bounded number of events.
    """

    def __init__(self, max_size: int, max_wait_s: float) -> None:
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._items: deque[tuple[float, T]] = deque()  # with the time of their arrival
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Add an item; never blocks."""
        with self._changed:
            self._items.append((time.monotonic(), item))
            if len(self._items) == 1 or len(self._items) >= self._max_size:
                self._changed.notify()

    def take(self) -> list[T]:
        """Take ``max_size`` items, or fewer ``max_wait_s`` after the first one came; [] if closed."""
        with self._changed:
            while not self._items:
                if self._closed:
                    return []
                self._changed.wait()
            deadline = self._items[0][0] + self._max_wait_s
            while len(self._items) < self._max_size and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            return [self._items.popleft()[1] for _ in range(min(self._max_size, len(self._items)))]

    def close(self) -> None:
        """Wake the taker; items that are still queued are handed out first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)
