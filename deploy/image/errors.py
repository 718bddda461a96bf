"""What can go wrong with images.

ImageError
├── UnavailableError    this machine cannot build or run images; the message says what to do
└── FailedError         a program failed; the message ends with the tail of what it said
"""


class ImageError(RuntimeError):
    """Base of every error of this package."""


class UnavailableError(ImageError):
    """Not on this machine."""


class FailedError(ImageError):
    """A program that was started ended with an error."""
