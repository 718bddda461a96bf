"""The example consumers as they would be built and run elsewhere, and doctored copies of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.local.kafka_jars import fetch_jars
from tests.deploy.node_packages import node_modules
from tests.integration.worker_process import ROOT, clean_environment

FOLDER = ROOT / "deploy" / "consumers"
SOURCES = {
    "python": FOLDER / "python" / "verdicts.py",
    "java": FOLDER / "java" / "Verdicts.java",
    "node": FOLDER / "node" / "verdicts.js",
}

# Three mistakes in one copy: aborted verdicts are read, an unknown action is passed on, repetitions are acted on again.
MISTAKES: Mapping[str, Sequence[tuple[str, str]]] = {
    "python": (
        ('"isolation.level": "read_committed"', '"isolation.level": "read_uncommitted"'),
        ('"allow", "review", "block"', '"allow", "review", "block", "quarantine"'),
        ("            self._done.add(", "            len("),
    ),
    "java": (
        ('"isolation.level", "read_committed"', '"isolation.level", "read_uncommitted"'),
        ('"allow", "review", "block"', '"allow", "review", "block", "quarantine"'),
        ("if (done.add(", "if (done.getClass() != null || done.add("),
    ),
    "node": (
        ("readUncommitted: false", "readUncommitted: true"),
        ('"allow", "review", "block"', '"allow", "review", "block", "quarantine"'),
        ("    this.done.add(", "    String("),
    ),
}

_COMPILE_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 15


@dataclass(frozen=True)
class Program:
    """A consumer that can be started."""

    language: str
    command: tuple[str, ...]


def missing(language: str) -> str | None:
    """What this machine lacks for it, None if it lacks nothing."""
    needed = {"python": (), "java": ("javac", "java"), "node": ("node", "npm")}[language]
    return next((name for name in needed if shutil.which(name) is None), None)


def build(language: str, folder: Path, *, doctored: bool = False) -> Program:
    """Copy it into a folder of its own, with what its packages are there, and compile it."""
    folder.mkdir(parents=True)
    source = folder / SOURCES[language].name
    text = SOURCES[language].read_text()
    for right, wrong in MISTAKES[language] if doctored else ():
        assert text.count(right) == 1, f"{source.name} has no place for the mistake {wrong!r}"
        text = text.replace(right, wrong)
    source.write_text(text)
    match language:
        case "python":
            return Program(language, (sys.executable, str(source)))
        case "java":
            return Program(language, _compiled(source))
        case _:
            (folder / "node_modules").symlink_to(node_modules(SOURCES[language].with_name("package.json")))
            return Program(language, ("node", str(source)))


def _compiled(source: Path) -> tuple[str, ...]:
    jars = f"{fetch_jars()}/*"
    command = ["javac", "-Xlint:all,-processing", "-Werror", "-cp", jars, "-d", str(source.parent), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    options = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    return ("java", *options, "-cp", f"{source.parent}:{jars}", source.stem)


class Consuming:
    """A consumer at work; ended by its process id, at the latest when the block ends."""

    def __init__(
        self, program: Program, bootstrap: str, topic: str, group: str, folder: Path, *, to_file: bool
    ) -> None:
        self.group = group
        self._printed, self._errors, self._out = (folder / f"{group}.{kind}" for kind in ("printed", "errors", "out"))
        options = {"--bootstrap": bootstrap, "--topic": topic, "--group": group}
        if to_file:
            options["--out"] = str(self._out)
        self._command = [*program.command, *(word for option in options.items() for word in option)]
        self._child: subprocess.Popen[bytes] | None = None
        self._to_file = to_file

    def __enter__(self) -> Self:
        with self._printed.open("ab") as printed, self._errors.open("ab") as errors:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=printed, stderr=errors, env=clean_environment()
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_STOP_TIMEOUT_S)
            self._child.kill()
            self._child.wait()

    def kill(self) -> None:
        """As a crash would."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> int:
        """Ask it to end, and say with which status it did."""
        assert self._child is not None
        self._child.terminate()
        return self._child.wait(_STOP_TIMEOUT_S)

    def require_running(self) -> None:
        """Complain, with what it wrote, if it has ended."""
        assert self._child is not None
        assert self._child.poll() is None, f"{self.group} ended with {self._child.poll()}: {self._errors.read_text()}"

    @property
    def path(self) -> Path:
        """Where its lines are."""
        return self._out if self._to_file else self._printed

    def actions(self) -> list[dict[str, Any]]:
        """Its lines so far; each must be JSON."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]
