"""The wheel in an empty environment: it carries all it needs, and serves without what training takes."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.worker.small_bundle import encoded_image, small_bundle

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
PARTS = ("bundle", "exporter", "genprint", "trainer", "worker")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def command(*arguments: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    # From a copy of what git has: a build leaves files beside the sources.
    names = command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if name.partition("/")[0] in (*PARTS, name) and (ROOT / name).is_file():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "source" / name).write_bytes((ROOT / name).read_bytes())
    try:
        command(UV, "build", "--quiet", "--wheel", "--out-dir", place, place / "source", cwd=place)
    except AssertionError:
        command(sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", place, place / "source", cwd=place)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """An environment with nothing but the wheel and its extra ``worker-cpu``."""
    place = wheel.parent / "environment"
    command(sys.executable, "-m", "venv", "--without-pip", place, cwd=wheel.parent)
    what = ("install", "--quiet", "--constraint", ROOT / "constraints.txt", f"genprint[worker-cpu] @ {wheel.as_uri()}")
    # uv takes a third of pip's time, but does not read pip's configuration: where only pip knows the way, pip goes.
    try:
        command(UV, "pip", *what, "--python", place / "bin/python", cwd=wheel.parent)
    except AssertionError:
        command(sys.executable, "-m", "pip", "--python", place / "bin/python", *what, cwd=wheel.parent)
    return place


def test_it_carries_every_file_that_the_code_reads(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("worker/schemas", "*.json"), ("trainer/recipes", "**/*.toml")):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern)}
        assert files
        assert files <= packed
    sources = {path.relative_to(ROOT).as_posix() for part in PARTS for path in (ROOT / part).rglob("*.py")}
    assert sources <= packed
    assert not {name for name in packed if name.startswith(("tests/", "deploy/"))}


def test_classify_from_another_directory_without_torch(environment: Path, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle")
    (tmp_path / "bright.png").write_bytes(encoded_image(220))
    # Files of the user's that are called as our packages are.
    for name in ("worker", "trainer", "bundle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')\n")
    genprint = environment / "bin/genprint"
    out = command(genprint, "classify", "bright.png", "--bundle", "bundle", "--json", cwd=tmp_path)
    assert json.loads(out)["generated"]["decision"] == "generated"
    report = command(genprint, "--version", cwd=tmp_path)
    assert "torch not installed" in report
    assert "onnxruntime not installed" not in report
    assert (
        "genprint[trainer]"
        in subprocess.run(
            [genprint, "trainer", "evaluate", "a.pt", "data", "--templates", "data"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    )
