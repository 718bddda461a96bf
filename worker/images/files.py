"""Reading files: regular ones, and no more of them than is allowed. Those of claim checks lie in certain folders."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from worker.errors import SourceForbidden, SourceRefused, SourceTooLarge


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
    with open(path, "rb", opener=_without_links) as file:
        _require_regular(file)
        return file.read(max_bytes)


def read_any_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, wherever it lies and its links lead.

    Raises:
        SourceTooLarge: it has more than ``max_bytes``.
        SourceRefused, OSError: it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        _require_regular(file)
        size = os.fstat(file.fileno()).st_size
        data = file.read(max_bytes + 1) if size <= max_bytes else b""
        if size > max_bytes or len(data) > max_bytes:
            raise SourceTooLarge(f"{max(size, len(data))} bytes, the ceiling is {max_bytes}")
        return data


def _require_regular(file: BinaryIO) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise SourceRefused("not a regular file")


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def _without_links(path: str, flags: int) -> int:
    """Likewise, and without following a link that was put there a moment ago."""
    return _without_waiting(path, flags | os.O_NOFOLLOW)
