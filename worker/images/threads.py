"""Calls that block, each on a thread that is counted until it is really free.

A name server or a network drive may say nothing for half a minute. A fetch that gives up cannot stop the thread that
waits for it, so it goes on counting against its tenant.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

from worker.fairness import SharedCapacity

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a thread is taken."""

    tenant: str
    waiting: Callable[[], AbstractContextManager[None]]
    """Entered while it waits for a thread."""


CALLER: Final[ContextVar[Caller]] = ContextVar("caller")
"""Set for each fetch, since names are looked up from within aiohttp."""


class Threads:
    """Threads of one event loop, as many as the capacity has; none of them keeps the process from ending."""

    def __init__(self, capacity: SharedCapacity) -> None:
        self._capacity = capacity

    @property
    def busy(self) -> int:
        """How many there are now."""
        return self._capacity.taken

    async def call(self, function: Callable[[], Result]) -> Result:
        """Wait for a thread, and for what the function returns there."""
        caller = CALLER.get()
        with caller.waiting():
            await self._capacity.take(caller.tenant)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def finish(result: Result | None, error: BaseException | None) -> None:
            self._capacity.give_back(caller.tenant)
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)  # type: ignore[arg-type]  # the function's own, which may be None
            else:
                done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="fetch-call", daemon=True).start()
        return await done
