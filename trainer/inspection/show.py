"""Prints an inspection as tables."""

from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from bundle.text import counted
from trainer.inspection.duplicates import Duplicates
from trainer.inspection.examine import Inspection
from trainer.inspection.separation import ClassifierScore, Separation


def show(inspection: Inspection, console: Console) -> None:
    """Print counts, formats, duplicates, what metadata tell, and warnings last."""
    console.print(Group(*_parts(inspection)))


def _parts(inspection: Inspection) -> Iterator[RenderableType]:
    yield Text(f"{inspection.root}: {counted(inspection.images, 'image')}, layout {inspection.layout}")
    counts = Table("class", *(Column(Text(split or "images")) for split in inspection.splits), "unreadable")
    for facts in inspection.classes:
        numbers = (str(facts.images.get(split, 0)) for split in inspection.splits)
        _add(counts, facts.name, *numbers, str(facts.unreadable or ""))
    yield counts
    files = Table(Column("class", no_wrap=True), "format", "mode", "pixels", "bytes", "JPEG quality", "colour", "tags")
    for facts in inspection.classes:
        tags = {"EXIF": facts.exif, "profile": facts.icc, "other": facts.other_tags} | facts.parts
        _add(
            files,
            facts.name,
            _shares(facts.formats),
            _shares(facts.modes),
            _shares(facts.sizes),
            str(facts.bytes[1]),
            _shares(facts.qualities),
            _shares(facts.subsamplings),
            "\n".join(f"{name} {count}" for name, count in tags.items() if count),
        )
    files.caption = (
        "bytes: the median; ~ quality of the nearest libjpeg tables; other tags: comments, text, XMP, resolution; "
        "then chunks and segments by name"
    )
    yield files
    yield _duplicates(inspection)
    if inspection.metadata is not None:
        yield _separation(inspection.metadata)
    for warning in inspection.warnings:
        yield Text(f"warning: {warning}", style="yellow")


def _add(table: Table, *cells: str) -> None:
    """Add a row of plain text, without markup."""
    table.add_row(*map(Text, cells))


def _shares(counts: Mapping[str, int], most: int = 3) -> str:
    total = sum(counts.values())
    lines = [f"{name} {count / total:.0%}" if len(counts) > 1 else name for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        lines.append(f"and {len(counts) - most} more")
    return "\n".join(lines)


def _duplicates(inspection: Inspection) -> Table:
    table = Table(
        "images with a duplicate", "in their class", "in another class", "in another split", title="Duplicates"
    )
    kinds: dict[str, Duplicates] = {
        "equal file": inspection.same_file,
        "equal pixels": inspection.same_pixels,
        "near duplicate": inspection.near,
    }
    for what, found in kinds.items():
        across = [f"{a} in {b}: {n}" for a, others in found.other_split.items() for b, n in others.items()]
        _add(table, what, str(found.same_class), str(found.other_class), "\n".join(across) or "0")
    return table


def _separation(known: Separation) -> Table:
    questions = known.questions
    table = Table("metadata", *questions, title="What metadata alone tell: balanced accuracy")
    table.add_row("chance", *(f"{answer.chance:.1%}" for answer in questions.values()))
    table.add_row("all", *(_score(answer.everything) for answer in questions.values()), style="bold")
    of_group = [{group.name: group for group in answer.groups} for answer in questions.values()]
    for name in of_group[0]:
        table.add_row(f"{name} alone", *(_score(groups[name]) for groups in of_group))
    table.add_row("AUROC of all", *(f"{answer.auroc:.3f}" for answer in questions.values()))
    table.caption = f"{known.images} images, half of them to train on; p of all tests together"
    return table


def _score(score: ClassifierScore) -> Text:
    return Text(f"{score.balanced_accuracy:.1%}, p {score.p_value:.3f}", style="yellow" if score.alarming else "")
