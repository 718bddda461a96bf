"""With a Maven that is played by a shell script."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local import kafka_jars
from deploy.local.errors import UnavailableError

FETCHES = """#!/bin/sh
echo called >> "$(dirname "$0")/calls"
for argument; do case "$argument" in -DoutputDirectory=*) target="${argument#*=}";; esac; done
mkdir -p "$target" && echo jar > "$target/kafka.jar"
"""
FAILS = """#!/bin/sh
for argument; do case "$argument" in -DoutputDirectory=*) mkdir -p "${argument#*=}";; esac; done
echo "[INFO] Scanning"
echo "[ERROR] Could not resolve kafka_2.13"
exit 1
"""


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the path at which to write a Maven."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "mvn"


def play(maven: Path, script: str) -> None:
    maven.write_text(script)
    maven.chmod(0o755)


def test_jars_are_fetched_once_however_many_ask(maven: Path) -> None:
    play(maven, FETCHES)
    assert kafka_jars.cached_jars() is None
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: kafka_jars.fetch_jars(), range(4)))
    (directory,) = found
    assert [path.name for path in directory.iterdir()] == ["kafka.jar"]
    assert kafka_jars.cached_jars() == directory
    assert maven.with_name("calls").read_text() == "called\n"


def test_a_failed_fetch_says_why_and_leaves_nothing(maven: Path) -> None:
    play(maven, FAILS)
    with pytest.raises(UnavailableError, match=r"Could not resolve kafka_2\.13$"):
        kafka_jars.fetch_jars()
    assert kafka_jars.cached_jars() is None
    assert not [path for path in maven.with_name("cache").rglob("*") if path.is_dir() and "fetch-" in path.name]


def test_cached_jars_need_no_maven(maven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(maven, FETCHES)
    directory = kafka_jars.fetch_jars()
    monkeypatch.setenv("PATH", "/bin-of-nobody")
    assert kafka_jars.fetch_jars() == directory


def test_the_version_is_the_one_that_the_pom_names() -> None:
    pom = Path(kafka_jars.__file__).with_name("kafka") / "pom.xml"
    named = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.*)</version>", pom.read_text())
    assert named is not None
    assert named[1] == kafka_jars.KAFKA_VERSION
