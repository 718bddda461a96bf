"""Steps whose results are kept: each result is a file, named by a hash of all inputs that it depends on.

So an interrupted run goes on where it stopped, and protocols share steps (a network that one has trained, another only
loads). Files appear whole or not at all.
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
    """The results of steps, in a folder.

    Args:
        folder: created if it is missing.
        say: called with a line on each step before it runs.
        fresh: run all steps anew, each once: results that this object has written are used again.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None, *, fresh: bool = False) -> None:
        self._folder, self._say, self._fresh = folder, say, fresh
        self._made: set[Path] = set()

    def value(self, kind: str, inputs: Mapping[str, Any], model: type[M], compute: Callable[[], M]) -> M:
        """A pydantic value, computed or read; ``inputs`` is JSON, and all that ``compute`` depends on."""
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
        """The path of a file that ``make`` writes at the path it is given; a JSON file beside it has the inputs."""
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
        # Some writers depend on the suffix, so it stays.
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
    """Keep other runs out of a folder while the context lasts.

    Two runs that train the same network at once would make two different ones, whose embeddings cannot be compared, and
    steps would mix their outputs.

    Raises:
        FolderInUse: another run is using it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"{folder}: another run is using it; wait for its end or choose another --out") from error
        yield


def key_of(inputs: Mapping[str, Any]) -> str:
    """Sha256 (hex, 16 digits) of the inputs' canonical JSON, without ``what``, which is for people."""
    counted = {name: value for name, value in inputs.items() if name != "what"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]
