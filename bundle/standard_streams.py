"""Standard streams of a command: open even where the shell has closed them, and one line where results are lost."""

import io
import os
import signal
import sys
from collections.abc import Callable

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Unwritable(Exception):
    """Standard output cannot be written. No ``OSError``, which a command would take for one of a file of its own."""


class _Unread(Exception):
    """Nobody reads standard output any more. No ``BrokenPipeError``, at which click and rich end with status 1."""


class _Output(io.FileIO):
    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # any buffer; its name differs between versions
        except BrokenPipeError as error:
            raise _Unread from error
        except OSError as error:
            raise _Unwritable(error.strerror) from error


def run_command(program: str, command: Callable[[], object]) -> None:
    """Run a command, which ends with ``SystemExit``.

    Where standard output cannot be written, one line says why, and the status is 2. Where whoever reads it has had
    enough, as ``head`` has, the status is 141, which a shell reports of programs that this ends (128 + SIGPIPE).
    """
    _open_missing()
    output = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(output.fileno(), "w", closefd=False)),
        encoding=output.encoding,
        errors=output.errors,
        line_buffering=output.isatty(),
    )
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except _Unwritable as error:
        sys.stderr.write(f"{program}: standard output cannot be written: {error}\n")
        status = 2
    except _Unread:
        status = 128 + signal.SIGPIPE
    else:
        return
    # The interpreter will try once more to write what is left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _open_missing() -> None:
    """Lead closed descriptors to /dev/null, or the next file or pipe would get their numbers, and what is printed."""
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is the missing one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))
