"""Prometheus's own programs, for the tests of rules and dashboards."""

import os
from pathlib import Path

import pytest

from deploy.local.prometheus_programs import Programs, prometheus_programs, unavailable_reason


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Fetched if need be; a skip where they cannot be had, in CI a failure."""
    reason = unavailable_reason()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    return prometheus_programs()


@pytest.fixture(scope="session")
def promtool(programs: Programs) -> Path:
    """The checker of rules."""
    return programs.promtool
