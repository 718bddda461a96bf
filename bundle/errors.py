"""Errors of bundles and of images.

::

    BundleError                 the bundle cannot be served; start-up stops
    ├── BundleMissing           no directory, or no manifest in it
    ├── ManifestInvalid         the manifest does not follow a known version of the schema
    ├── BundleCorrupt           a file is missing, differs from the manifest's sha256, or is not what the manifest says
    ├── DecoderDrift            this machine decodes the probe images to other pixels than at export
    └── GraphDrift              the pixels are the same, but the graph gives other outputs here

    ImageError                  the image itself is at fault: rejected, never retried
    ├── EmptyImage              no bytes
    ├── ImageTooLarge           more bytes than the ceiling
    ├── TooManyPixels           more pixels than the ceiling
    ├── UnsupportedFormat       not one of ``containers.FORMATS``, or a kind of it that is not judged
    └── BrokenImage             an allowed format whose pixels cannot be decoded
"""

from typing import ClassVar, Final

EXPORT_AGAIN: Final = "export the bundle again"
"""What helps against a bundle that nobody can use."""


class BundleError(Exception):
    """The bundle cannot be used; the message names the file and what is wrong with it."""


class BundleMissing(BundleError):
    """There is no bundle at the given path."""


class ManifestInvalid(BundleError):
    """``manifest.json`` does not follow the schema."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, its bytes have changed, or it does not hold what the manifest says."""


class DecoderDrift(BundleError):
    """A probe image decodes to other pixels than at export: another Pillow, libjpeg, libwebp or decoding policy."""


class GraphDrift(BundleError):
    """A probe image gives other outputs than at export by more than the bundle's tolerance."""


class ImageError(Exception):
    """The image itself is at fault, so that no model can look at it.

    ``reason`` is the stable label on dead letters and metrics.
    """

    reason: ClassVar[str]


class EmptyImage(ImageError):
    """The image has no bytes."""

    reason = "empty"


class ImageTooLarge(ImageError):
    """The image has more encoded bytes than allowed."""

    reason = "too_many_bytes"


class TooManyPixels(ImageError):
    """The image has more pixels than allowed, by its header, before anything is decoded."""

    reason = "too_many_pixels"


class UnsupportedFormat(ImageError):
    """The bytes are no image, or an image of a format that is not allowed."""

    reason = "unsupported_format"


class BrokenImage(ImageError):
    """The data of an allowed format is truncated or damaged."""

    reason = "broken_image"
