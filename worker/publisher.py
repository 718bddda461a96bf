"""Publications on a thread of their own: the loop goes on to poll and to answer while a transaction is under way.

One publication at a time, since a producer has one transaction at a time and a partition's offsets go forward only.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from worker.broker import Progress
from worker.health import Watchdog
from worker.lanes import InFlight
from worker.metrics import Metrics


class Publisher:
    """Carries out what ``Broker.publication`` has prepared; all methods are for the pipeline's thread."""

    def __init__(self, watchdog: Watchdog, metrics: Metrics, wake: Callable[[], object]) -> None:
        """``wake`` is called, on the publishing thread, when a publication has ended."""
        self._watchdog = watchdog
        self._metrics = metrics
        self._wake = wake
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._under_way: Future[None] | None = None
        self.progress: list[Progress] = []
        """What is being published."""
        self.items: list[InFlight] = []
        """The events that it answers, in the order of its messages."""

    @property
    def is_busy(self) -> bool:
        """Whether a publication has begun and ``finish`` has not been told how it ended."""
        return self._under_way is not None

    def begin(self, progress: list[Progress], items: list[InFlight], publication: Callable[[], None]) -> None:
        """Start the next one; the one before must have been finished."""
        assert not self.is_busy
        self.progress, self.items = progress, items
        self._under_way = self._thread.submit(self._publish, publication)
        self._under_way.add_done_callback(lambda _: self._wake())

    def finish(self) -> bool:
        """Whether a publication has ended since this was asked last; never waits.

        Raises:
            BrokerError, MessageTooLarge: as ``Broker.publication`` says.
        """
        if self._under_way is None or not self._under_way.done():
            return False
        ended, self._under_way = self._under_way, None
        ended.result()
        return True

    def close(self) -> None:
        """Wait for what is under way; the watchdog ends the process if that takes too long."""
        self._thread.shutdown(wait=True)

    def _publish(self, publication: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            with self._watchdog.guard("publish"):
                publication()
        finally:
            self._metrics.publish_seconds.observe(time.monotonic() - began)
