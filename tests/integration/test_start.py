"""What stops the start: one line that names what and where, exit status 2."""

import shutil
from pathlib import Path

import pytest

from bundle.store import Bundle
from deploy.local.embedded_broker import EmbeddedBroker
from deploy.local.ports import free_port
from tests.integration.worker_process import Stream, clean_environment, worker_command

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stream(embedded_broker: EmbeddedBroker) -> Stream:
    return Stream(embedded_broker.bootstrap)


def test_a_changed_byte_in_the_bundle(stream: Stream, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "b")
    graph = tmp_path / "b" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    refused(stream.environment(tmp_path / "b"), "model.onnx", "has changed")


def test_no_bundle(stream: Stream, tmp_path: Path) -> None:
    refused(stream.environment(tmp_path / "nowhere"), "nowhere", "no bundle here")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("KAFKA__DELIVERY", "twice", "kafka.delivery"),
        ("KAFKA__COMMIT_INTERVAL_S", "soon", "kafka.commit_interval_s"),
        ("KAFKA__COMIT_INTERVAL_S", "1", "GENPRINT_KAFKA__COMIT_INTERVAL_S"),
        ("IMAGES__MAX_PIXELS", "0", "images.max_pixels"),
        ("HTTP__PORT", "99999", "http.port"),
    ],
)
def test_a_bad_setting(stream: Stream, tiny_bundle: Bundle, name: str, value: str, expected: str) -> None:
    refused(stream.environment(tiny_bundle.path, **{name: value}), expected)


def test_an_unreachable_broker(stream: Stream, tiny_bundle: Bundle) -> None:
    place = f"127.0.0.1:{free_port()}"
    settings = {"KAFKA__BOOTSTRAP_SERVERS": place, "KAFKA__START_TIMEOUT_S": "2", "HTTP__PORT": "0"}
    refused(stream.environment(tiny_bundle.path, **settings), place, "no broker answered")


def test_a_missing_topic(stream: Stream, tiny_bundle: Bundle) -> None:
    missing = {"KAFKA__VERDICTS_TOPIC": "nowhere", "HTTP__PORT": "0"}
    refused(stream.environment(tiny_bundle.path, **missing), "no topic nowhere", stream.bootstrap)


def test_cuda_asked_for_and_absent(stream: Stream, tiny_bundle: Bundle) -> None:
    environment = stream.environment(tiny_bundle.path, INFERENCE__DEVICE="cuda", INFERENCE__DEVICE_ID="99")
    refused(environment, "inference.device=cuda", "99")


def test_a_taken_port(stream: Stream, tiny_bundle: Bundle) -> None:
    taken = stream.bootstrap.rpartition(":")[2]
    refused(stream.environment(tiny_bundle.path, HTTP__PORT=taken), f"http.port={taken}")


def test_produce_without_a_broker(tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    own = {"GENPRINT_KAFKA__BOOTSTRAP_SERVERS": place, "GENPRINT_KAFKA__START_TIMEOUT_S": "2"}
    result = worker_command("produce", str(tmp_path), environment=clean_environment() | own)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert place in result.stderr


def refused(environment: dict[str, str], *expected: str) -> None:
    result = worker_command("run", environment=environment)
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("genprint: ")
    assert "Traceback" not in result.stderr
    for text in expected:
        assert text in last
