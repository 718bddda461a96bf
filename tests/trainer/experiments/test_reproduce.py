import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trainer.__main__ import app
from trainer.errors import BadConfig
from trainer.experiments import reproduce as reproduction
from trainer.experiments.steps import alone

RECIPE = """
title = "Spectra, small"
source = "nobody"
question = "Which traces?"
protocol = "spectra"
names = ["PGGAN", "Glow"]
settings = { side = 16 }

[[table]]
name = "peaks"
title = "Peaks"
columns = ["real"]
published.PGGAN = [3.5]

[maps.here]
PGGAN = "grid"
"""


@pytest.fixture
def data(make_folder: object) -> Path:
    for split in ("train", "test"):
        root: Path = make_folder(f"data/{split}", images=4)  # type: ignore[operator]
    return root.parent


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_the_command_prints_both_figures_and_writes_a_report(data: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["reproduce", str(recipe), "--data", str(data), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert re.search(r"PGGAN\s.*3\.5\s", done.output)
    assert "scale smoke" in done.output
    page = (out / "report.html").read_text()
    assert "Spectra, small" in page
    assert "Glow = not in this corpus" in page
    assert_stands_alone(page)


def assert_stands_alone(page: str) -> None:
    """It loads nothing: no address but ``data:`` and places on the page, in what a browser would follow by itself."""
    addresses = re.findall(r"""(?:src|href|srcset|action|poster|data)\s*=\s*["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_json_is_for_machines_and_the_report_can_be_written_anew(data: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["reproduce", str(recipe), "--data", str(data), "--out", str(out), "--map", "PGGAN=grid", "--json"]
    done = CliRunner().invoke(app, arguments)
    (section,) = json.loads(done.stdout)
    assert section["mapping"] == {"PGGAN": "grid", "Glow": None}
    cell = next(c for c in section["tables"][0]["cells"] if (c["row"], c["column"]) == ("PGGAN", "real"))
    assert cell["published"] == 3.5
    assert cell["measured"]["value"] > 0
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    assert (out / "report.html").read_text() == before


def test_sections_of_earlier_runs_stay_in_the_report(data: Path, recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("small", "again"))
    for path in (recipe, other):
        reproduction.reproduce(
            [str(path)],
            data,
            tmp_path / "out",
            "smoke",
            real=["real"],
            stand_ins={},
            fresh=False,
            console=Console(file=io.StringIO()),
        )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("Spectra, small") < page.index("Spectra, again")


def test_two_runs_do_not_share_a_folder_at_once(data: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", str(recipe), "--data", str(data), "--out", str(tmp_path / "out")]
    with alone(tmp_path / "out"):
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "another run is using it" in done.output
    assert not (tmp_path / "out" / "sections").exists()
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_what_a_corpus_is_not_for_is_left_out_of_several(data: Path, recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace('PGGAN = "grid"', 'PGGAN = "flow"'))
    common = ["--data", str(data), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["reproduce", str(other), *common])
    assert done.exit_code == 2
    assert "nothing stands for any of PGGAN, Glow; pass --map" in done.output
    done = CliRunner().invoke(app, ["reproduce", str(other), str(recipe), *common])
    assert done.exit_code == 0
    assert "skipped" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s9-table1", "--data", "."], "no experiment of that name"),
        (["s1-table1", "--scale", "mini"], "--data: scale 'mini' needs a corpus"),
        (["s1-table1", "--map", "PGGAN"], "--map PGGAN: expected NAME=FOLDER"),
        (["s3-table2", "--pretrained", "a.pth"], "--pretrained a.pth: expected NETWORK=FILE"),
        (["s3-table2", "--pretrained", "resent50=a.pth"], "--pretrained resent50: no such network, only resnet18, "),
        (["s3-table2", "--pretrained", "resnet50=a.pth"], "--pretrained resnet50=a.pth: no such file"),
        (["s3-table2", "s1-table1", "--map", "PGAN=grid"], "--map PGAN: the publications have only ProGAN, "),
        (["mini8-closed", "--map", "deconv=grid"], "--map deconv: the publications have only generators of the corpus"),
        (["s3-table2", "s1-table1", "--only", "S2"], "--only S2: no such row; there are no aug, blur, "),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["reproduce", *arguments])
    assert done.exit_code == 2
    assert message in done.output


def test_unreadable_images_are_said_and_left_out_up_to_a_limit(data: Path, recipe: Path, tmp_path: Path) -> None:
    common = ["reproduce", str(recipe), "--data", str(data), "--out", str(tmp_path / "out")]
    (data / "test" / "grid" / "broken.png").write_bytes(b"")
    (data / "train" / "real" / "Thumbs.db.jpg").write_text("no image")
    (data / "train" / "real" / "gone.png").symlink_to(data / "nowhere.png")
    done = CliRunner().invoke(app, common)
    assert done.exit_code == 0, done.output
    (section,) = json.loads(CliRunner().invoke(app, [*common, "--json"]).stdout)
    (remark,) = (remark for remark in section["remarks"] if "cannot be read" in remark)
    assert "broken.png" in remark
    assert "Thumbs.db.jpg" in remark
    for number in range(20):
        (data / "test" / "grid" / f"{number}-broken.png").write_bytes(b"")
    done = CliRunner().invoke(app, common)
    assert done.exit_code == 2
    assert "more than 20 unreadable images, first " in " ".join(done.output.split())


def test_results_on_other_test_images_stand_beside_those_on_the_corpus_own(
    data: Path, recipe: Path, tmp_path: Path
) -> None:
    common = ["reproduce", str(recipe), "--data", str(data), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, common).exit_code == 0
    done = CliRunner().invoke(app, [*common, "--test", str(data / "train")])
    assert done.exit_code == 0, done.output
    assert "tested on data" in " ".join(done.output.split())
    assert sorted(path.name for path in (tmp_path / "out" / "sections").iterdir()) == [
        "mine on data.json",
        "mine.json",
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<section id=") == page.count('<a href="#mine') == 2
    assert 'id="mine-data"' in page


def test_list_names_every_experiment() -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["reproduce", "--list"])
    assert done.exit_code == 0
    assert "s1-table1" in done.output
    assert "mini8-unknown" in done.output


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="no sections here"):
        reproduction.write_report(tmp_path)
