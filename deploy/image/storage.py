"""buildah's storage: whether it has an image, what is in it, and who may change it."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.image.errors import FailedError
from deploy.image.programs import ask


def exists(image: str) -> bool:
    """Tell whether the storage has an image of that name."""
    try:
        ask(["buildah", "images", "--quiet", image])
    except FailedError:
        return False
    return True


@contextmanager
def alone() -> Iterator[None]:
    """Keep other checkouts on this machine away: builds take over each other's layers, and images each other's name."""
    lock = Path(tempfile.gettempdir()) / "genprint-image.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The files of an image, for as long as the block runs."""
    container = ask(["buildah", "from", "--pull-never", image])
    try:
        yield Path(ask(["buildah", "mount", container]))
    finally:
        ask(["buildah", "rm", container])
