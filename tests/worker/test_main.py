"""The commands that need no broker: classify, schema, settings."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.worker.small_bundle import encoded_image, small_bundle
from worker.__main__ import app
from worker.operations.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and a folder with a dark image, two bright ones and a broken one."""
    folder = tmp_path_factory.mktemp("classify")
    small_bundle(folder / "bundle")
    images = folder / "images"
    (images / "more").mkdir(parents=True)
    (images / "dark.png").write_bytes(encoded_image(40))
    (images / "bright.jpg").write_bytes(encoded_image(220, suffix=".jpg"))
    (images / "more" / "bright.webp").write_bytes(encoded_image(220, suffix=".webp"))
    (images / "more" / "broken.png").write_bytes(encoded_image(40)[:100])
    (images / "notes.txt").write_text("no image")
    return folder


def classify(folder: Path, *arguments: str) -> tuple[int, str, str]:
    options = ["--bundle", str(folder / "bundle"), "--device", "cpu"]
    result = CliRunner().invoke(app, ["classify", *options, *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_verdict_a_line(folder: Path) -> None:
    code, out, _ = classify(folder, str(folder / "images"), "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1  # one image has no verdict
    found = {Path(v["event"]["id"]).name: v["generated"]["decision"] for v in lines if "event" in v}
    assert found == {"dark.png": "real", "bright.jpg": "generated", "bright.webp": "generated"}
    [failed] = [line for line in lines if "reason" in line]
    assert (Path(failed["image"]).name, failed["reason"]) == ("broken.png", "broken_image")


def test_csv_is_one_row_an_image(folder: Path) -> None:
    code, out, _ = classify(folder, str(folder / "images" / "dark.png"), str(folder / "images" / "bright.jpg"), "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["decision"], row["source"]) for row in rows] == [("real", ""), ("generated", "bright")]


def test_a_table_for_people(folder: Path) -> None:
    code, out, _ = classify(folder, str(folder / "images"))
    assert code == 1
    assert "generated" in out
    assert "broken_image" in "".join(line.split("│")[-2].strip() for line in out.splitlines() if "│" in line)


@pytest.mark.parametrize("option", ["--json", "--csv", None])
@pytest.mark.parametrize("name", ["[/d].png", "a[red]b.png", b"caf\xe9.png"])
def test_any_name_of_a_file_is_shown(folder: Path, tmp_path: Path, name: str | bytes, option: str | None) -> None:
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded_image(40))
    code, out, err = classify(folder, str(tmp_path), *([option] if option else []))
    assert code == 0, err
    shown = name if isinstance(name, str) else "caf\\xe9.png"
    if option is None:
        out = "".join(line.split("│")[1].strip() for line in out.splitlines() if "│" in line)
    assert (json.dumps(shown)[1:-1] if option == "--json" else shown) in out


def test_whoever_reads_may_stop(folder: Path) -> None:
    shell = '"$0" -m worker classify "$@" --device cpu --json | head -1'
    arguments = [sys.executable, "--bundle", str(folder / "bundle"), *[str(folder / "images")] * 99]
    done = subprocess.run(["sh", "-c", shell, *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["nowhere.png"], "nowhere.png: no such file or folder"), (["{empty}"], "{empty}: no images here")],
)
def test_a_wrong_path_is_one_line(folder: Path, arguments: list[str], expected: str, tmp_path: Path) -> None:
    code, _, err = classify(folder, *(argument.format(empty=tmp_path) for argument in arguments))
    assert code == 2
    assert err.startswith(f"genprint: {expected.format(empty=tmp_path)}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["settings", "--json", "--markdown"], ["classify", "--csv", "--json", "--bundle", "b", "x.png"]]
)
def test_two_formats_at_once_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


@pytest.mark.parametrize("value", ["inf", "1e300", "nan"])
def test_a_plan_is_for_a_number_of_images(value: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--images-per-day", value])
    assert result.exit_code == 2
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_without_a_bundle_it_says_how_to_name_one() -> None:
    result = CliRunner().invoke(app, ["classify", "x.png"], env={"GENPRINT_BUNDLE": None})
    assert result.exit_code == 2
    assert "--bundle" in result.stderr


def test_settings_are_all_documented() -> None:
    result = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "300"})
    assert result.exit_code == 0
    assert "kafka.bootstrap_servers" in result.stdout
    assert "run_id" in result.stdout


@pytest.mark.parametrize("what", ["settings", "metrics"])
def test_the_documentation_has_the_table_of_today(what: str) -> None:
    printed = CliRunner().invoke(app, [what, "--markdown"])
    assert printed.exit_code == 0
    page = (ROOT / "docs" / f"{what}.md").read_text()
    assert page.endswith(printed.stdout), f"python -m worker {what} --markdown, and put it at the end of docs/{what}.md"


def test_every_setting_says_what_it_is() -> None:
    rows = json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)
    by_name = {row["setting"]: row for row in rows}
    assert len(by_name) == len(rows) > 50
    assert all(row["meaning"] and row["values"] for row in rows)
    assert by_name["kafka.session_timeout_s"] == {
        "setting": "kafka.session_timeout_s",
        "values": "number",
        "unit": "seconds",
        "default": "10",
        "variable": "GENPRINT_KAFKA__SESSION_TIMEOUT_S",
        "meaning": "Silence after which the group gives a worker's partitions to others.",
    }
    assert by_name["inference.device"]["values"] == "cuda, cpu, auto"


def test_every_metric_that_is_served_is_in_the_table() -> None:
    metrics = Metrics()
    rows = json.loads(CliRunner().invoke(app, ["metrics", "--json"]).stdout)
    by_name = {row["metric"]: row for row in rows}
    for family in metrics.registry.collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        if not name.startswith(("process_", "python_")):
            assert by_name.pop(name)["kind"] == family.type
    assert set(by_name) == {"process_*", "python_info"}
    assert Metrics().deferred("source_busy", 12)._labelvalues == ("source_busy", "10+")
