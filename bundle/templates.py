"""The template library: which label explains an embedding, and how well (S1's Template Image Library).

Xuan et al. (WIFS 2019, section III-D) take the nearest of one template per class by L2 distance and so never reject.
Genprint adds a class-conditional conformal p-value: the share of calibration images of a label that lie at least as far
from their own template, ``p = (1 + #{calibration distance >= d}) / (n + 1)``. Below ``alpha`` the template does not
explain the image. With exchangeable images a label rejects at most ``alpha`` of its own.
"""

import hashlib
import io
import zipfile
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bundle.errors import EXPORT_AGAIN, BundleCorrupt
from bundle.scores import conformal_p_value

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label and the L2 distance to the nearest of its templates."""

    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class Match:
    """The labels nearest to one embedding, nearest first, and the p-value of the first."""

    candidates: tuple[Candidate, ...]
    p_value: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class TemplateLibrary:
    """Templates of L labels, and calibration distances by which p-values are computed.

    Attributes:
        labels: L names.
        vectors: ``float32[K, D]``, K >= L templates.
        label_of: ``int64[K]``, index into ``labels``.
        counts: ``int64[K]``, how many images each template is the mean of.
        calibration: per label, ``float32[n]`` ascending distances of held-out images to their own label's templates.
    """

    labels: tuple[str, ...]
    vectors: Floats
    label_of: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    calibration: tuple[Floats, ...]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.label_of) != len(self.vectors) or len(self.counts) != len(self.vectors):
            raise ValueError("vectors, label_of and counts must describe the same templates")
        if set(self.label_of.tolist()) != set(range(len(self.labels))):
            raise ValueError("every label needs a template, and every template a label")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ")
        if len(self.calibration) != len(self.labels):
            raise ValueError("every label needs calibration distances (possibly none)")
        for distances in self.calibration:
            if not (np.diff(distances, prepend=0) >= 0).all():  # NaN fails too
                raise ValueError("calibration distances must not be negative, and ascend")

    @property
    def version(self) -> str:
        """Content address: sha256 (hex, 16 digits) of everything that matching depends on."""
        parts = [*(label.encode() for label in self.labels), self.vectors.tobytes(), self.label_of.tobytes()]
        return hashlib.sha256(b"\0".join([*parts, *(d.tobytes() for d in self.calibration)])).hexdigest()[:16]

    def distances(self, embeddings: Floats) -> Floats:
        """L2 distance of each embedding to each label's nearest template: ``float32[N, D]`` -> ``float32[N, L]``.

        ``|e|^2 + |t|^2 - 2 e t`` for all pairs at once; in float64, so that what cancels is below float32's precision.

        >>> none = np.empty(0, np.float32)
        >>> templates = np.array([[0, 0], [3, 4]], np.float32)
        >>> library = TemplateLibrary(("real", "gan"), templates, np.array([0, 1]), np.array([9, 9]), (none, none))
        >>> library.distances(np.array([[0, 0], [3, 0]], np.float32)).tolist()
        [[0.0, 5.0], [3.0, 4.0]]
        """
        vectors, squares, starts = self._by_label
        rows = embeddings.astype(np.float64)
        apart = np.einsum("nd,nd->n", rows, rows)[:, None] + squares - 2 * (rows @ vectors.T)
        nearest: Floats64 = np.minimum.reduceat(apart, starts, axis=1).clip(min=0)
        return np.sqrt(nearest).astype(np.float32)

    @cached_property
    def _by_label(self) -> tuple[Floats64, Floats64, npt.NDArray[np.int64]]:
        """The vectors in the order of their labels, their squared lengths, and where each label begins."""
        order = np.argsort(self.label_of, kind="stable")
        vectors = self.vectors[order].astype(np.float64)
        starts = np.searchsorted(self.label_of[order], np.arange(len(self.labels)))
        return vectors, np.einsum("kd,kd->k", vectors, vectors), starts

    @cached_property
    def _calibration(self) -> list[list[float]]:
        return [distances.tolist() for distances in self.calibration]

    def match(self, embeddings: Floats, alpha: float, best: int = 5) -> list[Match]:
        """The nearest labels of each of ``float32[N, D]``, with the conformal p-value of the nearest.

        >>> templates = np.array([[0, 0], [3, 4]], np.float32)
        >>> own = np.array([1, 2, 3], np.float32)  # of each label's calibration images to their template
        >>> library = TemplateLibrary(("real", "gan"), templates, np.array([0, 1]), np.array([9, 9]), (own, own))
        >>> near, far = library.match(np.array([[3, 3], [3, 14]], np.float32), alpha=0.3)
        >>> near.candidates
        (Candidate(label='gan', distance=1.0), Candidate(label='real', distance=4.242640495300293))
        >>> (near.p_value, near.accepted), (far.p_value, far.accepted)
        ((1.0, True), (0.25, False))
        """
        distances = self.distances(embeddings)
        order = np.argsort(distances, axis=1, kind="stable")[:, :best]
        nearest = np.take_along_axis(distances, order, axis=1)
        return [self._match(*row, alpha) for row in zip(order.tolist(), nearest.tolist(), strict=True)]

    def _match(self, order: list[int], distances: list[float], alpha: float) -> Match:
        """The match of one embedding, from the indices of its nearest labels and their distances."""
        own = self._calibration[order[0]]
        as_far = len(own) - bisect_left(own, distances[0])
        p_value = conformal_p_value(as_far, len(own))
        candidates = tuple(Candidate(self.labels[i], distance) for i, distance in zip(order, distances, strict=True))
        return Match(candidates, p_value, p_value > alpha)

    def with_calibration(self, embeddings: dict[str, Floats]) -> Self:
        """The same templates, with calibration distances measured on held-out images: label -> ``float32[n, D]``."""
        distances = tuple(
            np.sort(self.distances(embeddings[label])[:, i]) if label in embeddings else np.empty(0, np.float32)
            for i, label in enumerate(self.labels)
        )
        return type(self)(self.labels, self.vectors, self.label_of, self.counts, distances)

    def to_bytes(self) -> bytes:
        """The library as the ``templates.npz`` of a bundle; the same library gives the same bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "labels": np.array(self.labels),
            "vectors": self.vectors,
            "label_of": self.label_of,
            "counts": self.counts,
            "calibration": np.concatenate(self.calibration).astype(np.float32),
            "calibration_counts": np.array([len(d) for d in self.calibration], np.int64),
        }
        return npz_bytes(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises:
            BundleCorrupt: the bytes are no template library.
        """
        try:
            return cls._from_arrays(npz_arrays(data))
        except ValueError as error:
            raise BundleCorrupt(f"templates.npz is no template library: {error}; {EXPORT_AGAIN}") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        labels = array_of(arrays, "labels", "U", 1)
        distances = array_of(arrays, "calibration", "f", 1)
        held_out = array_of(arrays, "calibration_counts", "i", 1).tolist()
        if len(labels) != len(held_out) or min(held_out, default=0) < 0 or sum(held_out) != len(distances):
            raise ValueError("calibration_counts must have a number for each label, and add up to those in calibration")
        return cls(
            labels=tuple(map(str, labels)),
            vectors=array_of(arrays, "vectors", "f", 2).astype(np.float32),
            label_of=array_of(arrays, "label_of", "i", 1).astype(np.int64),
            counts=array_of(arrays, "counts", "i", 1).astype(np.int64),
            calibration=tuple(np.split(distances.astype(np.float32), np.cumsum(held_out, dtype=np.int64)[:-1])),
        )


def npz_bytes(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """An npz archive with equal bytes for equal arrays (``np.savez`` would write the time of day)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def npz_arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz archive that ``npz_bytes`` wrote.

    Raises:
        ValueError: it is none, or holds objects (pickles), or an array that is larger than its file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("an array is compressed, so that it may be of any size")
            return {m.filename.removesuffix(".npy"): np.load(io.BytesIO(archive.read(m))) for m in members}
    except (MemoryError, OverflowError) as error:  # what the head of an array promises is allocated before it is read
        raise ValueError("an array is larger than its file") from error
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, TypeError, SyntaxError) as error:
        raise ValueError(f"no archive of arrays: {error}") from error


def array_of(arrays: Mapping[str, npt.NDArray[Any]], name: str, kind: str, axes: int) -> npt.NDArray[Any]:
    """One of the arrays.

    Args:
        arrays: by name.
        name: of the array.
        kind: its ``dtype.kind``: ``f`` for floating-point numbers (which are finite in float32), ``i`` or ``U`` (text).
        axes: how many it has.

    Raises:
        ValueError: it is not there, or another one than described.
    """
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    found = arrays[name]
    if found.dtype.kind != kind or found.ndim != axes:
        raise ValueError(f"{name} has another type or number of axes than expected")
    if kind == "f" and not (np.abs(found) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{name} must hold finite numbers")
    return found
