"""The commands that need no broker: classify, schema, settings."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.worker.small_bundle import picture, small_bundle
from worker.__main__ import app


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and a folder with a dark image, two bright ones and a broken one."""
    place = tmp_path_factory.mktemp("classify")
    small_bundle(place / "bundle")
    images = place / "images"
    (images / "more").mkdir(parents=True)
    (images / "dark.png").write_bytes(picture(40))
    (images / "bright.jpg").write_bytes(picture(220, suffix=".jpg"))
    (images / "more" / "bright.webp").write_bytes(picture(220, suffix=".webp"))
    (images / "more" / "broken.png").write_bytes(picture(40)[:100])
    (images / "notes.txt").write_text("no image")
    return place


def classify(place: Path, *arguments: str) -> tuple[int, str, str]:
    options = ["--bundle", str(place / "bundle"), "--device", "cpu"]
    result = CliRunner().invoke(app, ["classify", *options, *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_verdict_a_line(place: Path) -> None:
    code, out, _ = classify(place, str(place / "images"), "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1  # one image could not be judged
    found = {Path(v["event"]["id"]).name: v["generated"]["decision"] for v in lines if "event" in v}
    assert found == {"dark.png": "real", "bright.jpg": "generated", "bright.webp": "generated"}
    [failed] = [line for line in lines if "reason" in line]
    assert (Path(failed["image"]).name, failed["reason"]) == ("broken.png", "broken_image")


def test_csv_is_one_row_an_image(place: Path) -> None:
    code, out, _ = classify(place, str(place / "images" / "dark.png"), str(place / "images" / "bright.jpg"), "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["decision"], row["source"]) for row in rows] == [("real", ""), ("generated", "bright")]


def test_a_table_for_people(place: Path) -> None:
    code, out, _ = classify(place, str(place / "images"))
    assert code == 1
    assert "generated" in out
    assert "broken_image" in "".join(line.split("│")[-2].strip() for line in out.splitlines() if "│" in line)


@pytest.mark.parametrize(("argument", "expected"), [("nowhere.png", "nowhere.png: no such file or folder")])
def test_a_wrong_path_is_one_line(place: Path, argument: str, expected: str) -> None:
    code, _, err = classify(place, argument)
    assert (code, err) == (2, f"genprint worker: {expected}\n")


def test_without_a_bundle_it_says_how_to_name_one() -> None:
    result = CliRunner().invoke(app, ["classify", "x.png"], env={"GENPRINT_BUNDLE": None})
    assert result.exit_code == 2
    assert "--bundle" in result.stderr


def test_settings_are_all_documented() -> None:
    result = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "300"})
    assert result.exit_code == 0
    assert "kafka.bootstrap_servers" in result.stdout
    assert "run_id" in result.stdout
