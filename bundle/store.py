"""Bundles on disk: written completely or not at all, and verified byte by byte before use."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bundle.errors import EXPORT_AGAIN, BundleCorrupt, BundleMissing, ManifestInvalid
from bundle.files import LARGE_FILE_BYTES, SMALL_FILE_BYTES, read_regular
from bundle.manifest import Manifest, Model
from bundle.probe import Probe
from bundle.templates import TemplateLibrary

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory: the bytes that were hashed are those that are used.

    Attributes:
        digest: sha256 (hex) of ``manifest.json``, which holds the sha256 of every file; the bundle's identity.
        files: the bytes of every file that the manifest names.
    """

    path: Path
    manifest: Manifest
    digest: str
    files: dict[str, bytes]
    templates: TemplateLibrary
    probe: Probe

    @property
    def library_version(self) -> str:
        """The template library as verdicts, metrics and logs name it: where it comes from, and its content address."""
        return f"bundle:{self.templates.version}"

    def graph(self, model: Model) -> bytes:
        """The ONNX file of ``model``."""
        return self.files[model.file]


def sha256(data: bytes) -> str:
    """Sha256 of the data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_bundle(out: Path, manifest: Manifest, files: dict[str, bytes], *, force: bool = False) -> Path:
    """Write a bundle to ``out``; ``{digest}`` in the path stands for the first 12 digits of its digest.

    The directory appears under its name only when every byte is on disk.

    Raises:
        FileExistsError: see ``check_free``.
    """
    text = (manifest.model_dump_json(indent=1) + "\n").encode()
    out = Path(str(out).replace("{digest}", sha256(text)[:12]))
    check_free(out, force=force)
    for name, digest in manifest.files.items():
        assert sha256(files[name]) == digest, name
    with whole_directory(out) as staging:
        for name, data in {**files, MANIFEST: text}.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    return out


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """An empty directory to fill, which replaces ``out`` at the end; after an error ``out`` is as it was.

    If ``out`` is a link, its target is replaced.
    """
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
        replace_directory(target, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_directory(out: Path, staging: Path) -> None:
    """Give ``staging`` the name ``out``; what was there before is removed afterwards, or put back if that fails.

    Both must lie in one directory. If ``out`` is a link, the link itself is replaced, not its target.
    """
    replaced = staging.with_name(staging.name + ".replaced")
    if os.path.lexists(out):
        out.rename(replaced)
    try:
        staging.rename(out)
    except OSError:
        if os.path.lexists(replaced):
            replaced.rename(out)
        raise
    _fsync_directory(out.parent)
    if replaced.is_dir() and not replaced.is_symlink():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.unlink(missing_ok=True)


def holds_working_directory(path: Path) -> bool:
    """Whether the path is the current directory or above it, so that it must not be replaced."""
    return Path.cwd().is_relative_to(path.resolve())


def check_free(out: Path, *, force: bool) -> None:
    """Check that ``write_bundle`` may write to ``out``.

    Raises:
        FileExistsError: ``out`` exists and ``force`` is not set or it is no bundle; or it is the current directory.
    """
    if holds_working_directory(out):
        raise FileExistsError(f"{out} is the current directory or above it; choose another place")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MANIFEST).exists():
            raise FileExistsError(f"{out} exists and is no bundle; choose another place")
        if not force:
            raise FileExistsError(f"{out} exists; choose another place or pass --force")


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleMissing: there is no bundle.
        ManifestInvalid: the manifest does not follow the schema; names the field.
        BundleCorrupt: a file is missing, has changed, or is not what the manifest says; names the file.
    """
    try:
        text = read_regular(path / MANIFEST, SMALL_FILE_BYTES)
    except OSError as error:
        raise BundleMissing(f"{path}: no bundle here ({MANIFEST} cannot be read: {error.strerror})") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestInvalid(f"{path / MANIFEST}: {where}: {first['msg']}{more}; {EXPORT_AGAIN}") from error
    files = {}
    for name, expected in manifest.files.items():
        try:
            files[name] = read_regular(path / name, LARGE_FILE_BYTES)
        except OSError as error:
            raise BundleCorrupt(f"{path / name}: cannot be read: {error.strerror}") from error
        if (actual := sha256(files[name])) != expected:
            raise BundleCorrupt(f"{path / name}: has changed: sha256 {actual[:12]}…, not {expected[:12]}… as declared")
    probe_images = {name: files[name] for name in manifest.probe.images}
    templates = TemplateLibrary.from_bytes(files[manifest.templates.file])
    if unknown := set(templates.labels) - {label.name for label in manifest.labels}:
        raise BundleCorrupt(
            f"{path / manifest.templates.file}: templates of unknown labels {sorted(unknown)}; {EXPORT_AGAIN}"
        )
    if templates.vectors.shape[1] != manifest.templates.dimension:
        raise BundleCorrupt(
            f"{path / manifest.templates.file}: vectors of dimension {templates.vectors.shape[1]}, "
            f"the manifest says {manifest.templates.dimension}; {EXPORT_AGAIN}"
        )
    return Bundle(
        path=path,
        manifest=manifest,
        digest=sha256(text),
        files=files,
        templates=templates,
        probe=Probe.from_bytes(probe_images, files[manifest.probe.file], manifest.models),
    )


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
