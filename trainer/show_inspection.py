"""An inspection as tables for people."""

from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from trainer.duplicates import Duplicates
from trainer.inspection import Inspection
from trainer.separation import Separation


def show(inspection: Inspection, console: Console) -> None:
    """Counts, containers, doubles, what metadata tell, and warnings last, where they are seen."""
    console.print(Group(*_parts(inspection)))


def _parts(inspection: Inspection) -> Iterator[RenderableType]:
    yield Text(f"{inspection.root}: {inspection.images} images, layout {inspection.layout}")
    counts = Table("class", *(split or "images" for split in inspection.splits), "unreadable")
    for facts in inspection.classes:
        numbers = (str(facts.images.get(split, 0)) for split in inspection.splits)
        counts.add_row(facts.name, *numbers, str(facts.unreadable or ""))
    yield counts
    files = Table(Column("class", no_wrap=True), "format", "mode", "pixels", "bytes", "JPEG quality", "colour", "tags")
    for facts in inspection.classes:
        tags = {"EXIF": facts.exif, "profile": facts.icc}
        files.add_row(
            facts.name,
            _shares(facts.formats),
            _shares(facts.modes),
            _shares(facts.sizes),
            str(facts.bytes[1]),
            _shares(facts.qualities),
            _shares(facts.subsamplings),
            "\n".join(f"{name} {count}" for name, count in tags.items() if count),
        )
    files.caption = "bytes: the median; ~ quality of the nearest libjpeg tables"
    yield files
    yield _doubles(inspection)
    if inspection.metadata is not None:
        yield _separation(inspection.metadata)
    for warning in inspection.warnings:
        yield Text(f"warning: {warning}", style="yellow")


def _shares(counts: Mapping[str, int], most: int = 3) -> str:
    total = sum(counts.values())
    lines = [f"{name} {count / total:.0%}" if len(counts) > 1 else name for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        lines.append(f"and {len(counts) - most} more")
    return "\n".join(lines)


def _doubles(inspection: Inspection) -> Table:
    table = Table("images with a double", "in their class", "in another class", "in another split", title="Doubles")
    kinds: dict[str, Duplicates] = {
        "equal file": inspection.same_file,
        "equal pixels": inspection.same_pixels,
        "near duplicate": inspection.near,
    }
    for what, found in kinds.items():
        across = [f"{a} in {b}: {n}" for a, others in found.other_split.items() for b, n in others.items()]
        table.add_row(what, str(found.same_class), str(found.other_class), "\n".join(across) or "0")
    return table


def _separation(known: Separation) -> Table:
    title = "What metadata alone tell of the class"
    table = Table("metadata", "balanced accuracy", title=title)
    table.add_row("chance", f"{known.chance:.1%}")
    table.add_row("all", f"{known.balanced_accuracy:.1%}", style="bold")
    for group in known.groups:
        table.add_row(f"{group.name} alone", f"{group.balanced_accuracy:.1%}")
    real = "" if known.auroc_real is None else f"; real against generated {known.auroc_real:.3f}"
    table.caption = f"{known.images} images, 5-fold; AUROC {known.auroc:.3f}{real}; p {known.p_value:.3f}"
    return table
