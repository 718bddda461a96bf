"""Packages of npm for the tests: installed once for a ``package.json``, kept in the user's cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_TIMEOUT_S = 300


class NpmFailed(RuntimeError):
    """No npm, or it could not install."""


def node_modules(package_json: Path) -> Path:
    """The ``node_modules`` of what the file names, development packages too.

    A directory under its final name is complete; other processes that want it wait meanwhile. No script of any package
    is run.

    Raises:
        NpmFailed: it could not be made.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genprint" / "npm"
    directory = root / hashlib.sha256(package_json.read_bytes()).hexdigest()[:12]
    if directory.is_dir():
        return directory / "node_modules"
    npm = shutil.which("npm")
    if npm is None:
        raise NpmFailed("there is no npm to install packages with")
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _install(npm, package_json, directory)
    return directory / "node_modules"


def _install(npm: str, package_json: Path, directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="install-", dir=directory.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        shutil.copy(package_json, made)
        command = [
            npm,
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=made,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise NpmFailed(f"npm did not install {package_json} within {_TIMEOUT_S} s") from error
        if done.returncode != 0:
            raise NpmFailed(f"npm could not install {package_json}: {(done.stderr or done.stdout).strip()[-500:]}")
        made.rename(directory)
