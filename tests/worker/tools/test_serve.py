"""A worker as ``run`` starts it, on a broker in memory: verdicts, metrics and logs name the bundle alike."""

import json
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog

from tests.worker.messages.edges import MemoryEdge
from tests.worker.pipeline.memory_broker import MemoryBroker
from tests.worker.small_bundle import encoded_image, small_bundle
from worker.messages.records import BatchGuard, Broker, Progress
from worker.operations.metrics import Metrics
from worker.settings import load_settings
from worker.tools.serve import serve


def test_verdict_metric_and_log_name_the_template_library_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    monkeypatch.setattr("worker.tools.serve.configure_logs", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    settings = load_settings(None, [f"bundle={bundle.path}", "inference.device=cpu", "http.port=0"], {})
    edge = MemoryEdge()
    image: tuple[tuple[str, bytes | None], ...] = (("content-type", b"image/png"),)
    edge.produce(settings.kafka.images_topic, key=None, value=encoded_image(220), headers=image, number=0)
    served: list[Metrics] = []

    def make_broker(metrics: Metrics, _: BatchGuard, stop: threading.Event) -> Broker:
        class OneAnswer(MemoryBroker):
            def publish(self, progress: Sequence[Progress]) -> None:
                super().publish(progress)
                stop.set()

        served.append(metrics)
        return OneAnswer(edge.cluster, settings.kafka)

    with structlog.testing.capture_logs() as logs:
        serve(settings, make_broker)
    [stored] = edge.read(settings.kafka.verdicts_topic, 1)
    verdict = json.loads(stored.value or b"")
    [shown] = [family.samples[0].labels for family in served[0].registry.collect() if family.name == "genprint_bundle"]
    [logged] = [entry for entry in logs if entry["event"] == "serving"]
    assert verdict["attribution"]["library_version"] == shown["library"] == logged["library"] == bundle.library_version
    for part in ("name", "version", "digest"):
        assert verdict["bundle"][part] == shown[part] == logged[part]
