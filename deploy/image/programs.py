"""Programs of the system: found or installed, run with their output in one log."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.image.errors import FailedError, UnavailableError

LOG = Path(__file__).resolve().parents[2] / "build" / "image" / "build.log"
"""What the programs say, of the latest build."""

PROGRAMS = ("buildah", "debootstrap", "runc")
"""What building and running take; each is also the name of a Debian package."""

_TAIL_LINES = 20
_LOCK_TIMEOUT_S = 120


def missing() -> list[str]:
    """Programs that are not in PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def unavailable_reason() -> str | None:
    """Say why images cannot be built and run on this machine; None if they can, a download permitting."""
    if os.geteuid() != 0:
        return "building images without a container engine takes root's rights"
    absent = missing()
    if absent and shutil.which("apt-get") is None:
        return f"{', '.join(absent)}: not on this machine, and there is no apt-get to install it with"
    return None


def require_programs(say: Callable[[str], object]) -> None:
    """Install what is missing.

    Raises:
        UnavailableError: this machine cannot build images.
        FailedError: apt-get failed.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise UnavailableError(f"{reason}; docs/images.md says how Docker builds them")
    absent = missing()
    if absent:
        say(f"Installing {', '.join(absent)} with apt-get")
        apt_get("update")
        apt_get("install", "--yes", "--no-install-recommends", *absent)


def apt_get(*arguments: str) -> None:
    """Ask no questions, and wait for others that install."""
    run(["apt-get", "-o", f"DPkg::Lock::Timeout={_LOCK_TIMEOUT_S}", *arguments])


def run(command: Sequence[str]) -> None:
    """Run to the end, output to the log.

    Raises:
        FailedError: exit status other than 0.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        start = log.tell()
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        status = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        ).returncode
    if status != 0:
        with LOG.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        raise FailedError(f"{command[0]} {command[1]} ended with {status}; end of {LOG}:\n" + "\n".join(lines))


def ask(command: Sequence[str]) -> str:
    """Run to the end and return what it printed, without the last line feed.

    Raises:
        FailedError: exit status other than 0.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout.rstrip("\n")
