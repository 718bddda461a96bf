import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bundle.store import Bundle
from exporter import export as export_module
from exporter.__main__ import app
from exporter.onnx.graph import Graph
from tests.bundles import CLASSES
from tests.worker.small_bundle import small_bundle


def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """Stdout and stderr; a wide terminal, so that tables are not folded."""
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_inspect_shows_the_bundle(tiny_bundle: Bundle) -> None:
    table, _ = run("inspect", tiny_bundle.path)
    for shown in (
        tiny_bundle.digest,
        f"tiny {tiny_bundle.manifest.version}",
        "1 of 32 px (centre crop)",
        tiny_bundle.manifest.decoder,
        "top-1 1.0000, AUROC 1.0000, 24 images",
        *CLASSES,
    ):
        assert shown in table


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"evaluation": {"x": {}}}, "evaluation.x.images: Field required (and 2 more)"),
        (
            {"name": "a\x1b[31m"},
            "name: Value error, has a control character or a mark of writing direction",
        ),
    ],
)
def test_inspect_of_a_crafted_manifest(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    path = small_bundle(tmp_path / "small").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    _, error = run("inspect", path.parent, code=2)
    assert error == f"genprint exporter: {path}: {fault}; export the bundle again\n"


def test_inspect_shows_no_sign_that_a_terminal_obeys(tmp_path: Path) -> None:
    shown, _ = run("inspect", small_bundle(tmp_path / "a\x1b[31m:smile:\u202e").path)
    assert r"a\x1b[31m:smile:\u202e" in shown
    assert "\x1b" not in shown


def test_inspect_for_machines(tiny_bundle: Bundle) -> None:
    out, _ = run("inspect", "--json", tiny_bundle.path)
    document = json.loads(out)
    assert document["digest"] == tiny_bundle.digest
    assert document["manifest"] == json.loads((tiny_bundle.path / "manifest.json").read_bytes())


def test_export(
    tiny_bundle: Bundle, tiny_checkpoint_path: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bundle.manifest.detector  # made once already, and slow
    monkeypatch.setattr(export_module, "export_graph", lambda *_, **__: Graph(tiny_bundle.graph(model), model))
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "calib/real/broken.png").write_text("words")
    command = ("export", tiny_checkpoint_path, tmp_path / "made", "--data", data, "--name", "cli", "--alpha", 0.2)
    table, left_out = run(*map(str, command))
    assert left_out.startswith(f"skipped {data}/calib/real/broken.png: ")
    assert left_out.count("\n") == 1
    assert f"cli {json.loads((tmp_path / 'made' / 'manifest.json').read_bytes())['version']}" in table
    _, error = run(*map(str, command), code=2)
    assert error == f"genprint exporter: {tmp_path / 'made'} exists; choose another place or pass --force\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "nowhere: no bundle here (manifest.json cannot be read: No such file or directory)"),
        (
            ("export", "nowhere.pt", "out", "--data", "data"),
            "nowhere.pt: no checkpoint here: No such file or directory",
        ),
        (("export", "x", "out", "--data", "d", "--alpha", "0"), "--alpha: Input should be greater than 0, got 0.0"),
        (
            ("export", "x", "out", "--data", "d", "--error-target", "1"),
            "--error-target: Input should be less than 0.5, got 1.0",
        ),
        (
            ("export", "x", "out", "--data", "d", "--tolerance", "nan"),
            "--tolerance: Input should be a finite number, got nan",
        ),
        (
            ("export", "x", "out", "--data", "d", "--name", ""),
            "--name: String should have at least 1 character, got ''",
        ),
        (
            ("export", "x", "out", "--data", "d", "--name", "a\x1b[31mb"),
            r"--name: Value error, has a control character or a mark of writing direction, got 'a\x1b[31mb'",
        ),
    ],
    ids=["no bundle", "no checkpoint", "alpha", "error target", "tolerance", "no name", "name"],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, code=2) == ("", f"genprint exporter: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name, content in tiny_bundle.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "manifest.json").write_bytes((tiny_bundle.path / "manifest.json").read_bytes())
    (tmp_path / "MODEL_CARD.md").write_bytes(b"nothing to see here")
    _, error = run("inspect", tmp_path, code=2)
    assert error.startswith(f"genprint exporter: {tmp_path / 'MODEL_CARD.md'}: has changed: sha256 ")
    assert error.count("\n") == 1
