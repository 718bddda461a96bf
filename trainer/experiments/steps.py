"""What was worked out stays worked out: each step's result is a file, named by a hash of all that it depends on.

An interrupted run goes on where it stopped, and protocols share what they have in common (a network that one trained,
another only loads). Files appear whole or not at all.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainer.errors import FolderInUse

M = TypeVar("M", bound=BaseModel)


class Steps:
    """The results in a folder.

    Args:
        folder: made where it is missing.
        say: told of each step before it is worked out.
        fresh: work everything out anew (once; what this object has made it trusts).
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None, *, fresh: bool = False) -> None:
        self._folder, self._say, self._fresh = folder, say, fresh
        self._made: set[Path] = set()

    def value(self, kind: str, inputs: Mapping[str, Any], model: type[M], compute: Callable[[], M]) -> M:
        """A pydantic value; ``inputs`` is JSON, and all that ``compute`` depends on."""
        path = self._path(kind, inputs, "json")
        if self._usable(path):
            try:
                return model.model_validate(json.loads(path.read_text())["value"])
            except (ValidationError, ValueError, KeyError):
                self._say(f"{path.name} is of another version")
        self._say(f"{kind} {self._brief(inputs)}")
        found = compute()
        document = {"kind": kind, "inputs": inputs, "value": found.model_dump(mode="json")}
        self._write(path, lambda staging: staging.write_text(json.dumps(document, indent=1)))
        return found

    def file(self, kind: str, inputs: Mapping[str, Any], suffix: str, make: Callable[[Path], object]) -> Path:
        """A file that ``make`` writes at the path it is given; its inputs stand in a JSON file beside it."""
        path = self._path(kind, inputs, suffix)
        if not self._usable(path):
            self._say(f"{kind} {self._brief(inputs)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".inputs.json").write_text(json.dumps(inputs, indent=1))
            self._write(path, make)
        return path

    def _usable(self, path: Path) -> bool:
        return path.exists() and (not self._fresh or path in self._made)

    def _path(self, kind: str, inputs: Mapping[str, Any], suffix: str) -> Path:
        return self._folder / f"{kind}-{key_of(inputs)}.{suffix}"

    def _write(self, path: Path, make: Callable[[Path], object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers look at the suffix, so it stays.
        staging = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
        try:
            make(staging)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
        self._made.add(path)

    @staticmethod
    def _brief(inputs: Mapping[str, Any]) -> str:
        return str(inputs.get("what", ""))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder for as long as it lasts.

    Two that train one network at once make two: equally good ones, but what one says of images means nothing beside
    what the other says, and steps would mix them.

    Raises:
        FolderInUse: another is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(
                f"{folder}: another run is at work in it; wait for its end or take another --out"
            ) from error
        yield


def key_of(inputs: Mapping[str, Any]) -> str:
    """sha256 (hex, 16 digits) of the canonical JSON; ``what`` is for people and does not count."""
    counted = {name: value for name, value in inputs.items() if name != "what"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]
