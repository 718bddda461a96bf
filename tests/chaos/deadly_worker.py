"""``python -m tests.chaos.deadly_worker run``: a worker that some events and batches kill, as faulty native code would.

An event whose value begins with ``DEADLY`` kills (SIGKILL) the process that parses it, a packed batch which holds
``tests.harm.DEADLY_BATCH`` the one that unpacks it.
"""

import os
import signal
from typing import Any

from tests.harm import make_unpacking_deadly
from worker.__main__ import app
from worker.messages.events import read_event
from worker.pipeline import intake

DEADLY = b"this kills what parses it"


def _read_event(record: Any, *arguments: Any) -> Any:
    if (record.value or b"").startswith(DEADLY):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_event(record, *arguments)


if __name__ == "__main__":
    make_unpacking_deadly()
    setattr(intake, "read_event", _read_event)  # noqa: B010 - a name that the module imports
    app()
