"""The commands that need no broker: classify, schema, settings."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
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
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["image", "decision", "prob.", "source", "dist.", "p-value", "reasons"]
    assert [row[:2] for row in rows[1:]] == [
        ["bright.jpg", "generated"],
        ["dark.png", "real"],
        ["more/bright.webp", "generated"],
        ["more/broken.png", "none"],
    ]
    assert rows[4][2] == "broken_image:"
    assert len({line.index(word) for line, word in zip(out.splitlines()[1:3], ["generated", "real"], strict=True)}) == 1


def test_of_two_folders_a_table_shows_the_names_and_other_formats_whole_paths(folder: Path, tmp_path: Path) -> None:
    more, others = folder / "images" / "more", tmp_path / "others"
    others.mkdir()
    (others / "bright.webp").write_bytes(encoded_image(40))
    _, table, _ = classify(folder, str(more), str(others))
    shown = [line.split()[0] for line in table.splitlines()[1:]]
    assert shown == ["more/bright.webp", "more/broken.png", "others/bright.webp"]
    whole = [str(more / "bright.webp"), str(more / "broken.png"), str(others / "bright.webp")]
    _, rows, _ = classify(folder, str(more), str(others), "--csv")
    assert [row["image"] for row in csv.DictReader(io.StringIO(rows))] == whole
    _, lines, _ = classify(folder, str(more), str(others), "--json")
    found = [json.loads(line) for line in lines.splitlines()]
    assert [v["event"]["id"] if "event" in v else v["image"] for v in found] == whole


@pytest.mark.parametrize("option", ["--json", "--csv", None])
def test_on_a_terminal_each_image_is_printed_as_it_comes(folder: Path, option: str | None) -> None:
    arguments = ["classify", str(folder / "images"), "--bundle", str(folder / "bundle"), "--device", "cpu"]
    code, shown = on_a_terminal(*arguments, *([option] if option else []))
    assert code == 1
    assert shown.count(b"\r\n") >= 5  # four images, and what was left out
    assert b"bright.webp" in shown
    assert b"broken.png" in shown
    assert b"classifying" not in shown  # no bar between the rows


def on_a_terminal(*arguments: str) -> tuple[int, bytes]:
    """Exit status, and what a terminal of 120 columns was sent, standard error too."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 120, 0, 0))
    command = [sys.executable, "-m", "worker", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError), os.fdopen(main, "rb", buffering=0) as screen:  # EIO when the program ends
            while data := screen.read(4096):
                shown += data
    return process.returncode, shown


def test_tables_are_folded_for_a_terminal_alone() -> None:
    name = "kafka.transaction_timeout_s"
    lines = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert any(name in line and f"GENPRINT_{name.upper().replace('.', '__')}" in line for line in lines)
    _, shown = on_a_terminal("settings")
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in shown.decode().splitlines()) <= 120


@pytest.mark.parametrize("option", ["--json", "--csv", None])
@pytest.mark.parametrize("name", ["[/d].png", "a[red]b.png", ":smile:.png", b"caf\xe9.png", "a\x1b[31mb.png"])
def test_any_name_of_a_file_is_shown(folder: Path, tmp_path: Path, name: str | bytes, option: str | None) -> None:
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded_image(40))
    code, out, err = classify(folder, str(tmp_path), *([option] if option else []))
    assert code == 0, err
    shown = {b"caf\xe9.png": "caf\\xe9.png", "a\x1b[31mb.png": "a\\x1b[31mb.png"}.get(name, str(name))
    assert "\x1b" not in out
    assert (json.dumps(shown)[1:-1] if option == "--json" else shown) in out


def test_nothing_that_may_be_an_image_goes_without_a_word(folder: Path, tmp_path: Path) -> None:
    good = encoded_image(40)
    for name in ("a.jfif", "b.apng", "c.heic", "._d.png", "e.txt", "f"):
        (tmp_path / name).write_bytes(good if name != "c.heic" else b"no image")
    os.mkfifo(tmp_path / "g.png")
    (tmp_path / "h.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "i.png").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path)
    with (tmp_path / "j.png").open("wb") as huge:
        huge.truncate(3 * 2**30)
    code, out, err = classify(folder, str(tmp_path), "--csv")
    found = {Path(row["image"]).name: row["reasons"] for row in csv.DictReader(io.StringIO(out))}
    assert code == 1
    assert found == {
        "a.jfif": "",
        "b.apng": "",
        "c.heic": "unsupported_format",
        "h.png": "unreadable",
        "g.png": "source_refused",
        "i.png": "source_refused",
        "j.png": "source_too_large",
    }
    assert err == "genprint: left out: 1 ._ files of macOS, 1 .txt, 1 links to folders, 1 without an ending\n"


def test_a_folder_that_cannot_be_read_is_a_row(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(encoded_image(40))
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read every folder
    code, out, _ = classify(folder, str(tmp_path), "--csv")
    rows = [(Path(row["image"]).name, row["decision"], row["reasons"]) for row in csv.DictReader(io.StringIO(out))]
    assert code == 1
    assert rows == [("closed", "", "unreadable"), ("a.png", "real", "")]


@pytest.mark.parametrize("options", [["--json"], ["--csv"], []])
def test_whoever_reads_may_stop(folder: Path, options: list[str]) -> None:
    arguments = ["--bundle", str(folder / "bundle"), "--device", "cpu", *options, *[str(folder / "images")] * 99]
    command = [sys.executable, "-m", "worker", "classify", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, bufsize=0, pipesize=4096) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()  # long before the end: the pipe is small
        assert process.stderr.read() == b"genprint: left out: 99 .txt\n"
    assert process.returncode == 128 + signal.SIGPIPE  # not 1, which says that an image has no verdict


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


def test_escapes_in_the_name_of_a_variable_are_not_obeyed() -> None:
    result = CliRunner().invoke(app, ["classify", "x.png"], env={"GENPRINT_\x1b[31mX": "1"})
    assert result.exit_code == 2
    assert result.stderr == "genprint: environment variable GENPRINT_\\x1b[31mX: no such setting\n"


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
