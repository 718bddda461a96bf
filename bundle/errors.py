"""What can be wrong with a bundle, and what can be wrong with an image.

::

    BundleError                 the bundle cannot be served; start-up stops
    ├── BundleMissing           no directory, or no manifest in it
    ├── ManifestInvalid         the manifest is no manifest of a schema version we know
    ├── BundleCorrupt           a file is missing or differs from the sha256 the manifest gives
    ├── DecoderDrift            this machine decodes the probe images to other pixels than the exporter did
    └── GraphDrift              same pixels, but the graph gives other numbers here

    ImageError                  the image's own fault: rejected, never retried
    ├── EmptyImage              no bytes
    ├── ImageTooLarge           more bytes than the ceiling
    ├── TooManyPixels           more pixels than the ceiling
    ├── UnsupportedFormat       not one of ``preprocess.FORMATS``
    └── BrokenImage             an allowed format whose pixels cannot be decoded
"""

from typing import ClassVar


class BundleError(Exception):
    """The bundle cannot be used; the message names the file and what is wrong with it."""


class BundleMissing(BundleError):
    """There is no bundle at the given path."""


class ManifestInvalid(BundleError):
    """``manifest.json`` does not follow the schema."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing or its bytes have changed."""


class DecoderDrift(BundleError):
    """A probe image decodes to other pixels than at export: another Pillow, libjpeg or libwebp."""


class GraphDrift(BundleError):
    """A probe image gives other outputs than at export by more than the bundle's tolerance."""


class ImageError(Exception):
    """The image cannot be judged, and that is its own fault.

    ``reason`` is the stable label on dead letters and metrics.
    """

    reason: ClassVar[str]


class EmptyImage(ImageError):
    """No bytes at all."""

    reason = "empty"


class ImageTooLarge(ImageError):
    """More encoded bytes than allowed."""

    reason = "too_many_bytes"


class TooManyPixels(ImageError):
    """More pixels than allowed; found from the header, before anything is decoded."""

    reason = "too_many_pixels"


class UnsupportedFormat(ImageError):
    """The bytes are no image, or one of a format that is not on the allow-list."""

    reason = "unsupported_format"


class BrokenImage(ImageError):
    """Truncated or damaged data of an allowed format."""

    reason = "broken_image"
