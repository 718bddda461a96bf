"""Which images of a corpus can be read: decoded once a corpus, so that no broken file ends an experiment at its end."""

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
from trainer.experiments.corpus import Corpus, Picture
from trainer.experiments.steps import Steps

MOST: Final = 20
"""Unreadable images that are left out before it is an error; as in training."""


class _Read(BaseModel):
    """Of each picture, in the corpus's order."""

    model_config = ConfigDict(frozen=True)

    sides: tuple[int, ...]
    """The shorter side, in pixels; 0 of one that cannot be read."""
    broken: tuple[str, ...]
    """What is wrong with those, for people."""


def readable(corpus: Corpus, steps: Steps, console: Console) -> Corpus:
    """The corpus without images that cannot be read, which are said, and with the sides of the others.

    Raises:
        TooManyUnreadable: names the first of them.
    """
    changed = [_changed(picture) for picture in corpus.pictures]  # a file may be mended without a change of its size
    inputs = {"what": f"{len(corpus.pictures)} images", "files": corpus.fingerprint, "changed": changed}
    read = steps.value("read", inputs, _Read, lambda: _read_all(corpus.pictures, console))
    if len(read.broken) > MOST:
        raise TooManyUnreadable(
            f"{corpus.root}: more than {MOST} unreadable images, first {'; '.join(read.broken[:5])}"
        )
    for line in read.broken:
        console.print(f"skipped {line}", style="yellow", highlight=False)
    kept = [(p, side) for p, side in zip(corpus.pictures, read.sides, strict=True) if side]
    remarks = (f"Images that cannot be read, left out: {', '.join(read.broken)}.",) if read.broken else ()
    return replace(
        corpus,
        pictures=tuple(picture for picture, _ in kept),
        remarks=(*corpus.remarks, *remarks),
        sides={picture.extent: side for picture, side in kept},
    )


def _changed(picture: Picture) -> int:
    try:
        return picture.extent.file.stat().st_mtime_ns
    except OSError:
        return -1


def _read_all(pictures: Sequence[Picture], console: Console) -> _Read:
    found = read_each([(p.extent.file, p.extent) for p in pictures], _side)
    answers = list(
        track(found, "reading", len(pictures), console=console, transient=True, disable=not console.is_terminal)
    )
    return _Read(
        sides=tuple(0 if isinstance(answer, UnreadableImage) else answer for answer in answers),
        broken=tuple(f"{answer.path}: {answer.reason}" for answer in answers if isinstance(answer, UnreadableImage)),
    )


def _side(extent: Extent) -> int:
    return min(decode(extent.read()).image.size)
