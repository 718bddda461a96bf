"""The probe: a few images with the pixels and outputs they must give, to tell a decoder drift from a graph drift.

The exporter makes it from real images in several encodings; the worker runs it at start-up, on the device that will
serve, before it takes any event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bundle.errors import EXPORT_AGAIN, BundleCorrupt, DecoderDrift, GraphDrift, ImageError
from bundle.manifest import Model, Tensor
from bundle.preprocess import DECODING_POLICY, decode, decoder_version, decoding_policy, make_views, pixels_digest
from bundle.templates import array_of, npz_arrays, npz_bytes
from bundle.views import Views

RunModel = Callable[[Model, Views], dict[str, npt.NDArray[np.float32]]]
"""A function that runs one model on ``uint8[M, H, W, 3]`` and returns its outputs by name, a row for each view."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Encoded images, and for each model the digest of their views and the outputs of its graph.

    Attributes:
        images: file name in the bundle -> encoded bytes.
        pixels: model name -> digests of the views, in the order of ``images``.
        outputs: ``"model/output"`` -> float32 rows for all views of all images, in order.
    """

    images: dict[str, bytes]
    pixels: dict[str, tuple[str, ...]]
    outputs: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def record(cls, images: dict[str, bytes], models: tuple[Model, ...], run: RunModel) -> Self:
        """Record the pixels and outputs that this machine gives for ``images``."""
        pixels, outputs = {}, {}
        for model in models:
            views = [make_views(decode(data), model.preprocessing) for data in images.values()]
            pixels[model.name] = tuple(pixels_digest(v) for v in views)
            for name, rows in run(model, np.concatenate(views)).items():
                outputs[f"{model.name}/{name}"] = rows
        return cls(images, pixels, outputs)

    def check(self, models: tuple[Model, ...], run: RunModel, tolerance: float, made_with: str) -> float:
        """Compare pixels and outputs with the recorded ones; returns the largest error, ``|a - b| / (1 + |b|)``.

        Raises:
            DecoderDrift: an image decodes to other pixels, or not at all; ``made_with`` is the decoder at export.
            GraphDrift: an output differs by more than ``tolerance``.
        """
        worst = 0.0
        for model in models:
            views = []
            for (name, data), expected in zip(self.images.items(), self.pixels[model.name], strict=True):
                try:
                    views.append(make_views(decode(data), model.preprocessing))
                except ImageError as fault:
                    raise DecoderDrift(f"{name} cannot be decoded: {fault} ({_decoders(made_with)})") from fault
                if pixels_digest(views[-1]) != expected:
                    raise DecoderDrift(f"{name} decodes to other pixels than at export ({_decoders(made_with)})")
            found = {f"{model.name}/{output}": rows for output, rows in run(model, np.concatenate(views)).items()}
            recorded = {name: self.outputs[name] for name in _outputs(model)}
            if missing := recorded.keys() - found.keys():
                raise GraphDrift(f"{model.file}: gives no {', '.join(sorted(missing))}")
            for output, rows in recorded.items():
                error = relative_error(found[output], rows)
                if not error <= tolerance:  # NaN fails too
                    raise GraphDrift(
                        f"{model.file}: {output} differs from the recorded one by {error:.3g}, tolerance {tolerance:g}"
                    )
                worst = max(worst, error)
        return worst

    def to_bytes(self) -> bytes:
        """The expected pixels and outputs (not the images) as an npz archive."""
        arrays: dict[str, npt.NDArray[Any]] = {f"pixels/{m}": np.array(d) for m, d in self.pixels.items()}
        return npz_bytes(arrays | {f"outputs/{name}": rows for name, rows in self.outputs.items()})

    @classmethod
    def from_bytes(cls, images: dict[str, bytes], expectations: bytes, models: tuple[Model, ...]) -> Self:
        """Read what ``to_bytes`` wrote of ``models``.

        Raises:
            BundleCorrupt: it cannot be read, or the pixels or outputs of a model are not in it.
        """
        try:
            arrays = npz_arrays(expectations)
            pixels = {m.name: _recorded(arrays, f"pixels/{m.name}", "U", 1) for m in models}
            outputs = {
                name: _recorded(arrays, f"outputs/{name}", "f", len(tensor.shape)).astype(np.float32)
                for model in models
                for name, tensor in _outputs(model).items()
            }
        except ValueError as error:
            raise BundleCorrupt(f"the probe's expectations cannot be read: {error}; {EXPORT_AGAIN}") from error
        for name, digests in pixels.items():
            if len(digests) != len(images):
                raise BundleCorrupt(
                    f"the probe's pixels/{name} are {len(digests)} digests of {len(images)} images; {EXPORT_AGAIN}"
                )
        return cls(images, {name: tuple(map(str, digests)) for name, digests in pixels.items()}, outputs)


def _outputs(model: Model) -> dict[str, Tensor]:
    """The model's outputs, by the name that the probe gives them."""
    return {f"{model.name}/{role}": tensor for role, tensor in model.outputs.items()}


def _recorded(arrays: Mapping[str, npt.NDArray[Any]], name: str, kind: str, axes: int) -> npt.NDArray[Any]:
    """As ``array_of``, and not empty: with nothing to compare, no drift would be found."""
    found = array_of(arrays, name, kind, axes)
    if found.nbytes == 0:
        raise ValueError(f"{name} is empty")
    return found


def _decoders(made_with: str) -> str:
    """The decoder at export and here, and whether Genprint's own policy changed between them."""
    then, here = decoding_policy(made_with), DECODING_POLICY
    changed = "" if then == here else f"; Genprint's decoding policy changed from {then} to {here}: export again"
    return f"{made_with} then, {decoder_version()} here{changed}"


def relative_error(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest ``|a - b| / (1 + |b|)``; infinite where shapes differ, NaN where an output is no finite number."""
    if actual.shape != expected.shape:
        return float("inf")
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("nan")
    return float(np.max(np.abs(actual - expected) / (1 + np.abs(expected)), initial=0.0))
