"""From encoded bytes to views, within a budget of memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bundle.manifest import Model
from bundle.preprocess import EncodedImage, ImageFacts, Limits, Views, make_views


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready for inference: views by model name, ``uint8[V, size, size, 3]`` each (V may be 0)."""

    facts: ImageFacts
    views: dict[str, Views]


class MemoryBudget:
    """Bytes that may be decoded at a time; claims beyond it wait in turn.

    A claim above the whole budget is granted when nothing else is held, so that it never waits for ever.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._held = 0
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        """Bytes that are reserved now."""
        return self._held

    @contextmanager
    def reserve(self, wanted_bytes: int) -> Iterator[None]:
        """Hold ``wanted_bytes`` during the block."""
        claim = min(wanted_bytes, self._total)
        # The turn is held while waiting, so that small claims that come later do not starve a large one.
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._held + claim <= self._total)
            self._held += claim
        try:
            yield
        finally:
            with self._freed:
                self._held -= claim
                self._freed.notify_all()


def prepare(data: bytes, models: tuple[Model, ...], limits: Limits, budget: MemoryBudget) -> PreparedImage:
    """Decode once and cut the views of every model; models with the same preprocessing share them.

    Raises:
        bundle.errors.ImageError: the image's own fault.
    """
    encoded = EncodedImage(data, limits)
    with budget.reserve(encoded.decoded_bytes):
        decoded = encoded.decode()
        views: dict[str, Views] = {}
        for model in models:
            twin = next((m for m in models if m.name in views and m.preprocessing == model.preprocessing), None)
            views[model.name] = views[twin.name] if twin else make_views(decoded, model.preprocessing)
        return PreparedImage(encoded.facts, views)
