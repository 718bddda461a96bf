"""Where results may be written, checked before the work and not after it."""

from pathlib import Path
from tempfile import TemporaryFile

from bundle.store import holds_working_directory
from trainer.errors import OutputExists, OutputUnwritable


def check_free(out: Path, *, force: bool) -> None:
    """Check that a folder may be written to ``out``.

    Raises:
        OutputExists: it is there and not empty, and ``force`` is not given; or it is the current directory or above it,
            or a device.
        OutputUnwritable: see ``check_writable``.
    """
    check_writable(out)
    if out.exists() and not out.is_dir() and not (force and out.is_file()):
        advice = " or pass --force" if out.is_file() else ""
        raise OutputExists(f"{out}: exists and is no folder; choose another place{advice}")
    if out.is_dir() and not force and any(out.iterdir()):
        raise OutputExists(f"{out}: exists and is not empty; choose another place or pass --force")
    if holds_working_directory(out):
        raise OutputExists(f"{out}: is the current directory or above it; choose another place")


def check_new_file(out: Path, *, force: bool) -> None:
    """Check that a file may be written to ``out``.

    Raises:
        OutputExists: it is there, and ``force`` is not given.
        OutputUnwritable: what is there is no file, or see ``check_writable``.
    """
    check_writable(out)
    if out.exists() and not out.is_file():
        kind = "a folder" if out.is_dir() else "no regular file"
        raise OutputUnwritable(f"{out}: cannot be written: it is {kind}; pass the name of a file")
    if out.exists() and not force:
        raise OutputExists(f"{out}: exists; choose another name or pass --force")


def check_writable(path: Path) -> None:
    """Check that a file or folder can be made at ``path``, or put in the place of what is there.

    Folders that are missing above it can be made later; the nearest one that exists must take a file now.

    Raises:
        OutputUnwritable: a file stands where a folder is needed, links lead in a circle, or nothing can be created.
    """
    folder = path.parent
    try:
        path.resolve()
        while not _is_there(folder) and folder != folder.parent:
            folder = folder.parent
        with TemporaryFile(dir=folder):
            pass
    except RuntimeError as error:  # as Python reports a circle of links before 3.13
        raise OutputUnwritable(
            f"{path}: cannot be written: its links lead in a circle; choose another place"
        ) from error
    except OSError as error:
        # as /proc answers
        nothing_new = isinstance(error, FileNotFoundError) and folder.is_dir()
        reason = "nothing can be made there" if nothing_new else error.strerror
        raise OutputUnwritable(f"{path}: cannot be written: {folder}: {reason}; choose another place") from error


def _is_there(path: Path) -> bool:
    """Whether anything is there, also a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
