"""Runs published experiments, top to bottom: read this first.

A recipe (``recipes/protocols``) has the published figures and the size of each scale. A module in ``protocols`` runs
the experiment with a ``Study``, whose steps are kept, so that an interrupted run goes on where it stopped. The result
is a section: tables with published and measured figures side by side, for people, for programs and in one HTML report.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bundle.files import LARGE_FILE_BYTES, read_regular
from trainer.choices import ScaleName
from trainer.data.output import check_new_file, check_writable
from trainer.errors import BadConfig, NotInCorpus
from trainer.experiments import html_report
from trainer.experiments.corpus import Corpus, map_names
from trainer.experiments.readable import readable
from trainer.experiments.recipe import Recipe, names, read_recipe
from trainer.experiments.section import Section, show
from trainer.experiments.steps import Steps, alone
from trainer.experiments.study import PRETRAINED, Findings, Study
from trainer.synthesis.synth import SynthConfig, synthesise
from trainer.versions import installed_versions, now

REPORT: Final = "report.html"
SMOKE_DATA: Final = SynthConfig(train=64, calib=32, test=32, steps=60)


def reproduce(
    protocols: Sequence[str],
    data: Path | None,
    out: Path,
    scale: ScaleName,
    *,
    test: Path | None = None,
    real: Sequence[str],
    stand_ins: Mapping[str, str],
    rows: Sequence[str] = (),
    pretrained: Mapping[str, Path] | None = None,
    fresh: bool,
    console: Console,
) -> tuple[Section, ...]:
    """Run experiments and write ``out/sections/*.json`` and ``out/report.html``; finished steps stay in ``out/steps``.

    Args:
        protocols: names of recipes, or TOML files; ``all`` stands for every recipe.
        data: the corpus, see ``Corpus.read``; None makes a small one (smoke only).
        out: the folder of results and of steps that later runs take over.
        scale: the size of the experiments.
        test: another data set to test on, in place of the corpus's own test images.
        real: the corpus's folders of photographs.
        stand_ins: the publication's names -> the corpus's generators, over the recipe's own maps.
        rows: the variants to run; empty for all.
        pretrained: ImageNet's weights by the network's name (``resnet50``), see ``trainer.models.pretrained``.
        fresh: run all steps anew.
        console: where progress goes.

    Raises:
        BadConfig: no such experiment; no data where the scale needs some; a stand-in that the corpus lacks, or for a
            generator that no publication has; a row that no experiment has; weights of an unknown network, or missing.
        NotInCorpus: the corpus lacks what the experiment needs (with several experiments, it is skipped and reported).
        DataError: the corpus cannot be used.
        OutputExists: a folder stands where the report should go.
        OutputUnwritable: results cannot be written to ``out``.
        FolderInUse: another run is writing to ``out``.
    """
    chosen = {name: read_recipe(name) for given in protocols for name in (names() if given == "all" else [given])}
    _check(chosen.values(), rows, stand_ins, pretrained or {})
    recipes = {name: recipe.only(rows) for name, recipe in chosen.items()}
    _check_output(out)
    with alone(out):
        root = _smoke_data(out, console) if data is None and scale == "smoke" else _given(data, scale)
        steps = Steps(out / "steps", lambda what: console.print(what, style="dim", highlight=False), fresh=fresh)
        corpus = readable(Corpus.read(root, real, test), steps, console)
        sections = []
        for number, (name, recipe) in enumerate(recipes.items(), start=1):
            console.print(Text.assemble((f"{number}/{len(recipes)} {name}", "bold"), f": {recipe.title}"))
            known = {key: value for key, value in stand_ins.items() if key in recipe.names}
            mapping = map_names(recipe.names, corpus, recipe.maps, known)
            try:
                section = _run(name, Study(recipe, scale, corpus, mapping, steps, out, console, pretrained))
            except NotInCorpus as error:
                if len(recipes) == 1:
                    raise
                console.print(f"skipped: {error}", style="red", highlight=False)
                continue
            _write_section(out, section)
            sections.append(section)
        if not sections:
            raise NotInCorpus(f"{corpus.root}: none of these experiments can be done on it")
        write_report(out)
        return tuple(sections)


def write_report(out: Path) -> Path:
    """Write the HTML report of all sections that are in ``out``, in the order of the protocols.

    Raises:
        BadConfig: see ``read_sections``.
        OutputExists: a folder stands where the report should go.
        OutputUnwritable: nothing can be written to ``out``.
    """
    sections = read_sections(out)
    path = out / REPORT
    check_new_file(path, force=True)
    staging = path.with_suffix(".part")
    staging.write_text(html_report.render(sections))
    staging.replace(path)
    return path


def read_sections(out: Path) -> tuple[Section, ...]:
    """The sections that runs have written to ``out``, in the order of the recipes.

    Raises:
        BadConfig: there are none, or of another version.
    """
    paths = sorted((out / "sections").glob("*.json"))
    if not paths:
        raise BadConfig(f"{out}: no sections here; run `genprint trainer reproduce` with this --out first")
    order = {name: number for number, name in enumerate(names())}
    try:
        sections = [Section.model_validate_json(read_regular(path, LARGE_FILE_BYTES)) for path in paths]
    except ValueError as error:
        raise BadConfig(f"{out / 'sections'}: of another version; run `genprint trainer reproduce` again") from error
    return tuple(sorted(sections, key=lambda s: (order.get(s.protocol, len(order)), s.protocol, s.tested_on)))


def as_json(sections: Sequence[Section]) -> str:
    """All sections as JSON, without figures."""
    return json.dumps([section.without_figures().model_dump(mode="json") for section in sections], indent=1)


def show_all(sections: Sequence[Section], console: Console) -> None:
    """Print all sections."""
    for section in sections:
        show(section, console)


def listing() -> Table:
    """A table of all experiments."""
    table = Table("name", "experiment", "source")
    for name in names():
        recipe = read_recipe(name)
        table.add_row(name, recipe.title, recipe.source)
    return table


def _run(name: str, study: Study) -> Section:
    recipe: Recipe = study.recipe
    started = monotonic()
    module = f"trainer.protocols.{recipe.protocol}"
    if find_spec(module) is None:
        raise BadConfig(f"{name}: protocol: no experiment {recipe.protocol!r}")
    found: Findings = import_module(module).run(study)
    return Section(
        protocol=Path(name).stem,
        title=recipe.title,
        source=recipe.source,
        question=recipe.question,
        scale=study.scale_name,
        settings=study.scale.model_dump(mode="json"),
        corpus=study.corpus.name,
        tested_on=study.corpus.tested_on,
        fingerprint=study.corpus.fingerprint,
        mapping=dict(study.mapping),
        tables=found.tables,
        figures=found.figures,
        remarks=(*found.remarks, *study.remarks(), *study.corpus.remarks),
        seconds=monotonic() - started,
        versions=installed_versions(),
        created_at=now(),
    )


def _check(
    recipes: Collection[Recipe], rows: Collection[str], stand_ins: Collection[str], pretrained: Mapping[str, Path]
) -> None:
    """Refuse names that none of the experiments knows."""
    known = list(dict.fromkeys(name for recipe in recipes for name in recipe.names))
    if unknown := next((name for name in stand_ins if name not in known), None):
        raise BadConfig(f"--map {unknown}: the publications have only {', '.join(known) or 'generators of the corpus'}")
    there = list(dict.fromkeys(row for recipe in recipes for row in recipe.rows))
    if missing := next((row for row in rows if row not in there), None):
        raise BadConfig(f"--only {missing}: no such row; there are {', '.join(there) or 'none to choose from'}")
    for network, file in pretrained.items():
        if network not in PRETRAINED:
            raise BadConfig(f"--pretrained {network}: no such network, only {', '.join(PRETRAINED)}")
        if not file.is_file():
            raise BadConfig(f"--pretrained {network}={file}: no such file")


def _check_output(out: Path) -> None:
    for folder in ("steps", "sets", "sections"):
        check_writable(out / folder / "file")
    check_new_file(out / REPORT, force=True)


def _given(data: Path | None, scale: ScaleName) -> Path:
    if data is None:
        raise BadConfig(f"--data: scale {scale!r} needs a corpus; only 'smoke' makes its own")
    return data


def _smoke_data(out: Path, console: Console) -> Path:
    """A folder with a few images of each of `synth`'s generators, made once."""
    folder = out / "smoke-data"
    if not (folder / "synth.json").exists():
        console.print("making a small corpus", style="dim")
        synthesise(folder, None, SMOKE_DATA, force=True)
    return folder


def _write_section(out: Path, section: Section) -> None:
    tested = f" on {section.tested_on}" if section.tested_on else ""
    path = out / "sections" / f"{section.protocol}{tested}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".part")
    staging.write_text(section.model_dump_json(indent=1))
    staging.replace(path)
