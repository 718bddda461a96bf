"""`prometheus` and `promtool`: those in PATH, or those of Debian's package, unpacked in the user's cache.

Unpacked, not installed: that needs no root, and no service starts.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.local.errors import UnavailableError

PACKAGE = "prometheus"
_APT_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the two programs are."""

    prometheus: Path
    promtool: Path

    @classmethod
    def below(cls, folder: Path) -> Self:
        """The programs where Debian's package puts them."""
        return cls(folder / "usr" / "bin" / "prometheus", folder / "usr" / "bin" / "promtool")


def unavailable_reason() -> str | None:
    """Say why there is no Prometheus on this machine; None if there is one, the download of its package permitting."""
    if _in_path() or _cache().is_dir() or _debian_tools():
        return None
    return "there is no prometheus with promtool, and no apt-get with dpkg to fetch Debian's package"


def prometheus_programs() -> Programs:
    """Return the programs, after fetching Debian's package if need be (about 30 MB to download, 10 to 30 s).

    A directory under its final name is complete; other processes that want it wait meanwhile.

    Raises:
        UnavailableError: There is none, and the package cannot be had.
    """
    if (found := _in_path()) is not None:
        return found
    cache = _cache()
    if not cache.is_dir():
        if not _debian_tools():
            raise UnavailableError(unavailable_reason())
        cache.parent.mkdir(parents=True, exist_ok=True)
        with (cache.parent / "prometheus.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not cache.is_dir():
                _unpack_package(cache)
    return Programs.below(cache)


def _unpack_package(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as temporary:
        place = Path(temporary)
        downloads, unpacked = place / "downloads", place / "unpacked"
        downloads.mkdir()
        _download(downloads, place / "apt")
        archive = next(downloads.glob("*.deb"))
        _run(["dpkg", "-x", str(archive), str(unpacked)], downloads)
        for program in (Programs.below(unpacked).prometheus, Programs.below(unpacked).promtool):
            if not program.is_file():
                raise UnavailableError(f"Debian's package {archive.name} has no {program.name}")
        unpacked.rename(folder)


def _download(folder: Path, state: Path) -> None:
    """With the machine's lists of packages; where these are missing or old, with new ones of our own."""
    try:
        _run(["apt-get", "-q", "download", PACKAGE], folder)
    except UnavailableError:
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True)
        own = [f"Dir::State::Lists={state / 'lists'}", f"Dir::Cache={state / 'cache'}", "APT::Sandbox::User="]
        options = [word for option in own for word in ("-o", option)]
        _run(["apt-get", "-q", *options, "update"], folder)
        _run(["apt-get", "-q", *options, "download", PACKAGE], folder)


def _run(command: list[str], folder: Path) -> None:
    environment: Mapping[str, str] = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} did not fetch {PACKAGE} within {_APT_TIMEOUT_S} s") from error
    if done.returncode != 0:
        why = next(
            (line for line in (done.stderr + done.stdout).splitlines() if line.startswith("E:")), done.stderr.strip()
        )
        raise UnavailableError(f"{command[0]} could not fetch Debian's package {PACKAGE}: {why or 'no message'}")


def _in_path() -> Programs | None:
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    return Programs(Path(prometheus), Path(promtool)) if prometheus and promtool else None


def _debian_tools() -> bool:
    return shutil.which("apt-get") is not None and shutil.which("dpkg") is not None


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "genprint" / "prometheus"
