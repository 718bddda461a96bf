"""What a test needs of the machine: elsewhere it is skipped with the reason, in CI it fails."""

import os

import pytest


def require(missing: str | None) -> None:
    """Go on if nothing is missing. In CI a skipped test would look like one that passed."""
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{missing} is missing")
    pytest.skip(f"{missing} is missing")
