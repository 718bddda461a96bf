"""What the stages want of decoding: from encoded bytes to the views of every model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bundle.errors import ImageError
from bundle.preprocess import ImageFacts
from bundle.views import Views

BATCH_IMAGES: Final = 4
"""Small images that are decoded in one go: for more there is little to gain."""
BATCH_IMAGE_BYTES: Final = 64 * 1024
"""Most encoded bytes of each of them. What decoding takes beside the pixels counts in small images alone."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready for inference: views by model name, ``uint8[V, size, size, 3]`` each (V may be 0)."""

    facts: ImageFacts
    views: dict[str, Views]


class Decoders(Protocol):
    """Turns encoded images into views; ``worker.images.decoder_pool`` does it in processes of their own."""

    @property
    def held_bytes(self) -> int:
        """Bytes that are reserved for decoding now."""

    @property
    def waiting(self) -> int:
        """Decoders that do not work, and that no new one could replace yet; while there are any, images wait."""

    @property
    def unprotected(self) -> int:
        """Decoders that kept rights which decoding does not need."""

    def start(self) -> None:
        """Begin.

        Raises:
            worker.errors.StartupError: no decoder works here.
        """

    def prepare(self, data: bytes) -> PreparedImage:
        """Decode once and cut the views of every model; models with the same preprocessing share them.

        Called by ``images.decode_processes`` threads, like ``prepare_small``.

        Raises:
            bundle.errors.ImageError: the image's own fault.
            worker.errors.DecoderError: decoders end on this image.
        """

    def prepare_small(self, images: Sequence[bytes]) -> list[PreparedImage | ImageError | None]:
        """One answer for each image, in order: what ``prepare`` returns or raises.

        None where an image has to be prepared alone: it takes much memory, or a decoder ended on one of them.

        Args:
            images: up to ``BATCH_IMAGES`` of at most ``BATCH_IMAGE_BYTES`` each.
        """

    def close(self) -> None:
        """End; images being decoded raise a ``DecoderError``. Safe to call twice."""
