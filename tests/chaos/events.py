"""The events of a run: seeded, each with the answer that it must get, worked out without the worker."""

import io
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from tests.worker.small_bundle import SIZE, encoded_image

_PICTURES = 400
_PICTURE_SIZE = 24

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Event:
    """One record and its answer: the logit of a verdict, or the reason of a dead letter."""

    value: bytes | None
    headers: Headers
    expected: float | str


class Pictures:
    """A few hundred different images; an event takes one of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: list[tuple[bytes, float]] = []
        for number in range(_PICTURES):
            brightness = self._random.choice((self._random.randint(20, 100), self._random.randint(160, 240)))
            data = encoded_image(brightness, size=_PICTURE_SIZE, seed=seed * _PICTURES + number)
            self._known.append((data, _logit(data)))

    def choose(self) -> tuple[bytes, float]:
        """One of them, and the logit that the small bundle gives it."""
        return self._random.choice(self._known)

    def choose_number(self) -> tuple[int, float]:
        """The number of one of them, and its logit."""
        number = self._random.randrange(len(self._known))
        return number, self._known[number][1]

    def __getitem__(self, number: int) -> bytes:
        return self._known[number][0]

    def inline(self, count: int) -> Iterator[Event]:
        """Events that carry their image; one in fifty is broken."""
        for number in range(count):
            yield self.broken() if number % 50 == 49 else self.good()

    def good(self) -> Event:
        """An event that carries its image."""
        data, logit = self.choose()
        return Event(data, (("content-type", b"image/png"),), logit)

    def broken(self) -> Event:
        """An event with half of an image."""
        data, _ = self.choose()
        return Event(data[: len(data) // 2], (("content-type", b"image/png"),), "broken_image")


def claim_check(uri: str, logit: float | str) -> Event:
    """An event that says where its image is."""
    return Event(json.dumps({"uri": uri}).encode(), (("content-type", b"application/json"),), logit)


def of_tenant(events: Iterable[Event], tenant: str) -> Iterator[Event]:
    """The same, as CloudEvents of a tenant."""
    for number, event in enumerate(events):
        own = {"ce_id": f"{tenant}-{number}", "ce_source": "urn:chaos", "ce_tenant": tenant}
        yield replace(event, headers=(*event.headers, *((name, text.encode()) for name, text in own.items())))


def _logit(data: bytes) -> float:
    """By the definition of the small bundle: the centre's mean, on a scale around the middle."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    start = (_PICTURE_SIZE - SIZE) // 2
    return float((pixels[start : start + SIZE, start : start + SIZE].mean() - 127.5) / 10)
