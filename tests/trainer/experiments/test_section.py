import io
import math

import pytest
from rich.console import Console

from trainer.experiments.html_report import render
from trainer.experiments.recipe import Published
from trainer.experiments.section import Cell, Figure, Measured, Section, show

TABLE = Published(
    name="auroc",
    title="AUROC, %",
    columns=("PGGAN", "Mixed"),
    published={"S1": (99.98, math.nan)},
    target={"LDA": (math.nan, 97.0)},
).beside({("S1", "PGGAN"): Measured(value=98.5, low=97.25, high=99.0), ("LDA", "Mixed"): Measured(value=96.0)})

SECTION = Section(
    protocol="s1-table1",
    title="S1, Table I <real>",
    source="Xuan et al.",
    question="Can it?",
    scale="mini",
    settings={"train": 3},
    corpus="mini8",
    fingerprint="0" * 16,
    mapping={"PGGAN": "progressive", "BEGAN": None},
    tables=(TABLE,),
    figures=(Figure(title="curve", image="data:image/png;base64,AAAA"),),
    remarks=("a remark",),
    seconds=1.0,
    versions={"torch": "2"},
    created_at="2026-01-01T00:00:00+00:00",
)


def test_published_and_measured_stand_side_by_side() -> None:
    out = io.StringIO()
    show(SECTION, Console(file=out, width=120))
    text = out.getvalue()
    (line,) = [line for line in text.splitlines() if "PGGAN" in line and "99.98" in line]
    assert "98.5 [97.25, 99]" in line
    (missed,) = [line for line in text.splitlines() if "Mixed" in line]
    assert "≥ 97 missed" in missed
    assert "scale mini" in text
    assert "BEGAN = not in this corpus" in text


def test_rows_and_columns_of_ours_follow_the_published_ones() -> None:
    table = TABLE
    assert table.rows == ("S1", "LDA")
    assert table.columns == ("PGGAN", "Mixed")
    assert table.cell("S1", "Mixed") == Cell(row="S1", column="Mixed")


@pytest.mark.parametrize(
    ("measured", "at_most", "met"),
    [
        (Measured(value=99, low=96, high=99.5), False, False),
        (Measured(value=99, low=97, high=99.5), False, True),
        (Measured(value=97), False, True),
        (Measured(value=96, low=90, high=97), True, True),
        (Measured(value=96, low=90, high=98), True, False),
    ],
)
def test_a_target_is_met_when_the_bound_on_its_side_is(measured: Measured, at_most: bool, met: bool) -> None:
    assert Cell(row="", column="", measured=measured, target=97, at_most=at_most).met is met


def test_some_columns_of_a_table_may_have_ceilings() -> None:
    targets = Published(name="t", title="t", columns=("a", "b"), target={"x": (1, 1)}, at_most=("b",))
    table = targets.beside({("x", column): Measured(value=2) for column in "ab"})
    assert [cell.met for cell in table.cells] == [True, False]


def test_the_report_escapes_what_it_is_given() -> None:
    page = render([SECTION])
    assert "S1, Table I &lt;real&gt;" in page
    assert "<b>98.5</b>" in page
    assert 'src="data:image/png;base64,AAAA"' in page


def test_a_row_must_have_a_figure_for_each_column() -> None:
    with pytest.raises(ValueError, match="row 'S1' has 1 figures for 2 columns"):
        Published(name="t", title="t", columns=("a", "b"), published={"S1": (1.0,)})
