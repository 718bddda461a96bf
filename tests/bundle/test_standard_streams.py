"""Commands whose standard streams are closed, full, or read no longer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.small_bundle import encoded_image, small_bundle

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "settings",
    "settings --json",
    "schema",
    "--version",
    "--help",
    "exporter inspect {bundle}",
    "exporter inspect {bundle} --json",
    "classify {image} --bundle {bundle} --device cpu --json",
]
"""Short output and long, by ``print``, by rich and by click, of every part that needs no training."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("streams")
    small_bundle(folder / "bundle")
    (folder / "image.png").write_bytes(encoded_image(40))
    return {"bundle": str(folder / "bundle"), "image": str(folder / "image.png")}


def shell(arguments: str, rest: str, program: str = "genprint") -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m {program} {arguments} {rest}"
    return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_results_that_cannot_be_written_are_one_line(arguments: str, places: dict[str, str]) -> None:
    done = shell(arguments.format(**places), ">/dev/full")
    assert done.stderr == "genprint: standard output cannot be written: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("program", ["worker", "exporter", "trainer"])
def test_each_part_alone_says_so_too(program: str) -> None:
    done = shell("--help", ">/dev/full", program)
    assert done.stderr.endswith(": standard output cannot be written: No space left on device\n")
    assert (done.stderr.count("\n"), done.returncode) == (1, 2)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_closed_standard_output_takes_everything(arguments: str, places: dict[str, str]) -> None:
    done = shell(arguments.format(**places), "<&- >&-")
    assert (done.stderr, done.returncode) == ("", 0)


def test_without_standard_error_results_are_the_same(places: dict[str, str]) -> None:
    arguments = "classify {image} {image} --bundle {bundle} --device cpu --csv".format(**places)
    usual, without = shell(arguments, ""), shell(arguments, "2>&-")
    assert usual.returncode == without.returncode == 0
    assert usual.stdout == without.stdout
    assert usual.stdout.count("\n") == 3


@pytest.mark.parametrize("arguments", COMMANDS)
def test_whoever_has_read_enough_is_not_bothered(arguments: str, places: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "genprint", *arguments.format(**places).split()]
    with os.fdopen(writer) as unread:
        done = subprocess.run(command, cwd=ROOT, stdout=unread, stderr=subprocess.PIPE, check=False)
    assert (done.stderr, done.returncode) == (b"", 128 + signal.SIGPIPE)
