"""Folders that are hard to walk."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def very_deep(top: Path, depth: int = 1200) -> Iterator[Path]:
    """The deepest of many folders, one in another; removed here, as ``shutil.rmtree`` (pytest, too) cannot do it."""
    top.mkdir()
    deepest = top
    for _ in range(depth):
        deepest /= "a"
        deepest.mkdir()
    try:
        yield deepest
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)
