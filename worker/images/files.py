"""Reading the files of claim checks: regular ones, inside the folders of ``fetch.sources``."""

import os
import stat
from collections.abc import Sequence

from worker.errors import SourceForbidden, SourceRefused


def read_file(path: str, folders: Sequence[str], max_bytes: int) -> bytes:
    """The bytes of a file, at most ``max_bytes`` of them.

    Raises:
        SourceForbidden: a link leads out of the folders.
        SourceRefused, OSError, ValueError: it cannot be read.
    """
    path = os.path.realpath(path)
    roots = [os.path.realpath(folder) for folder in folders]
    if not any(os.path.commonpath((path, root)) == root for root in roots):
        raise SourceForbidden("the file lies outside the allowed folders")
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceRefused("not a regular file")
        return file.read(max_bytes)


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO, and without following a link that was put there a moment ago."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
