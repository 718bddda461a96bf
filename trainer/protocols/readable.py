"""Which images of a corpus can be read: decoded once a corpus, so that no broken file ends an experiment at its end."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from bundle.errors import ImageError
from bundle.preprocess import decode
from trainer.errors import TooManyUnreadable
from trainer.protocols.corpus import Corpus, Picture
from trainer.protocols.steps import Steps

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
    found = track(_sides(pictures), "reading", len(pictures), console=console, transient=True)
    answers = list(found) if console.is_terminal else list(_sides(pictures))
    broken = (f"{p.extent.file}: {a}" for p, a in zip(pictures, answers, strict=True) if isinstance(a, str))
    return _Read(sides=tuple(a if isinstance(a, int) else 0 for a in answers), broken=tuple(broken))


def _sides(pictures: Sequence[Picture]) -> Iterator[int | str]:
    """The shorter side of each, or why it cannot be read; few are in flight at a time, decoded images are large."""

    def side(picture: Picture) -> int | str:
        try:
            return min(decode(picture.extent.read()).image.size)
        except (ImageError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), 64):
            yield from pool.map(side, pictures[start : start + 64])
