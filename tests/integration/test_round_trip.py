"""Train, export, serve, read: the whole job with real processes, read back by a client written by others."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bundle.store import Bundle
from deploy.local.valkey import Valkey
from tests.integration.worker_process import Stream, WorkerProcess, worker_command

pytestmark = pytest.mark.integration

BAD: list[tuple[bytes | None, dict[str, bytes], str]] = [
    (b"", {"content-type": b"image/png"}, "empty"),
    (None, {"content-type": b"image/png"}, "empty_event"),
    (b"\x89PNG\r\n\x1a\n garbage", {"content-type": b"image/png"}, "broken_image"),
    (b"hello", {"content-type": b"text/plain"}, "unknown_content_type"),
    (b'{"uri": "http://10.0.0.1/x?key=secret"}', {"content-type": b"application/json"}, "source_forbidden"),
    (b'{"uri": "file:///etc/passwd"}', {"content-type": b"application/json"}, "source_forbidden"),
    (b'{"uri": ', {"content-type": b"application/json"}, "invalid_event"),
]


@pytest.fixture(params=["embedded", "apache"])
def stream(request: pytest.FixtureRequest) -> Stream:
    fixture = "embedded_broker" if request.param == "embedded" else "apache_kafka"
    return Stream(request.getfixturevalue(fixture).bootstrap)


@pytest.fixture
def delivery(request: pytest.FixtureRequest) -> str:
    # The embedded broker shows aborted transactions to read_committed readers.
    return "at_least_once" if "embedded" in request.node.name else "exactly_once"


def test_images_come_back_as_verdicts(
    stream: Stream, delivery: str, tiny_bundle: Bundle, tiny_data: Path, valkey: Valkey, tmp_path: Path
) -> None:
    environment = stream.environment(
        tiny_bundle.path,
        KAFKA__DELIVERY=delivery,
        REDIS__URL=valkey.url,
        REDIS__SALT=stream.prefix,
        FETCH__SOURCES=f"https://,{(tiny_data / 'test').as_uri()}",
    )
    images = sorted((tiny_data / "test").rglob("*.png"))
    with WorkerProcess(environment, tmp_path / "worker.log") as worker:
        for turn in (1, 2):
            sent = worker_command("produce", str(tiny_data / "test"), "--kind", "both", environment=environment)
            assert sent.returncode == 0, sent.stderr
            stream.answers(len(images) * turn)
        for value, headers, _reason in BAD:
            stream.produce(value, headers, key=b"bad")
        stream.flush()
        found = stream.answers(2 * len(images) + len(BAD))
        _, metrics = worker.http("/metrics")
        assert worker.http("/live") == (200, "ok\n")
        pid = worker.pid
    assert pid is not None
    check_verdicts(found["verdicts"], images, tiny_bundle)
    check_dead_letters(found["dead"], stream)
    assert f'genprint_rejects_total{{reason="source_forbidden"}} {2.0}' in metrics
    assert f'genprint_events_total{{outcome="verdict"}} {2.0 * len(images)}' in metrics
    log = worker.logged()
    assert log[-1]["event"] == "stopped"
    assert log[-1]["dropped"] == 0
    assert "secret" not in worker.log_path.read_text()


def check_verdicts(messages: list[Any], images: list[Path], bundle: Bundle) -> None:
    schema = json.loads(Path("worker/schemas/verdict.v1.json").read_text())
    verdicts = [json.loads(message.value()) for message in messages]
    for verdict, message in zip(verdicts, messages, strict=True):
        jsonschema.validate(verdict, schema)
        headers = dict(message.headers())
        assert headers["ce_id"] == verdict["verdict_id"].encode()
        assert headers["ce_type"] == b"genprint.verdict.v1"
        assert message.key() == verdict["event"]["subject"].encode()
        assert verdict["bundle"]["digest"] == bundle.digest
    assert len({verdict["verdict_id"] for verdict in verdicts}) == len(verdicts) == 2 * len(images)
    right = [v["generated"]["decision"] == truth(v) for v in verdicts]
    assert sum(right) / len(right) >= 0.9
    assert sum(verdict["cached"] for verdict in verdicts) >= len(images) * 0.9
    kinds = {verdict["image"]["uri"] is None for verdict in verdicts}
    assert kinds == {True, False}


def truth(verdict: dict[str, Any]) -> str:
    return "real" if verdict["event"]["subject"].startswith("real/") else "generated"


def check_dead_letters(messages: list[Any], stream: Stream) -> None:
    found = [(message.value() or b"", dict(message.headers())) for message in messages]
    assert len(found) == len(BAD)
    reasons = {(value, headers["genprint-reason"].decode()) for value, headers in found}
    assert reasons == {(value or b"", reason) for value, _, reason in BAD}
    assert all(headers["genprint-origin"].decode().startswith(stream.topic("images") + "/") for _, headers in found)
    assert all(b"secret" not in headers["genprint-detail"] for _, headers in found)


def test_killed_again_and_again_every_event_is_answered_exactly_once(
    apache_kafka: Any, tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    """Apache Kafka, exactly once, kill -9 in the middle: by origin, nothing lost and nothing twice."""
    stream, events = Stream(apache_kafka.bootstrap), 3000
    environment = stream.environment(
        tiny_bundle.path, KAFKA__INSTANCE_ID=stream.prefix, KAFKA__COMMIT_INTERVAL_S="0.05"
    )
    picture = next((tiny_data / "test" / "real").iterdir()).read_bytes()
    worker = WorkerProcess(environment, tmp_path / "worker.log")
    try:
        worker.start()
        for number in range(events):
            stream.produce(picture if number % 50 else b"broken", {"content-type": b"image/png"}, str(number).encode())
        stream.flush()
        for wanted in (events // 10, events // 3, events // 2):
            stream.answers(wanted)
            worker.kill()
            worker.start()
        found = stream.answers(events)
    finally:
        worker.stop()
    origins = [json.loads(message.value())["event"]["origin"] for message in found["verdicts"]]
    origins += [dict(message.headers())["genprint-origin"].decode() for message in found["dead"]]
    assert len(found["dead"]) == events / 50
    assert len(set(origins)) == events, "lost"
    assert len(origins) == events, "twice"
