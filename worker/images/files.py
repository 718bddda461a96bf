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
    roots = [os.path.realpath(folder) for folder in folders]
    path = os.path.realpath(path)
    _require_within(path, roots)
    with open(path, "rb", opener=_without_links) as file:
        # A folder on the way may have become a link since: what counts is where the kernel found the file.
        _require_within(str(Path(f"/proc/self/fd/{file.fileno()}").readlink()), roots)
        _require_regular(file)
        return _read(file, max_bytes)


def read_any_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, wherever it lies and its links lead.

    Raises:
        SourceTooLarge: it has more than ``max_bytes``.
        SourceRefused, OSError: it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        _require_regular(file)
        data = _read(file, max_bytes + 1)
    if len(data) > max_bytes:
        raise SourceTooLarge(f"more than {max_bytes} bytes")
    return data


def _read(file: BinaryIO, max_bytes: int) -> bytes:
    data: bytes | None = file.read(max_bytes)
    if data is None:  # some files of /proc have a size of 0 and wait for what comes
        raise SourceRefused("nothing to read there now")
    return data


def _require_within(path: str, roots: Sequence[str]) -> None:
    if not any(os.path.commonpath((path, root)) == root for root in roots):
        raise SourceForbidden("the file lies outside the allowed folders")


def _require_regular(file: BinaryIO) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise SourceRefused("not a regular file")


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def _without_links(path: str, flags: int) -> int:
    """Likewise, and without following a link that was put there a moment ago."""
    return _without_waiting(path, flags | os.O_NOFOLLOW)
