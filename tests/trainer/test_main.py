"""The command line, from data to figures, and its one-line errors."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from trainer.__main__ import app
from trainer.models.dcgan_discriminator import S2Config
from trainer.models.few_shot import FewShotConfig
from trainer.synthesis.synth import SynthConfig
from trainer.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]
ROOT = Path(__file__).parent.parent.parent

TINY = ["--size", "32", "--fit", "crop", "--epochs", "1", "--batch", "10"]
CLOSED_FORM = ["--system", "block_spectra", "--size", "32", "--set", "simulated=0"]


def test_synth_train_evaluate(photographs: Path, tmp_path: Path) -> None:
    run, data, checkpoint = CliRunner().invoke, tmp_path / "data", tmp_path / "a.pt"
    counts = ["--train", "6", "--calib", "2", "--test", "2", "--steps", "2"]
    made = run(app, ["synth", str(data), "--real", str(photographs), "--size", "32", *counts])
    assert made.exit_code == 0, made.output
    assert "shuffle" in made.stdout

    trained = run(app, ["train", str(data / "train"), str(checkpoint), "--val", str(data / "calib"), *TINY])
    assert trained.exit_code == 0, trained.output
    assert "val" in trained.stderr

    command = ["evaluate", str(checkpoint), str(data / "test"), "--templates", str(data / "train")]
    figures = json.loads(run(app, [*command, "--json", "--template", "mean"]).stdout)
    assert figures["images"] == 10
    assert figures["closed_set"]["labels"] == ["bilinear", "deconv", "nearest", "real", "shuffle"]
    assert sum(map(sum, figures["closed_set"]["confusion"])) == 10
    assert (figures["binary"]["real"], figures["binary"]["generated"]) == (2, 8)
    assert 0 <= figures["binary"]["auroc"] <= 1
    table = run(app, command)
    assert table.exit_code == 0
    assert "top-1 by template" in table.stdout


def test_attribute_names_known_families_and_rejects_others(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, checkpoint = CliRunner().invoke, tmp_path / "a.pt"
    known, others = make_folder("known", images=200), make_folder("others", images=200)
    assert run(app, ["train", str(known), str(checkpoint), *CLOSED_FORM]).exit_code == 0
    command = ["attribute", str(checkpoint), "--templates", str(known), "--calibration", str(others), "--alpha", "0.1"]
    new = make_folder("new", ("grid", "newer", "real"), images=40)
    found = json.loads(run(app, [*command, str(new), "--json"]).stdout)
    assert found["alpha"] == 0.1
    folders = found["folders"]
    for name in ("grid", "real"):
        assert folders[name]["right"]["rate"] == 1
        assert folders[name]["unknown"]["rate"] < 0.35
        assert folders[name]["auroc"] is None
        assert sum(folders[name]["named"].values()) + folders[name]["unknown"]["hits"] == 40
    assert folders["newer"]["right"] is None
    assert folders["newer"]["unknown"]["rate"] > 0.9
    assert folders["newer"]["auroc"] > 0.95
    unknown = sum(folders[name]["unknown"]["hits"] for name in ("grid", "real"))
    assert found["overall"]["images"] == 80
    assert (found["overall"]["right"]["hits"], found["overall"]["right"]["count"]) == (80, 80)
    assert (found["overall"]["unknown"]["hits"], found["overall"]["unknown"]["count"]) == (unknown, 80)
    assert found["calibrated_on_degraded"] is False
    alone = run(app, [*command, str(make_folder("alone", ("real",)))])
    assert alone.exit_code == 0, alone.output
    assert "real" in alone.stdout
    wrong, more = make_folder("wrong", ("newer", "real")), make_folder("more", ("grid", "newer", "real"), images=60)
    ends = {
        ("--templates", str(known), "--calibration", str(wrong)): (2, "no images of grid to calibrate on"),
        ("--templates", str(wrong), "--calibration", str(others)): (2, "no images of grid to make templates of"),
        ("--templates", str(more), "--calibration", str(others)): (2, "has no class 'newer'"),
        ("--templates", str(known), "--calibration", str(more)): (0, ""),  # other classes calibrate nothing
    }
    for folders, (code, said) in ends.items():
        ended = run(app, [*command[:2], *folders, str(new)])
        assert ended.exit_code == code
        assert said in ended.stderr


def test_attribute_takes_folders_of_any_name_and_folders_without_sub_folders(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    run, checkpoint = CliRunner(env={"COLUMNS": "200"}).invoke, tmp_path / "a.pt"
    known, others = make_folder("known", images=60), make_folder("others", images=60)
    assert run(app, ["train", str(known), str(checkpoint), *CLOSED_FORM]).exit_code == 0
    command = ["attribute", str(checkpoint), "--templates", str(known), "--calibration", str(others)]
    runs = make_folder("runs", ("grid", "real"), images=10)
    (runs / "grid").rename(runs / "grid_run2")
    shutil.copytree(runs / "grid_run2", runs / "strange")

    mapped = [*command, str(runs), "--map", "grid_run2=grid"]
    found = json.loads(run(app, [*mapped, "--json"]).stdout)
    assert {name: folder["label"] for name, folder in found["folders"].items()} == {
        "grid_run2": "grid",
        "real": "real",
        "strange": None,
    }
    assert found["folders"]["grid_run2"]["right"]["rate"] == 1
    assert found["folders"]["strange"]["right"] is None
    assert found["overall"]["images"] == 20
    table = run(app, [*mapped, "--calibrate-degraded"]).stdout
    for shown in ("grid_run2 = grid", "all known", "calibrated on degraded copies as well"):
        assert shown in table

    alone = json.loads(run(app, [*command, str(runs / "strange"), "--json"]).stdout)
    assert list(alone["folders"]) == ["strange"]
    assert alone["overall"] is None
    named = json.loads(run(app, [*command, str(runs / "strange"), "--json", "--map", "strange=grid"]).stdout)
    assert named["overall"]["right"]["rate"] == 1

    for pair, message in {
        "glow=grid": "has no folder 'glow', only grid_run2, real, strange",
        "strange=glow": "--map: the checkpoint has no class 'glow', only grid, real",
        "strange": "--map strange: expected FOLDER=LABEL",
    }.items():
        wrong = run(app, [*command, str(runs), "--map", pair])
        assert wrong.exit_code == 2
        assert message in wrong.stderr


def test_images_that_are_left_out_are_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, checkpoint = CliRunner().invoke, tmp_path / "a.pt"
    known, others, new = (make_folder(name, images=8) for name in ("known", "others", "new"))
    trained = run(app, ["train", str(known), str(checkpoint), *TINY, "--set", "embedding=8"])
    assert trained.exit_code == 0, trained.output
    for root in (known, others, new):
        (root / "real/broken[1].png").write_text("words")
        Image.new("RGB", (31, 40)).save(root / "real/small.png")
    templates = ["--templates", str(known)]
    for command, roots in (
        (["train", str(known), str(tmp_path / "b.pt"), *TINY, "--val", str(new)], (known, new)),
        (["evaluate", str(checkpoint), str(new), *templates], (new, known)),
        (["attribute", str(checkpoint), str(new), *templates, "--calibration", str(others)], (new, known, others)),
        (["few-shot", str(checkpoint), str(new), str(tmp_path / "c.pt"), "--new", "grid", "--epochs", "0"], (new,)),
    ):
        done = run(app, command)
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stderr.splitlines() if line.startswith("skipped")]
        assert len(lines) == 2 * len(roots)
        for root, broken, small in zip(roots, lines[::2], lines[1::2], strict=True):
            assert broken.startswith(f"skipped {root}/real/broken[1].png: ")
            assert small.startswith(f"skipped 1 image smaller than 32 x 32 (first: {root}/real/small.png): the worker")
    smaller = make_folder("smaller", size=16)
    said = run(app, ["attribute", str(checkpoint), str(smaller), *templates, "--calibration", str(others)])
    assert said.exit_code == 2
    assert "6 too small for 32 x 32, 0 unreadable): the worker answers such images 'unsure'; enlarge" in said.stderr


def test_the_option_that_chooses_a_split_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, checkpoint, data = CliRunner().invoke, tmp_path / "a.pt", tmp_path / "data"
    parts = {split: make_folder(f"data/{split}") for split in ("train", "calib", "test")}
    assert run(app, ["train", str(parts["train"]), str(checkpoint), *CLOSED_FORM]).exit_code == 0
    splits = ["--split", "test", "--templates-split", "train", "--calibration-split", "calib"]
    command = ["attribute", str(checkpoint), str(data), "--templates", str(data), "--calibration", str(data)]
    assert run(app, [*command, *splits]).exit_code == 0
    assert run(app, ["evaluate", *command[1:5], *splits[:4]]).exit_code == 0
    for number, option in enumerate(splits[::2]):
        rest = splits[: 2 * number] + splits[2 * number + 2 :]
        said = run(app, [*command, *rest])
        assert (said.exit_code, said.stderr) == (
            2,
            f"genprint trainer: {option}: {data}: name one of its splits (train, calib, test)\n",
        )
    said = run(app, ["evaluate", *command[1:5], "--split", "test"])
    assert said.stderr.startswith("genprint trainer: --templates-split: ")


def test_few_shot_teaches_a_checkpoint_another_class(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, known, taught = CliRunner().invoke, tmp_path / "a.pt", tmp_path / "b.pt"
    trained = run(app, ["train", str(make_folder("known")), str(known), *TINY, "--set", "embedding=8"])
    assert trained.exit_code == 0, trained.output
    data = make_folder("more", ("grid", "new", "real"))
    command = ["few-shot", str(known), str(data), str(taught), "--shots", "2", "--epochs", "1"]
    done = run(app, command)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {taught}\n"
    checkpoint = load_checkpoint(taught)
    assert [label.name for label in checkpoint.labels] == ["grid", "real", "new"]
    assert checkpoint.origin.images["new"] == 2
    assert "pass --force" in run(app, command).stderr


def test_settings_reach_the_system_that_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    settings = ["--set", "width=4", "--set", "train_preprocessing=noise"]
    command = ["train", str(make_folder()), str(tmp_path / "a.pt"), "--system", "s2", *TINY, *settings]
    trained = CliRunner().invoke(app, command)
    assert trained.exit_code == 0, trained.output
    config = load_checkpoint(tmp_path / "a.pt").config
    assert isinstance(config, S2Config)
    assert (config.width, config.train_preprocessing, config.binary, config.batch) == (4, "noise", True, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "a.pt"], "genprint trainer: nowhere: no such folder\n"),
        (["train", "{data}", "a.pt", "--real", "photos"], "found grid, real; name it with --real\n"),
        (
            ["train", "{data}", "a.pt", "--size", "4"],
            "genprint trainer: size: Input should be greater than or equal to 32, got 4\n",
        ),
        (
            ["train", "{data}", "a.pt", "--set", "embedding=x"],
            "genprint trainer: embedding: Input should be a valid integer",
        ),
        (["train", "{data}", "a.pt", "--set", "embedding"], "genprint trainer: --set embedding: expected KEY=VALUE\n"),
        (["train", "{data}", "a.pt", "--system", "s9"], "genprint trainer: system: no system 's9', only s1, s2, s3"),
        (["train", "{data}", "a.pt", "--system", "s3"], "give them with --val\n"),
        (["few-shot", "nowhere.pt", "{data}", "b.pt"], "genprint trainer: nowhere.pt: no checkpoint here"),
        (
            ["few-shot", "a.pt", "{data}", "b.pt", "--replay", "0"],
            "--replay: Input should be greater than or equal",
        ),
        (["train", "{data}", "{data}"], "it is a folder; pass the name of a file\n"),
        (
            ["evaluate", "nowhere.pt", "{data}", "--templates", "{data}"],
            "genprint trainer: nowhere.pt: no checkpoint here",
        ),
        (["train", "{data}", "a.pt", "--set", "foo=1"], "genprint trainer: foo: no such setting\n"),
        (["synth", "{data}"], "exists and is not empty; choose another place or pass --force\n"),
        (["synth", "{data}/real/00.png"], "exists and is no folder; choose another place or pass --force\n"),
        (
            ["synth", "/dev/null", "--force"],
            "genprint trainer: /dev/null: exists and is no folder; choose another place\n",
        ),
        (
            ["synth", "/proc/x"],
            "genprint trainer: /proc/x: cannot be written: /proc: nothing can be made there; choose",
        ),
        (["inspect", "/dev/null"], "genprint trainer: /dev/null: neither a folder nor a regular file\n"),
        (["synth", "out", "--real", "no\x1b[31mwhere"], "genprint trainer: no\\x1b[31mwhere: no such folder"),
        (
            ["evaluate", "{fifo}", "{data}", "--templates", "{data}"],
            "fifo.toml: no checkpoint here: not a regular file\n",
        ),
        (["train", "{data}", "a.pt", "--recipe", "{fifo}"], "fifo.toml: no recipe here: not a regular file\n"),
        (["train", "{data}", "a.pt", "--recipe", "{deep}"], "deep.toml: not TOML: nested too deeply\n"),
        (["reproduce", "{deep}"], "deep.toml: not TOML: nested too deeply\n"),
        (["train", "{data}", "a.pt", "--set", "epochs=" + "[" * 50_000], "got '[[["),
        (["train", "{data}", "a.pt", "--set", "epochs=" + "1" * 10_000], "got '111"),
        (["train", "{data}", "a.pt", "--set", "seed=0x" + "f" * 10_000], "got a number of many digits\n"),
        (["synth", "out", "--size", "33"], "genprint trainer: --size: Input should be a multiple of 4, got 33\n"),
        (["synth", "out", "--real", "nowhere"], "genprint trainer: nowhere: no such folder of photographs\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    arguments: list[str], message: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    fifo, deep = tmp_path / "fifo.toml", tmp_path / "deep.toml"
    os.mkfifo(fifo)
    deep.write_text("a = " + "[" * 100_000)
    names = {"data": make_folder(), "fifo": fifo, "deep": deep}
    result = CliRunner().invoke(app, [argument.format(**names) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert result.stdout == ""


@pytest.mark.parametrize("out", ["{file}/a", "{file}/a/b", "{circle}/a", "{nowhere}/a", "/proc/a"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["synth", "{out}"],
        ["train", "nowhere", "{out}"],
        ["few-shot", "nowhere.pt", "nowhere", "{out}"],
        ["simulate", "{data}", "{out}", "--kind", "autogan"],
        ["reencode", "{data}", "{out}", "--format", "png"],
        ["reproduce", "s1-table1", "--out", "{out}"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_where_nothing_can_be_written_it_is_said_before_any_work(
    arguments: list[str], out: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("words")
    circle, nowhere = tmp_path / "circle", tmp_path / "nowhere"
    circle.symlink_to(circle)
    nowhere.symlink_to(tmp_path / "absent")
    out = out.format(file=file, circle=circle, nowhere=nowhere)
    names = {"out": out, "data": str(make_folder())}
    result = CliRunner().invoke(app, [argument.format(**names) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"genprint trainer: {out}")
    assert ": cannot be written: " in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["train", "few-shot"])
def test_a_folder_is_no_place_for_a_checkpoint(command: str, tmp_path: Path) -> None:
    arguments = {"train": ["nowhere"], "few-shot": ["nowhere.pt", "nowhere"]}[command]
    result = CliRunner().invoke(app, [command, *arguments, str(tmp_path), "--force"])
    assert (result.exit_code, result.stdout) == (2, "")
    expected = f"genprint trainer: {tmp_path}: cannot be written: it is a folder; pass the name of a file\n"
    assert result.stderr == expected


def test_names_of_classes_are_shown_as_they_are(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(images=2)
    for name in ("[red]x", "[bold]"):
        shutil.copytree(folder / "grid", folder / name)
    result = CliRunner().invoke(app, ["train", str(folder), str(tmp_path / "a.pt"), "--epochs", "0", "--size", "32"])
    assert result.exit_code == 0, result.stderr
    for name in ("[red]x", "[bold]"):
        assert name in result.output


@pytest.mark.parametrize("command", ["train", "evaluate", "attribute", "few-shot", "synth", "simulate"])
def test_a_seed_that_no_library_takes_is_refused(command: str) -> None:
    result = CliRunner(env={"TERM": "dumb"}).invoke(app, [command, "x", "y", "--seed", "99999999999999999999999"])
    assert result.exit_code == 2
    assert "--seed" in result.stderr
    assert "2147483647" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_an_error_of_the_system_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a.pt"))

    monkeypatch.setattr("trainer.training.loop.train", full)
    result = CliRunner().invoke(app, ["train", "nowhere", str(tmp_path / "a.pt")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"genprint trainer: {tmp_path / 'a.pt'}: No space left on device\n"


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.training.loop.train", interrupted)
    result = CliRunner().invoke(app, ["train", "nowhere", str(tmp_path / "a.pt")])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "genprint trainer: stopped\n")


def test_files_that_never_end_are_skipped_as_broken_ones(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, data, out = CliRunner().invoke, make_folder(images=3, size=64), tmp_path / "out"
    os.mkfifo(data / "real/fifo.png")
    (data / "real/device.png").symlink_to("/dev/zero")
    with (data / "grid/large.png").open("wb") as file:
        file.truncate(3 * 2**30)
    reasons = ["more than 20971520 bytes", "not a regular file", "not a regular file"]

    found = json.loads(run(app, ["inspect", str(data), "--json"]).stdout)
    assert [bad["reason"] for bad in found["unreadable"]] == reasons
    assert found["images"] == 6
    done = run(app, ["reencode", str(data), str(out), "--format", "png"])
    assert done.stderr == "left out 3 images, unreadable; first grid/large.png: more than 20971520 bytes\n"
    assert done.stdout == f"wrote 6 images to {out}\n"
    trained = run(app, ["train", str(data), str(tmp_path / "a.pt"), "--epochs", "0", "--size", "32"])
    skipped = ["grid/large.png", "real/device.png", "real/fifo.png"]
    assert trained.stderr.splitlines()[:3] == [
        f"skipped {data / name}: {reason}" for name, reason in zip(skipped, reasons, strict=True)
    ]
    simulated = run(
        app,
        ["simulate", str(data), str(tmp_path / "fakes"), "--kind", "dip", "--size", "64", "--set", "steps=2"],
    )
    assert simulated.stderr == "left out 2 images, first real/device.png\n"
    refused = run(app, ["synth", str(tmp_path / "made"), "--real", str(data)])
    assert refused.exit_code == 2
    assert refused.stderr.endswith("grid/large.png: cannot be read: more than 20971520 bytes\n")


def test_names_of_images_are_shown_escaped(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, data = CliRunner().invoke, make_folder(images=3)
    for name in ("a\x1b[31m.png", ":smile:.png"):
        (data / "real" / name).write_text("words")
    done = run(app, ["reencode", str(data), str(tmp_path / "out"), "--format", "png"])
    reason = "not an image of JPEG, PNG, WEBP, GIF, BMP, AVIF"
    assert done.stderr == f"left out 2 images, unreadable; first real/:smile:.png: {reason}\n"
    trained = run(app, ["train", str(data), str(tmp_path / "a.pt"), "--epochs", "0", "--size", "32"])
    assert trained.stderr.splitlines()[:2] == [
        f"skipped {data}/real/{name}: {reason}" for name in (":smile:.png", "a\\x1b[31m.png")
    ]
    shown = run(app, ["inspect", str(data)]).stdout
    assert "2 files cannot be read, first real/:smile:.png" in shown


def test_the_defaults_of_options_are_those_of_the_configurations() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    configurations = {"few-shot": FewShotConfig(), "synth": SynthConfig()}
    for command, configuration in configurations.items():
        defaults = {option.name: option.default for option in commands[command].params}
        shared = type(configuration).model_fields.keys() & defaults.keys()
        assert len(shared) >= 6
        assert {name: defaults[name] for name in shared} == {name: getattr(configuration, name) for name in shared}


def test_help_loads_no_large_library() -> None:
    heavy = ("torch", "numpy", "sklearn", "scipy", "skimage", "matplotlib", "PIL", "cv2", "timm")
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from trainer.__main__ import app\n"
        "for arguments in (['--help'], ['train', '--help'], ['reproduce', '--help'], ['train', '--nonsense']):\n"
        "    CliRunner().invoke(app, arguments)\n"
        f"print(*[name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_inspect_and_reencode(make_folder: MakeFolder, tmp_path: Path) -> None:
    run, data, out = CliRunner().invoke, make_folder(images=6), tmp_path / "out"
    (data / "real/broken.png").write_text("words")
    done = run(app, ["reencode", str(data), str(out), "--format", "jpeg", "--quality", "80", "--size", "24"])
    assert done.exit_code == 0, done.output
    assert f"wrote 12 images to {out}" in done.stdout.replace("\n", "")
    assert "left out 1 image, unreadable" in done.stderr

    found = json.loads(run(app, ["inspect", str(out), "--json"]).stdout)
    assert (found["images"], found["layout"]) == (12, "folders")
    assert found["classes"][0]["qualities"] == {"80": 6}
    table = run(app, ["inspect", str(out)])
    assert table.exit_code == 0, table.output
    assert "24 x 24" in table.stdout

    for arguments, message in (
        (["inspect", "nowhere"], "genprint trainer: nowhere: no such folder\n"),
        (["reencode", str(data), str(out), "--format", "png"], "pass --force\n"),
        (
            ["reencode", str(data), "x", "--format", "png", "--quality", "0"],
            "genprint trainer: --quality: Input should be",
        ),
    ):
        wrong = run(app, arguments)
        assert wrong.exit_code == 2
        assert message in wrong.stderr
