"""Reading files that anybody may have made: regular ones, and no more of them than is allowed."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

IMAGE_BYTES: Final = 20 * 2**20
"""The default ceiling of an encoded image (``bundle.preprocess.Limits``)."""
SMALL_FILE_BYTES: Final = 64 * 2**20
"""More than any manifest, list, recipe or file of settings has."""
LARGE_FILE_BYTES: Final = 4 * 2**30
"""More than any graph, checkpoint or probe has."""


def read_regular(path: str | Path, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
    """The bytes of a file, wherever it lies and its links lead; or ``length`` of them from ``start`` on.

    Raises:
        OSError: it cannot be read, is no regular file (EINVAL: a FIFO or device may never end), or has more than
            ``max_bytes`` to read (EFBIG). ``strerror`` says which.
    """
    with open_regular(path) as file:
        if length is None:  # Python takes the memory that is asked for; files of /proc say that they have no bytes
            length = (os.fstat(file.fileno()).st_size or SMALL_FILE_BYTES) + 1
        if start:
            file.seek(start)
        data: bytes | None = file.read(min(length, max_bytes + 1))
    if data is None:  # some files of /proc have a size of 0 and wait for what comes
        raise OSError(errno.EAGAIN, "nothing to read there now", str(path))
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes} bytes", str(path))
    return data


def open_regular(path: str | Path, flags: int = 0) -> BufferedReader:
    """Open a file for reading, without waiting for the writer of a FIFO; ``flags`` are added to those of ``os.open``.

    Raises:
        OSError: it cannot be opened, or is no regular file (EINVAL).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))
