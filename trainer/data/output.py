"""Where results may be written: checked before the work, not after it."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from bundle.store import holds_working_directory
from trainer.errors import OutputExists, OutputUnwritable


def check_free(out: Path, *, force: bool) -> None:
    """Check that a folder may be written to ``out``.

    Raises:
        OutputExists: it is there and not empty, and ``force`` is not given; or it is the current directory or above it.
    """
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out}: exists and is not empty; choose another place or pass --force")
    if holds_working_directory(out):
        raise OutputExists(f"{out}: is the current directory or above it; choose another place")


def check_writable(path: Path) -> None:
    """Check that a file can be written to ``path``, together with the folders that it still needs.

    Nothing is left on disk. A file that is there already may be replaced.

    Raises:
        OutputUnwritable: names the path and the reason.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise OutputUnwritable(f"{path}: cannot be written: it is {kind}; name a file")
        folder = path.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise OutputUnwritable(f"{path}: cannot be written: {folder} is no directory; choose another place")
        with TemporaryFile(dir=folder):  # the file system itself answers: permission bits do not tell all
            pass
    except OSError as error:
        raise OutputUnwritable(f"{path}: cannot be written: {error.strerror}; choose another place") from error
