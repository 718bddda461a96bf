"""All sections of a run as one self-contained HTML file."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from trainer.experiments.section import Cell, Section, Table, spoken

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; border-top: 2px solid #ddd; padding-top: 1rem; }
nav li { margin: .1rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border: 1px solid #ddd; padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { background: #f5f5f5; } th[scope=row] { text-align: left; }
.published { color: #666; } .bounds { color: #666; font-size: .85em; }
.met { background: #e3f4e8; } .missed { background: #fbe6e2; }
.note, figcaption, .facts { color: #555; font-size: .9rem; } figure { margin: 1.5rem 0; } img { max-width: 100%; }
.scale { background: #eef2fb; border-radius: .3rem; padding: 0 .4rem; font-size: .85em; }
"""

_LEGEND: Final = (
    "In each cell: published | <b>measured</b> [95 % bounds]. A target is met when the bound on its side is. "
    "Scales other than <i>full</i> take less of everything, and stand-ins are not the publication's generators."
)


def render(sections: Sequence[Section]) -> str:
    """The HTML page of all sections, in their order."""
    body = [
        "<h1>Published experiments, repeated</h1>",
        f"<p>{_LEGEND}</p>",
        "<nav><ol>",
        *(f'<li><a href="#{_anchor(s)}">{escape(s.title)}</a> {_scale(s)}</li>' for s in sections),
        "</ol></nav>",
        *(part for section in sections for part in _section(section)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>Genprint: experiments</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _section(section: Section) -> Iterable[str]:
    yield f'<section id="{_anchor(section)}">'
    yield f"<h2>{escape(section.title)} {_scale(section)}</h2>"
    yield f"<p>{escape(section.question)} <i>{escape(section.source)}.</i></p>"
    if section.mapping:
        names = (f"{a} = {b if b is not None else 'not in this corpus'}" for a, b in section.mapping.items())
        yield f'<p class="facts">Stand-ins: {escape(", ".join(names))}.</p>'
    for table in section.tables:
        yield from _table(table)
    for figure in section.figures:
        yield f"<figure><figcaption><b>{escape(figure.title)}</b> {escape(figure.caption)}</figcaption>"
        yield f'<img alt="{escape(figure.title)}" src="{figure.image}"></figure>'
    if section.remarks:
        yield "<ul>" + "".join(f"<li>{escape(remark)}</li>" for remark in section.remarks) + "</ul>"
    versions = ", ".join(f"{name} {version}" for name, version in section.versions.items())
    yield f'<details class="facts"><summary>How</summary><p>Corpus {escape(section.data)}, fingerprint '
    yield f"{section.fingerprint}; {section.created_at}; {section.seconds:.0f} s; {escape(versions)}.</p>"
    yield f"<pre>{escape(str(section.settings))}</pre></details></section>"


def _scale(section: Section) -> str:
    tested = f" tested on {escape(section.tested_on)}" if section.tested_on else ""
    return f'<span class="scale">{escape(section.scale)}</span>{tested}'


def _anchor(section: Section) -> str:
    return escape(" ".join(filter(None, (section.protocol, section.tested_on))).replace(" ", "-"))


def _table(table: Table) -> Iterable[str]:
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    yield f'<div class="scroll"><table><caption>{escape(table.title)}</caption><thead><tr><th></th>'
    yield "".join(f"<th>{escape(column)}</th>" for column in table.columns) + "</tr></thead><tbody>"
    for row in table.rows:
        line = "".join(_cell(cells.get((row, column))) for column in table.columns)
        yield f'<tr><th scope="row">{escape(row)}</th>{line}</tr>'
    yield "</tbody></table></div>"
    if table.note:
        yield f'<p class="note">{escape(table.note)}</p>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    published, measured, target = spoken(cell)
    value, _, bounds = measured.partition(" ")
    shade = {None: "", True: ' class="met"', False: ' class="missed"'}[cell.met]
    parts = [f'<span class="published">{published}</span> | <b>{value}</b>']
    if bounds:
        parts.append(f'<span class="bounds">{bounds}</span>')
    if target:
        parts.append(f'<br><span class="bounds">to reach {target}</span>')
    return f"<td{shade}>{' '.join(parts)}</td>"
