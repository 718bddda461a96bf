"""Where results may go."""

from pathlib import Path

from bundle.store import holds_working_directory
from trainer.errors import OutputExists


def check_free(out: Path, *, force: bool) -> None:
    """Whether a folder may be written to ``out``: asked before the work, not after it.

    Raises:
        OutputExists: it is there and not empty, and ``force`` is not given; or it is the current directory or above it.
    """
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out}: exists and is not empty; choose another place or say --force")
    if holds_working_directory(out):
        raise OutputExists(f"{out}: is the current directory or above it; choose another place")
