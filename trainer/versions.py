"""What a run's numbers depend on beside its inputs, and when it was."""

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from bundle.preprocess import decoder_version


def installed_versions() -> dict[str, str]:
    """Of what a run's numbers depend on."""
    versions = {"torch": torch.__version__, "decoder": decoder_version()}
    for package in ("genprint", "torchvision", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "not installed"
    return versions


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
