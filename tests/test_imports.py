"""The arrows between the parts, read from the source: who may import whom."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = frozenset({"bundle", "worker", "trainer", "exporter", "genprint", "deploy", "tests"})
ARROWS: dict[str, set[str]] = {
    "bundle": set(),
    "worker": {"bundle"},
    "trainer": {"bundle"},
    "exporter": {"bundle", "trainer"},
    "genprint": {"bundle", "worker", "trainer", "exporter"},
}
# The rooms of each part, floor by floor from the top: a room imports from floors below its own, never from beside it.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "worker": (
        ("__main__",),
        ("tools",),
        ("pipeline",),
        ("decision",),
        ("kafka", "scoring"),
        ("images", "operations"),
        ("fairness",),
        ("messages", "settings"),
        ("errors",),
    ),
    "trainer": (
        ("__main__",),
        ("protocols",),
        ("experiments",),
        ("models", "evaluation"),
        ("training", "synthesis", "inspection"),
        ("data",),
        ("arrays", "choices", "console", "versions", "errors"),
    ),
    "exporter": (("__main__",), ("export",), ("contents",), ("source", "onnx"), ("options", "errors")),
}
# Where alone a library may be imported: a folder, or one file.
EDGES = {"kafka": "worker/kafka/", "redis": "worker/scoring/cache.py"}
HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "sklearn", "skimage", "scipy"}

MODULES = [path.relative_to(ROOT).as_posix() for part in ARROWS for path in sorted((ROOT / part).rglob("*.py"))]


def imported(module: str) -> set[str]:
    """Dotted names of everything that the file imports, at whatever depth; also by ``import_module("name")``."""
    return set(_imported(ast.parse((ROOT / module).read_text())))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                yield from (f"{name}.{alias.name}" for alias in node.names)
            case ast.ImportFrom():
                pytest.fail("relative imports hide where a name comes from")
            case ast.Call(func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module")):
                yield from (str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room_of(name: str) -> tuple[str, str]:
    """Part and room of a dotted name or a path."""
    part, room, *_ = [*name.removesuffix(".py").replace("/", ".").split("."), ""]
    return part, room


def test_there_is_something_to_read() -> None:
    assert {"bundle/manifest.py", "worker/kafka/client.py"} <= set(MODULES)
    assert imported("worker/kafka/client.py") >= {"kafka.KafkaConsumer", "worker.settings.KafkaSettings"}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_one_way(module: str) -> None:
    part = module.partition("/")[0]
    found = top(imported(module))
    assert found & PARTS <= ARROWS[part] | {part}
    if part == "bundle":
        assert found <= set(sys.stdlib_module_names) | {"bundle", "numpy", "PIL", "pydantic"}
    if part == "worker":
        assert not found & HEAVY
    for library, place in EDGES.items():
        assert library not in found or module.startswith(place)


@pytest.mark.parametrize("module", [module for module in MODULES if module.partition("/")[0] in FLOORS])
def test_arrows_between_rooms_go_down(module: str) -> None:
    part, room = room_of(module)
    floors = {name: number for number, names in enumerate(FLOORS[part]) for name in names}
    for name in imported(module):
        to_part, to_room = room_of(name)
        if to_part == part and to_room in floors and to_room != room:
            assert room in {"", "__init__"} or floors[to_room] > floors[room], f"{module} imports {name}"


@pytest.mark.parametrize("part", FLOORS)
def test_every_room_has_its_floor(part: str) -> None:
    rooms = {name for names in FLOORS[part] for name in names}
    modules = {room_of(module)[1] for module in MODULES if module.startswith(f"{part}/")} - {"__init__"}
    assert modules == rooms


NOT_FOR_HELP = {"numpy", "pydantic", "PIL", "onnxruntime", "kafka", "redis", "aiohttp", "structlog"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("genprint.__main__", HEAVY | NOT_FOR_HELP | {"trainer", "exporter", "tests", "deploy"}),
        ("worker.__main__", HEAVY | NOT_FOR_HELP | {"trainer", "exporter", "tests", "deploy"}),
        ("exporter.__main__", HEAVY | NOT_FOR_HELP - {"pydantic"} | {"worker", "tests", "deploy"}),
        (
            "trainer.__main__",
            HEAVY | NOT_FOR_HELP | {"cv2", "matplotlib", "timm", "worker", "exporter", "tests", "deploy"},
        ),
        ("worker.tools.serve", HEAVY | {"trainer", "exporter", "tests", "deploy"}),
        ("bundle.store", HEAVY | {"worker", "onnxruntime", "kafka", "redis", "aiohttp"}),
    ],
)
def test_a_fresh_process_loads_nothing_else(module: str, absent: set[str]) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert module.partition(".")[0] in loaded
    assert not loaded & absent


@pytest.mark.parametrize("module", ["worker.scoring.engine", "exporter.onnx.runner"])
def test_onnx_runtime_reports_to_nobody(module: str) -> None:
    """The variable is there when the library is loaded, and only then does it count."""
    code = (
        "import builtins, os\n"
        "original, seen = builtins.__import__, []\n"
        "def watched(name, *rest, **more):\n"
        "    if name.partition('.')[0] == 'onnxruntime':\n"
        "        seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "    return original(name, *rest, **more)\n"
        "builtins.__import__ = watched\n"
        f"import {module}\n"
        "assert seen and seen[0] == '1', seen\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("part", FLOORS)
def test_the_picture_of_the_rooms_shows_them_all(part: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    picture = page[page.index("## The rooms") : page.index("## Where to start reading")]
    # A column of a narrow box breaks long words.
    words = set(picture.replace("synth-", "synthesis").split())
    words |= {word.rstrip(",") for word in words}
    assert {room for floor in FLOORS[part] for room in floor} <= words
