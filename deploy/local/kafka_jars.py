"""The jars of Apache Kafka: fetched once by Maven, kept in the user's cache."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.errors import UnavailableError

KAFKA_VERSION = "4.3.1"
"""The version that `kafka/pom.xml` names."""

_POM = Path(__file__).with_name("kafka") / "pom.xml"
_FETCH_TIMEOUT_S = 600


def cached_jars() -> Path | None:
    """Return the directory of the jars, None if they were not fetched yet."""
    directory = _cache() / _pom_digest()
    return directory if directory.is_dir() else None


def fetch_jars() -> Path:
    """Return the directory of the jars, after fetching them with Maven if need be (44 MB, about 10 s).

    A directory under its final name is complete: Maven fills a temporary one, which is then renamed. Other processes
    that want the jars wait meanwhile.

    Raises:
        UnavailableError: No Maven, or Maven failed.
    """
    directory = _cache() / _pom_digest()
    if directory.is_dir():
        return directory
    maven = shutil.which("mvn")
    if maven is None:
        raise UnavailableError("Apache Kafka's jars are not cached and there is no Maven (mvn) to fetch them")
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _copy_dependencies(maven, directory)
    return directory


def _copy_dependencies(maven: str, directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=directory.parent) as temporary:
        jars = Path(temporary) / "jars"
        command = [maven, "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"Maven did not fetch Apache Kafka within {_FETCH_TIMEOUT_S} s") from error
        if done.returncode != 0:
            raise UnavailableError(f"Maven could not fetch Apache Kafka: {_first_error(done.stdout + done.stderr)}")
        jars.rename(directory)


def _first_error(output: str) -> str:
    match = re.search(r"\[ERROR\][ \t]*(\S.*)", output)
    return match[1] if match else output.strip()[-500:] or "no message"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "genprint" / f"kafka-{KAFKA_VERSION}"


def _pom_digest() -> str:
    """Name the set of jars by what asks for it, so that a changed pom never meets the jars of an older one."""
    return hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
