"""WebDataset's shards: tar files whose successive members make samples, an image and its metadata.

A sample's class is its ``.cls``, a key of its ``.json`` (``label``, ``cls``, ``class``) or its folder: the first that
exists; its split is a word in the shard's name (``train-0001.tar``, ``train/0001.tar``).
"""

import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path, PurePosixPath

from bundle.documents import parse_json
from bundle.files import SMALL_FILE_BYTES, open_regular
from bundle.text import brief
from trainer.data.entries import IMAGES, SPLITS, Entry, Extent, is_image, is_label
from trainer.errors import DataMalformed


def in_shards(root: Path, shards: Sequence[Path]) -> Iterator[Entry]:
    """List the images of these shards, named relative to ``root``, in their order; nothing is decoded.

    Raises:
        DataMalformed: one is no plain tar file, or a sample in it has no label or several images.
    """
    for shard in shards:
        try:
            with open_shard(root / shard) as tar:
                yield from _samples(root, shard, tar)
        except tarfile.ReadError as error:
            reason = "it is empty" if str(error) == "empty file" else f"{error} (a compressed one: unpack it)"
            raise DataMalformed(f"{root / shard}: no plain tar file: {reason}") from error
        except (OSError, ValueError, RecursionError, tarfile.TarError) as error:  # as its headers lie
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise DataMalformed(f"{root / shard}: no plain tar file: {reason}") from error


@contextmanager
def open_shard(shard: Path) -> Iterator[tarfile.TarFile]:
    """Open a plain tar file.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        tarfile.TarError: it is no plain tar file.
    """
    with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield tar


def _samples(root: Path, shard: Path, tar: tarfile.TarFile) -> Iterator[Entry]:
    """List images by WebDataset's rule: successive members whose names agree up to the first dot are a sample."""
    split = next((SPLITS[word] for word in re.split(r"[-_./]", shard.as_posix()) if word in SPLITS), None)
    for key, members in groupby(_members(root / shard, tar), sample_key):
        parts = [(member_name(member)[len(key) + 1 :].lower(), member) for member in members]
        image = _only_image(root / shard, key, parts)
        if image is None:
            continue
        label = _label(root / shard, tar, key, dict(parts))
        if label is None:
            raise DataMalformed(f"{root / shard}: {key} has no label: no .cls, no label in its .json, no folder")
        yield Entry(shard / member_name(image), Extent(root / shard, image.offset_data, image.size), label, split)


def member_name(member: tarfile.TarInfo) -> str:
    """Name of a member without ``./`` or ``/`` before it."""
    return posixpath.normpath(member.name).lstrip("/")


def sample_key(member: tarfile.TarInfo) -> str:
    """Common part of the names of a sample's members: folder, and name up to the first dot."""
    folder, slash, base = member_name(member).rpartition("/")
    return folder + slash + base.partition(".")[0]


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files of a shard; names that begin with a dot are ignored."""
    for member in tar:
        path = PurePosixPath(member_name(member))
        if any(name.startswith(".") for name in path.parts if name != ".."):
            continue
        if (member.issym() or member.islnk()) and is_image(path):
            raise DataMalformed(f"{shard}: {path} is a link; pack files (tar --dereference --hard-dereference)")
        if member.isfile():
            yield member


def _only_image(shard: Path, key: str, parts: Sequence[tuple[str, tarfile.TarInfo]]) -> tarfile.TarInfo | None:
    """Member that ends in an image's suffix alone, or else one that ends in it after others (``.mask.png``)."""
    images = [(end, member) for end, member in parts if end.rpartition(".")[2] in IMAGES]
    chosen = [member for end, member in images if end in IMAGES] or [member for _, member in images]
    if len(chosen) > 1:
        names = ", ".join(member_name(member) for member in chosen[:5])
        raise DataMalformed(
            f"{shard}: the sample {key} has {len(chosen)} images ({names}), it may have one; samples are told apart by "
            "what stands before the first dot of their names"
        )
    return chosen[0] if chosen else None


def _label(shard: Path, tar: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> str | None:
    if "cls" in parts:
        try:
            text = _content(shard, tar, parts["cls"]).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataMalformed(f"{shard}: {parts['cls'].name}: not UTF-8: {error}") from error
        if text:
            return text
    if "json" in parts:
        try:
            described = parse_json(_content(shard, tar, parts["json"]))
        except ValueError as error:
            raise DataMalformed(f"{shard}: {parts['json'].name}: not JSON: {error}") from error
        if not isinstance(described, dict):
            raise DataMalformed(f"{shard}: {parts['json'].name}: needs an object, got {brief(described)}")
        named = [value for name in ("label", "cls", "class") if (value := described.get(name)) not in (None, "")]
        if named and not is_label(named[0]):
            raise DataMalformed(f"{shard}: {parts['json'].name}: {brief(named[0])} is no label (text or an integer)")
        if named:
            return str(named[0])
    return PurePosixPath(key).parent.name or None


def _content(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > SMALL_FILE_BYTES:
        raise DataMalformed(f"{shard}: {member.name}: more than {SMALL_FILE_BYTES} bytes")
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    return file.read()
