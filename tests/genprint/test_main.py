"""The command ``genprint``: what it loads, what it says where a library is missing, and its version report."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from genprint.__main__ import PARTS, app
from genprint.version import PACKAGES
from worker.__main__ import app as worker_app

ROOT = Path(__file__).resolve().parents[2]
FOR_A_COMMAND = {"numpy", "PIL", "onnxruntime", "kafka", "redis", "aiohttp", "structlog", "worker.settings"}
FOR_THE_WORKER = "'genprint[worker-cpu]' (with a GPU: 'genprint[worker-cuda]')"
FOR_TRAINING = {"torch", "torchvision", "sklearn", "skimage", "scipy", "matplotlib", "onnx", "timm"}


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def fresh(
    program: str, *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Python in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


LOADED = """
import json, sys
from genprint.__main__ import main
try:
    main()
except SystemExit:
    pass
sys.stderr.write("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules} | set(sys.modules))))
"""


HELP = {
    "--help": FOR_A_COMMAND | FOR_TRAINING | {"trainer", "exporter", "pydantic", "rich"},
    "classify --help": FOR_A_COMMAND | FOR_TRAINING | {"trainer", "exporter"},
    "topics create --help": FOR_A_COMMAND | FOR_TRAINING,
    "trainer --help": FOR_TRAINING | {"numpy"},
    "trainer train --help": FOR_TRAINING | {"numpy"},
    "exporter --help": FOR_TRAINING | {"numpy"},
    "exporter export --help": FOR_TRAINING | {"numpy"},
}
"""Arguments, and what they must not load."""


@pytest.mark.parametrize("arguments", HELP)
def test_help_loads_no_library_that_it_can_do_without(arguments: str) -> None:
    done = fresh(LOADED, *arguments.split())
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert "Usage: " in done.stdout
    assert sorted(HELP[arguments] & set(loaded)) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("genprint cla", {"classify"}),
        ("genprint t", {"topics", "trainer"}),
        ("genprint topics c", {"create", "check"}),
        ("genprint trainer tr", {"train"}),
        ("genprint exporter e", {"export"}),
        ("genprint produce --kind cl", {"claim-check"}),
    ],
)
def test_completion_is_quick_and_knows_every_part(words: str, expected: set[str]) -> None:
    environment = {
        "_GENPRINT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = fresh(LOADED, environment=environment)
    assert set(done.stdout.split()) == expected, done.stderr
    assert not (FOR_TRAINING | {"numpy"}) & set(json.loads(done.stderr.splitlines()[-1]))


def test_the_worker_s_commands_stand_at_the_top() -> None:
    shown, _ = run("--help")
    for command in typer.main.get_command(worker_app).commands:  # type: ignore[attr-defined]  # it is a group
        assert re.search(rf"^  {command}  ", shown, re.MULTILINE)
    for part in PARTS:
        assert re.search(rf"^  {part}  ", shown, re.MULTILINE)
        assert "Usage: genprint" in run(part, "--help")[0]


@pytest.mark.parametrize(
    ("missing", "arguments", "install"),
    [
        ("onnxruntime", ("classify", "x.png", "--bundle", "b"), FOR_THE_WORKER),
        ("kafka", ("run",), FOR_THE_WORKER),
        ("torch", ("trainer", "evaluate", "a.pt", "data", "--templates", "data"), "'genprint[trainer]'"),
        ("onnx", ("exporter", "export", "a.pt", "out", "--data", "data"), "'genprint[exporter]'"),
        ("trainer", ("trainer", "evaluate", "a.pt", "data", "--templates", "data"), "'genprint[trainer]'"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    missing: str, arguments: tuple[str, ...], install: str, tmp_path: Path
) -> None:
    done = without(missing, arguments, tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"genprint {arguments[0]}: {missing} is not installed; pip install {install}\n"


def test_a_missing_module_of_genprint_is_a_fault_and_nothing_to_install(tmp_path: Path) -> None:
    done = without("worker.messages.schemas", ("schema",), tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'worker.messages.schemas'\n")
    assert "pip install" not in done.stderr


def without(missing: str, arguments: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where a module cannot be imported."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from genprint.__main__ import main\n"
        "main()\n"
    )
    return fresh(block, *arguments, cwd=folder)


@pytest.mark.parametrize("module", ["worker", "trainer", "exporter", "bundle"])
def test_files_of_the_working_directory_are_not_taken_for_ours(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('a file of the user')\n")
    done = subprocess.run(
        [sys.executable, "-m", "genprint", "exporter", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "export" in done.stdout


def test_the_version_says_what_a_bug_report_needs() -> None:
    report, _ = run("--version")
    lines = report.splitlines()
    assert lines[0].startswith("genprint ")
    for package in PACKAGES:
        assert any(line.startswith(f"{package} ") for line in lines)
    assert any(line.startswith("ONNX Runtime providers: ") and "CPUExecutionProvider" in line for line in lines)
    assert any(line.startswith("CUDA devices: ") for line in lines)
    assert str(Path.home()) not in report


@pytest.mark.parametrize(("is_first", "status"), [(True, 128 + signal.SIGTERM), (False, -signal.SIGTERM)])
def test_the_first_process_of_a_container_ends_when_told_to_while_it_loads(is_first: bool, status: int) -> None:
    program = f"""
import os, signal, sys, time
own, os.getpid = os.getpid(), lambda: {1 if is_first else 2}
class Loading:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            os.kill(own, signal.SIGTERM)
            time.sleep(60)
sys.meta_path.insert(0, Loading())
import genprint.__main__
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode == status
