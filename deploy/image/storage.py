"""buildah's storage: whether it has an image, and what is in it."""

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
def mounted(image: str) -> Iterator[Path]:
    """The files of an image, for as long as the block runs."""
    container = ask(["buildah", "from", "--pull-never", image])
    try:
        yield Path(ask(["buildah", "mount", container]))
    finally:
        ask(["buildah", "rm", container])
