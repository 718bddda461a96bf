"""``python -m tests.chaos.deadly_worker run``: a worker that some events and batches kill, as faulty native code would.

An event whose value begins with ``DEADLY`` kills (SIGKILL) the process that parses it, a packed batch which holds
``DEADLY_BATCH`` the one that unpacks it.
"""

import os
import signal
from typing import Any

from worker.__main__ import app
from worker.kafka import record_batches
from worker.kafka.decompression import unpack
from worker.messages.events import read_event
from worker.pipeline import intake

DEADLY = b"this kills what parses it"
DEADLY_BATCH = b"this kills what unpacks it"


def _read_event(record: Any, *arguments: Any) -> Any:
    if (record.value or b"").startswith(DEADLY):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_event(record, *arguments)


def _unpack(*arguments: Any) -> Any:
    data = unpack(*arguments)
    if DEADLY_BATCH in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return data


if __name__ == "__main__":
    setattr(record_batches, "unpack", _unpack)  # noqa: B010 - a name that the module imports
    setattr(intake, "read_event", _read_event)  # noqa: B010 - likewise
    app()
