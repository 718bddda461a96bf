"""The command line, from data to figures, and its one-line errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer.__main__ import app

MakeFolder = Callable[..., Path]

TINY = ["--size", "32", "--fit", "crop", "--epochs", "1", "--batch", "10"]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "a.pt"], "trainer: nowhere: no such folder\n"),
        (["train", "{data}", "a.pt", "--real", "photos"], "found grid, real; name it with --real\n"),
        (
            ["train", "{data}", "a.pt", "--size", "4"],
            "trainer: size: Input should be greater than or equal to 32, got 4\n",
        ),
        (["train", "{data}", "{data}"], "exists; choose another name or say --force\n"),
        (["evaluate", "nowhere.pt", "{data}", "--templates", "{data}"], "trainer: nowhere.pt: no checkpoint here"),
        (["synth", "{data}"], "exists and is not empty; choose another place or say --force\n"),
        (["synth", "out", "--size", "33"], "trainer: --size: Input should be a multiple of 4, got 33\n"),
        (["synth", "out", "--real", "nowhere"], "trainer: nowhere: no such folder of photographs\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    arguments: list[str], message: str, make_folder: MakeFolder
) -> None:
    data = str(make_folder())
    result = CliRunner().invoke(app, [argument.format(data=data) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert result.stdout == ""
