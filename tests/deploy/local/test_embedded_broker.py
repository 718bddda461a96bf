from pathlib import Path

import pytest

from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.errors import UnavailableError
from deploy.local.topics import create_topics

pytestmark = pytest.mark.integration


def test_the_port_is_the_one_asked_for(tmp_path: Path) -> None:
    asked = EmbeddedBroker(tmp_path / "log").port
    with EmbeddedBroker(tmp_path / "log", port=asked) as broker:
        assert broker.bootstrap == f"127.0.0.1:{asked}"
        create_topics(broker.bootstrap, {"images": 2})  # metadata advertises the same address


def test_a_missing_binary_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/does/not/exist")
    with pytest.raises(UnavailableError, match="/does/not/exist"):
        EmbeddedBroker(tmp_path / "log").start()
