from pathlib import Path

import pytest
import redis

from deploy.local.errors import StartError
from deploy.local.valkey import Valkey

pytestmark = pytest.mark.integration


def test_it_answers_ping(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()


def test_by_default_it_is_a_bounded_cache_that_writes_nothing(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("maxmemory*")["maxmemory"] == str(256 * 1024 * 1024)
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"


def test_a_library_can_ask_for_no_eviction(tmp_path: Path) -> None:
    with Valkey(tmp_path / "log", eviction="noeviction") as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_a_refused_option_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)Valkey exited with 1.*all-of-them"):
        Valkey(tmp_path / "log", eviction="all-of-them").start()
