"""Verdicts for files, without Kafka and Redis: the same bytes, models and policy as in the stream."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bundle.errors import ImageError
from bundle.store import Bundle, sha256
from bundle.text import printable
from worker.decision.attribution import Attributor, ScoredImage
from worker.errors import DecoderError, InferenceError, MemoryShort, SourceError
from worker.images.decoder_pool import DecoderPool
from worker.images.files import read_any_file
from worker.images.prepare import PreparedImage
from worker.messages.events import ImageEvent, InlineImage
from worker.messages.verdict import TimingPart, Verdict
from worker.scoring.engine import Engine, ImageScores
from worker.settings import Settings

Fault = ImageError | DecoderError | InferenceError | MemoryShort | SourceError | OSError
"""Why a file has no verdict."""


@dataclass(frozen=True, slots=True)
class Classified:
    """A file and its verdict, or the error instead of one."""

    path: Path
    verdict: Verdict | None
    error: Fault | None

    @property
    def reason(self) -> str:
        """The error as a short label; empty if there is a verdict."""
        return getattr(self.error, "reason", "unreadable") if self.error else ""


def classify(paths: Sequence[Path], settings: Settings, bundle: Bundle, engine: Engine) -> Iterator[Classified]:
    """Classify files in order, a batch at a time.

    Raises:
        StartupError: images cannot be decoded here.
        DeviceFailed: no later image would be judged.
    """
    attributor = Attributor(bundle, settings.policy, "classify")
    decoders = DecoderPool(bundle, settings)
    most = max(settings.fetch.max_bytes, settings.events.inline_max_bytes)

    def read(path: Path) -> tuple[str, PreparedImage, float] | Fault:
        started = time.monotonic()
        try:
            data = read_any_file(path, most)
            image = decoders.prepare(data)
        except MemoryError:
            return MemoryShort("no memory to read and decode it")
        except (ImageError, DecoderError, SourceError, OSError) as error:
            return error
        return sha256(data), image, time.monotonic() - started

    size = settings.inference.batch_size
    with contextlib.closing(decoders), ThreadPoolExecutor(settings.images.decode_processes) as reading:
        decoders.start()
        for start in range(0, len(paths), size):
            chunk = paths[start : start + size]
            read_images = list(reading.map(read, chunk))
            good = [found for found in read_images if isinstance(found, tuple)]
            began = time.monotonic()
            scores = iter(_scores(engine, [image for _, image, _ in good]) if good else [])
            inference_ms = (time.monotonic() - began) * 1000
            for path, found in zip(chunk, read_images, strict=True):
                if not isinstance(found, tuple):
                    yield Classified(path, None, found)
                    continue
                answer = next(scores)
                if not isinstance(answer, ImageScores):
                    yield Classified(path, None, answer)
                    continue
                digest, image, decode_s = found
                decode_ms = decode_s * 1000
                timing = TimingPart(
                    queue=0,
                    fetch=0,
                    decode=round(decode_ms, 3),
                    inference=round(inference_ms, 3),
                    total=round(decode_ms + inference_ms, 3),
                )
                scored = ScoredImage(digest, image.facts, answer, cached=False, timing=timing)
                yield Classified(path, attributor.verdict(_event(path), scored), None)


def _scores(engine: Engine, images: Sequence[PreparedImage]) -> list[ImageScores | InferenceError | MemoryShort]:
    """As ``Engine.score``; an image that memory is too short for is answered so, and the others are judged alone."""
    try:
        return [*engine.score(images)]
    except MemoryShort as error:
        if len(images) == 1:
            return [MemoryShort(str(error))]  # without the frames of the other, which hold arrays
    return [answer for image in images for answer in _scores(engine, [image])]


def _event(path: Path) -> ImageEvent:
    return ImageEvent(
        id=printable(path),
        source="urn:genprint:classify",
        subject=printable(path.name),
        origin=printable(path),
        attempt=1,
        attributes={},
        traceparent=None,
        content=InlineImage(b""),
    )
