"""A decoder that does harm on command: images whose width is one of ``HARM`` do to it what their name says.

It is the real program (``worker.images.decoder``), with ``EncodedImage.decode`` replaced in it. The harm is done inside
the sandbox, as by an image that has found a hole in a library. The command line names a folder before the job: each
process leaves a file there; while there is one named ``broken``, none starts, and while there is one named
``unprotected``, the kernel seems to refuse the sandbox. While there is one named ``not root``, a process that is root's
becomes another user's before it enters the sandbox: of root's the kernel would say the same without one.
"""

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bundle.preprocess import DecodedImage, EncodedImage
from worker.images import decoder
from worker.images.sandbox import give_up_rights

_PR_SET_DUMPABLE = 4

decode = EncodedImage.decode


def crash() -> None:
    """Read at address 0, as after a wild pointer."""
    ctypes.string_at(0)


def hang() -> None:
    """Compute for ever."""
    while True:
        pass


def swallow() -> None:
    """Take memory without end."""
    taken = [bytearray(b"x" * 2**24)]
    while True:
        taken.append(bytearray(taken[0]))


def lie() -> None:
    """Answer what no decoder would."""
    os.write(_answers(), b'[{"kind": "decoded", "facts": {}}]')


def boast() -> None:
    """Answer with more views than there can be."""
    facts = '{"format": "PNG", "width": 1, "height": 1, "bytes": 1, "animated": false}'
    os.write(_answers(), f'[{{"kind": "decoded", "facts": {facts}, "counts": [1000000]}}]'.encode())


def demand() -> None:
    """Ask for more memory and time than there is."""
    os.write(_answers(), b'[{"kind": "needs", "peak_bytes": 1000000000000000000000, "pixels": 1000000000000000000000}]')


def stumble() -> None:
    """Crash in the first process alone."""
    if _number == 1:
        crash()


def escape() -> None:
    """Try what a decoder must not be able to do, and crash if any of it works."""
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix socket": socket.socketpair,
        "fork": os.fork,
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(os.getppid(), 0),
        "thread": lambda: threading.Thread(target=print).start(),
        "limits": lambda: __import__("resource").setrlimit(7, (100, 100)),
        "directory": lambda: list(Path("/").iterdir()),
        "memory to execute": lambda: __import__("mmap").mmap(-1, 4096, prot=7),
    }
    done = [name for name in os.environ if name.startswith(("GENPRINT_", "AWS_"))]
    if sum(map(_is_open, range(3, 1000))) > 4:  # two pipes, two mappings
        done.append("a file descriptor")
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, RuntimeError, ValueError):
            continue
        done.append(name)
    if done:
        sys.exit(f"escaped by {', '.join(done)}")


HARM: dict[int, Callable[[], None]] = {
    101: crash,
    102: hang,
    103: swallow,
    104: lie,
    105: boast,
    106: stumble,
    107: escape,
    108: demand,
}
"""Harm by the width of the image in pixels."""


_number = 0
"""Which of the processes this is, from 1."""


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _answers() -> int:
    return decoder.Job.model_validate_json(sys.argv[1]).answers


def _give_up_root() -> str | None:
    """Become another user where this one is root, as dumpable as any process, and go on to the sandbox."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    return give_up_rights()


def _decode(encoded: EncodedImage, **options: bool) -> DecodedImage:
    harm = HARM.get(encoded.facts.width)
    if harm is not None:
        harm()
    return decode(encoded, **options)


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    if (folder / "broken").exists():
        sys.exit("broken")
    (folder / str(os.getpid())).touch()
    _number = len(list(folder.iterdir()))
    if (folder / "unprotected").exists():
        decoder.give_up_rights = lambda: "not permitted"  # type: ignore[attr-defined]
    if (folder / "not root").exists():
        decoder.give_up_rights = _give_up_root  # type: ignore[attr-defined]
    EncodedImage.decode = _decode  # type: ignore[method-assign, assignment]
    decoder.main()
