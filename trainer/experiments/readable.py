"""Leaves out the images of a corpus that cannot be read, before the work, so that no broken file ends it late."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from bundle.preprocess import decode
from trainer.data.entries import Extent
from trainer.data.folder import UnreadableImage, read_each
from trainer.errors import TooManyUnreadable
from trainer.experiments.corpus import Corpus, CorpusImage
from trainer.experiments.steps import Steps

MOST: Final = 20
"""More unreadable images than this are an error, as in training."""


class _Read(BaseModel):
    """What reading found, for each image in the corpus's order."""

    model_config = ConfigDict(frozen=True)

    sides: tuple[int, ...]
    """The shorter side, in pixels; 0 if the image cannot be read."""
    broken: tuple[str, ...]
    """Path and reason of each that cannot be read, for people."""


def readable(corpus: Corpus, steps: Steps, console: Console) -> Corpus:
    """The corpus without its unreadable images, which are reported, and with the sides of the others.

    Raises:
        TooManyUnreadable: there are more than ``MOST``; names the first.
    """
    changed = [_changed(image) for image in corpus.images]  # a file may be repaired without a change of its size
    inputs = {"what": f"{len(corpus.images)} images", "files": corpus.fingerprint, "changed": changed}
    read = steps.value("read", inputs, _Read, lambda: _read_all(corpus.images, console))
    if len(read.broken) > MOST:
        raise TooManyUnreadable(
            f"{corpus.root}: more than {MOST} unreadable images, first {'; '.join(read.broken[:5])}"
        )
    for line in read.broken:
        console.print(f"skipped {line}", style="yellow", highlight=False)
    kept = [(p, side) for p, side in zip(corpus.images, read.sides, strict=True) if side]
    remarks = (f"Images that cannot be read, left out: {', '.join(read.broken)}.",) if read.broken else ()
    return replace(
        corpus,
        images=tuple(image for image, _ in kept),
        remarks=(*corpus.remarks, *remarks),
        sides={image.extent: side for image, side in kept},
    )


def _changed(image: CorpusImage) -> int:
    try:
        return image.extent.file.stat().st_mtime_ns
    except OSError:
        return -1


def _read_all(images: Sequence[CorpusImage], console: Console) -> _Read:
    found = read_each([(p.extent.file, p.extent) for p in images], _side)
    answers = list(
        track(found, "reading", len(images), console=console, transient=True, disable=not console.is_terminal)
    )
    return _Read(
        sides=tuple(0 if isinstance(answer, UnreadableImage) else answer for answer in answers),
        broken=tuple(f"{answer.path}: {answer.reason}" for answer in answers if isinstance(answer, UnreadableImage)),
    )


def _side(extent: Extent) -> int:
    return min(decode(extent.read()).image.size)
