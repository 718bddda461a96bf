"""Decoding in the process itself: what tests of other parts use, and what benchmarks compare with."""

from collections.abc import Sequence
from dataclasses import dataclass

from bundle.errors import ImageError
from bundle.manifest import Model
from bundle.preprocess import Limits, decode, make_views
from worker.images.prepare import PreparedImage

_LIMITS = Limits()


@dataclass(frozen=True)
class InProcess:
    """``Decoders`` without processes of their own."""

    models: tuple[Model, ...]
    limits: Limits = _LIMITS
    held_bytes: int = 0
    waiting: int = 0
    unprotected: int = 0

    def start(self) -> None:
        """See ``Decoders``."""

    def close(self) -> None:
        """See ``Decoders``."""

    def prepare(self, data: bytes) -> PreparedImage:
        """See ``Decoders``."""
        decoded = decode(data, self.limits)
        views = {each: make_views(decoded, each) for each in {model.preprocessing for model in self.models}}
        return PreparedImage(decoded.facts, {model.name: views[model.preprocessing] for model in self.models})

    def prepare_small(self, images: Sequence[bytes]) -> list[PreparedImage | ImageError | None]:
        """See ``Decoders``."""
        found: list[PreparedImage | ImageError | None] = []
        for data in images:
            try:
                found.append(self.prepare(data))
            except ImageError as error:
                found.append(error)
        return found
