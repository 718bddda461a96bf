"""Records of a run beside its inputs: the installed versions, and the time."""

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from bundle.preprocess import decoder_version


def installed_versions() -> dict[str, str]:
    """Versions of the packages and decoders that a run's figures depend on."""
    versions = {"torch": torch.__version__, "decoder": decoder_version()}
    for package in ("genprint", "torchvision", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "not installed"
    return versions


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
