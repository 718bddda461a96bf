"""With an apt-get and a dpkg that are played by shell scripts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local import prometheus_programs
from deploy.local.errors import UnavailableError

DOWNLOADS = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in *download*) touch prometheus_1.0_amd64.deb;; esac
"""
DOWNLOADS_WITH_NEW_LISTS = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
    *Dir::State::Lists=*download*) touch prometheus_1.0_amd64.deb;;
    *download*) echo "E: Unable to locate package prometheus" >&2; exit 100;;
esac
"""
FAILS = """#!/bin/sh
echo "W: something else" >&2
echo "E: Temporary failure resolving the mirror" >&2
exit 100
"""
UNPACKS = """#!/bin/sh
mkdir -p "$3/usr/bin" && touch "$3/usr/bin/prometheus" "$3/usr/bin/promtool"
"""
UNPACKS_SOMETHING_ELSE = """#!/bin/sh
mkdir -p "$3/usr/share"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the folder in which to write programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "touch", "mkdir", "sh"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def play(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def test_the_package_is_unpacked_once_however_many_ask(programs: Path) -> None:
    play(programs, "apt-get", DOWNLOADS)
    play(programs, "dpkg", UNPACKS)
    assert prometheus_programs.unavailable_reason() is None
    with ThreadPoolExecutor(4) as pool:
        [found] = set(pool.map(lambda _: prometheus_programs.prometheus_programs(), range(4)))
    assert found.prometheus.is_file()
    assert found.promtool.is_file()
    assert programs.parent / "cache" in found.promtool.parents
    assert (programs / "calls").read_text() == "-q download prometheus\n"


def test_old_lists_of_packages_are_left_alone_and_new_ones_are_fetched_beside_them(programs: Path) -> None:
    play(programs, "apt-get", DOWNLOADS_WITH_NEW_LISTS)
    play(programs, "dpkg", UNPACKS)
    assert prometheus_programs.prometheus_programs().prometheus.is_file()
    _, update, download = (programs / "calls").read_text().splitlines()
    lists = f"Dir::State::Lists={programs.parent / 'cache'}"
    assert (lists in update, update.endswith(" update")) == (True, True)
    assert (lists in download, download.endswith(" download prometheus")) == (True, True)


def test_what_is_in_the_path_is_preferred(programs: Path) -> None:
    play(programs, "prometheus", "")
    play(programs, "promtool", "")
    assert prometheus_programs.unavailable_reason() is None
    assert prometheus_programs.prometheus_programs().prometheus == programs / "prometheus"


def test_one_of_the_two_is_not_enough(programs: Path) -> None:
    play(programs, "prometheus", "")
    reason = prometheus_programs.unavailable_reason()
    assert reason is not None
    with pytest.raises(UnavailableError, match="no apt-get"):
        prometheus_programs.prometheus_programs()


def test_a_failed_download_says_why_and_leaves_nothing(programs: Path) -> None:
    play(programs, "apt-get", FAILS)
    play(programs, "dpkg", UNPACKS)
    with pytest.raises(UnavailableError, match=r"Temporary failure resolving the mirror$"):
        prometheus_programs.prometheus_programs()
    assert [path.name for path in (programs.parent / "cache" / "genprint").iterdir()] == ["prometheus.lock"]


def test_a_package_without_the_programs_is_refused(programs: Path) -> None:
    play(programs, "apt-get", DOWNLOADS)
    play(programs, "dpkg", UNPACKS_SOMETHING_ELSE)
    with pytest.raises(UnavailableError, match=r"prometheus_1\.0_amd64\.deb has no prometheus"):
        prometheus_programs.prometheus_programs()
