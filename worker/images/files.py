"""Reading files: regular ones, and no more of them than is allowed. Those of claim checks lie in certain folders."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from bundle.files import open_regular, read_regular
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
    try:
        file = open_regular(path, os.O_NOFOLLOW)  # no link that was put there a moment ago
    except OSError as error:
        _refuse(error)
        raise
    with file:
        # A folder on the way may have become a link since: what counts is where the kernel found the file.
        _require_within(str(Path(f"/proc/self/fd/{file.fileno()}").readlink()), roots)
        data: bytes | None = file.read(max_bytes)
    if data is None:  # as ``read_regular``
        raise SourceRefused("nothing to read there now")
    return data


def read_any_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, wherever it lies and its links lead.

    Raises:
        SourceTooLarge: it has more than ``max_bytes``.
        SourceRefused, OSError: it cannot be read.
    """
    try:
        return read_regular(path, max_bytes)
    except OSError as error:
        _refuse(error)
        raise


def _refuse(error: OSError) -> None:
    """Raise what ``read_regular`` says of a file as an error of its source."""
    match error.errno:
        case errno.EFBIG:
            raise SourceTooLarge(error.strerror) from error
        case errno.EINVAL | errno.EAGAIN:
            raise SourceRefused(error.strerror) from error


def _require_within(path: str, roots: Sequence[str]) -> None:
    if not any(os.path.commonpath((path, root)) == root for root in roots):
        raise SourceForbidden("the file lies outside the allowed folders")
