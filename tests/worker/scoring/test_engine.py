"""The engine: the requested device or none, the same scores in any batch, one failing image at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bundle.errors import BundleCorrupt, GraphDrift
from bundle.preprocess import ImageFacts
from bundle.store import Bundle
from bundle.views import Views
from tests.worker.pipeline.harness import make_worker
from tests.worker.scoring.host_driver import HostDriver
from tests.worker.small_bundle import SIZE, encoded_image, small_bundle
from worker.errors import DeviceFailed, InferenceFailed, InvalidOutput, MemoryShort, StartupError
from worker.images.prepare import PreparedImage
from worker.scoring.engine import Engine, ImageScores, cuda_usable
from worker.settings import InferenceSettings

FACTS = ImageFacts("PNG", SIZE, SIZE, 1, animated=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    engine = Engine(bundle, InferenceSettings(device="cpu", batch_size=4, threads=1))
    engine.start()
    return engine


def prepared(*brightness: int) -> PreparedImage:
    """An image with one view for each brightness; without a view it is too small."""
    views: Views = np.zeros((len(brightness), SIZE, SIZE, 3), np.uint8)
    views += np.array(brightness, np.uint8).reshape(-1, 1, 1, 1)
    return PreparedImage(FACTS, {"brightness": views})


def test_every_image_gets_its_own_scores_whatever_the_batch(engine: Engine) -> None:
    images = [prepared(10), prepared(), prepared(20, 40), prepared(*range(100, 110)), prepared(200)]
    found = engine.score(images)
    scores = [answer for answer in found if isinstance(answer, ImageScores)]
    assert [len(s.logits) for s in scores] == [1, 0, 2, 10, 1]
    np.testing.assert_allclose(scores[2].logits, [(20 - 127.5) / 10, (40 - 127.5) / 10], rtol=1e-5)
    np.testing.assert_allclose([s.embedding[0] for s in scores if len(s.logits)], [10, 30, 104.5, 200], rtol=1e-5)
    assert scores[1].embedding.shape == (0,)


def test_weights_outside_the_graph_are_not_looked_for(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No digest covers them."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(bundle.graph(bundle.manifest.models[0]))
    for weight in model.graph.initializer:
        if weight.name == "ten":
            weight.raw_data = np.array(10.0, np.float32).tobytes()
            weight.ClearField("float_data")
    onnx.save_model(model, "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert Path("weights").exists()
    monkeypatch.setattr(Bundle, "graph", lambda *_: Path("model.onnx").read_bytes())
    with pytest.raises(StartupError, match=r"does not load on cpu: .*weights"):
        Engine(bundle, InferenceSettings(device="cpu")).start()


@pytest.mark.parametrize(
    ("role", "change", "fault"),
    [
        ("logit", {"name": "score"}, r"has no score, which the manifest calls logit"),
        ("embedding", {"name": "a\x1b[31m"}, r"has no a\\x1b\[31m, which the manifest calls embedding"),
        ("input", {"name": "pixels"}, r"needs an input images as well"),
        ("logit", {"name": "embedding"}, r"embedding is tensor\(float\) \['N', 1\], which the manifest calls logit"),
    ],
)
def test_a_graph_has_the_inputs_and_outputs_that_the_manifest_names(
    bundle: Bundle, role: str, change: dict[str, Any], fault: str
) -> None:
    model = bundle.manifest.models[0]
    other = model.model_copy(update={role: getattr(model, role).model_copy(update=change)})
    crafted = replace(bundle, manifest=bundle.manifest.model_copy(update={"models": (other,)}))
    with pytest.raises(BundleCorrupt, match=rf"^.*/model\.onnx: {fault}.*; export the bundle again$"):
        Engine(crafted, InferenceSettings(device="cpu")).start()


def test_a_value_that_is_no_number_rejects_its_image_alone(engine: Engine) -> None:
    found = engine.score([prepared(10), prepared(10, 0), prepared(200)])
    assert [type(answer) for answer in found] == [ImageScores, InvalidOutput, ImageScores]


def test_the_image_that_breaks_a_batch_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.run

    def run(model: Any, views: Views) -> Any:
        if (views == 77).any():
            raise RuntimeError("bad kernel")
        return original(model, views)

    monkeypatch.setattr(engine, "run", run)
    found = engine.score([prepared(b) for b in (10, 20, 77, 30, 40, 77, 50)])
    assert [isinstance(answer, InferenceFailed) for answer in found] == [False, False, True, False, False, True, False]


@pytest.mark.parametrize(
    "message", ["CUDA failure 719: unspecified launch failure", "CUDNN failure 4", "CUDA out of memory"]
)
def test_a_sticky_device_error_is_no_images_fault(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def run(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(engine, "run", run)
    with pytest.raises(DeviceFailed, match=message):
        engine.score([prepared(10), prepared(20)])


def test_too_little_memory_makes_smaller_batches_and_is_no_images_fault(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, most = engine.run, 2

    def run(model: Any, views: Views) -> Any:
        if len(views) > most:
            raise MemoryError
        return original(model, views)

    monkeypatch.setattr(engine, "run", run)
    found = engine.score([prepared(b) for b in (10, 20, 30)])
    assert all(isinstance(answer, ImageScores) for answer in found)
    most = 0
    with pytest.raises(MemoryShort):
        engine.score([prepared(10)])


def test_other_numbers_than_the_exporters_stop_the_start(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bundle, InferenceSettings(device="cpu"))
    original = Engine.run

    def run(self: Engine, model: Any, views: Views) -> Any:
        return {name: rows * 1.01 for name, rows in original(self, model, views).items()}

    monkeypatch.setattr(Engine, "run", run)
    with pytest.raises(GraphDrift, match=r"model\.onnx"):
        engine.start()


def test_cuda_asked_for_and_absent_stops_the_start(bundle: Bundle) -> None:
    with pytest.raises(StartupError, match=r"inference\.device=cuda: no usable CUDA device 4096"):
        Engine(bundle, InferenceSettings(device="cuda", device_id=4096)).start()


def test_auto_takes_the_cpu_where_there_is_no_cuda(bundle: Bundle) -> None:
    engine = Engine(bundle, InferenceSettings(device="auto", device_id=4096))
    engine.start()
    assert engine.device == "cpu"
    assert not cuda_usable(4096)


class FakeSession:
    """A session that records what ONNX Runtime was called with; its outputs come from the CPU."""

    asked: dict[str, Any]
    real: type = ort.InferenceSession

    def __init__(self, graph: bytes, options: Any, **asked: Any) -> None:
        FakeSession.asked = asked
        self._session = FakeSession.real(graph, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [asked if isinstance(asked, str) else asked[0] for asked in FakeSession.asked["providers"]]

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, *arguments: Any) -> Any:
        return self._session.run(*arguments)

    def io_binding(self) -> "FakeBinding":
        return FakeBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: "FakeBinding") -> None:
        self._session.run_with_iobinding(binding.real)


class FakeBinding:
    """A binding on a device whose memory is the host's, which records its calls."""

    inputs: ClassVar[list[tuple[str, int, int]]] = []

    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(self, name: str, device: str, device_id: int, kind: Any, shape: list[int], address: int) -> None:
        FakeBinding.inputs.append((device, device_id, shape[0]))
        self.real.bind_input(name, "cpu", 0, kind, shape, address)

    def bind_output(self, name: str, device: str) -> None:
        self.real.bind_output(name, device)

    def copy_outputs_to_cpu(self) -> Any:
        return self.real.copy_outputs_to_cpu()


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.scoring.engine.cuda_usable", lambda _: True)
    monkeypatch.setattr("worker.scoring.engine.open_driver", lambda _: HostDriver())
    monkeypatch.setattr("worker.scoring.engine.ort.preload_dlls", lambda: None)
    monkeypatch.setattr("worker.scoring.engine.ort.InferenceSession", FakeSession)


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_is_asked_for_without_any_fallback(bundle: Bundle) -> None:
    engine = Engine(bundle, InferenceSettings(device="cuda", device_id=1, gpu_memory_bytes=1 << 30, batch_size=8))
    FakeBinding.inputs.clear()
    engine.start()
    assert {(device, number) for device, number, _ in FakeBinding.inputs} == {("cuda", 1)}
    assert [count for _, _, count in FakeBinding.inputs][-4:] == [1, 2, 4, 8]  # warmed up for each
    assert engine.device == "cuda"
    name, options = FakeSession.asked["providers"][0]
    assert name == "CUDAExecutionProvider"
    assert (options["device_id"], options["gpu_mem_limit"]) == (1, 1 << 30)
    assert FakeSession.asked["enable_fallback"] == 0


@pytest.mark.usefixtures("fake_cuda")
def test_a_worker_on_a_gpu_answers_as_one_on_a_cpu(bundle: Bundle) -> None:
    decisions = []
    for device in ("cuda", "cpu"):
        worker = make_worker(bundle, inference={"device": device})
        for number in range(60):
            worker.send(encoded_image(40 if number % 3 else 200, seed=number), number=number % 2)
        worker.answer(60)
        by_origin = {v["event"]["origin"]: v["generated"]["scores"][0]["logit"] for v in worker.verdicts()}
        decisions.append({origin: round(logit, 3) for origin, logit in by_origin.items()})
    assert len(decisions[0]) == 60
    assert decisions[0] == decisions[1]


@pytest.mark.usefixtures("fake_cuda")
def test_a_session_that_took_the_cpu_instead_stops_the_start(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(FakeSession):
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr("worker.scoring.engine.ort.InferenceSession", Silent)
    with pytest.raises(StartupError, match=r"inference\.device=cuda, but ONNX Runtime runs it on CPUExecutionProvider"):
        Engine(bundle, InferenceSettings(device="cuda")).start()


def test_a_graph_that_does_not_load_is_named(bundle: Bundle, tmp_path: Path) -> None:
    broken = Bundle(
        tmp_path, bundle.manifest, "0", {**bundle.files, "model.onnx": b"no graph"}, bundle.templates, bundle.probe
    )
    with pytest.raises(StartupError, match=r"model\.onnx: does not load on cpu"):
        Engine(broken, InferenceSettings(device="cpu")).start()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 10, 2: 12, 4: 20, 8: 36}, 8),  # larger is faster, up to the batch size
        ({1: 10, 2: 20, 4: 41, 8: 100}, 4),  # as fast, within 3 percent: fewer calls
        ({1: 10, 2: 24}, 1),  # clearly slower, and nothing larger is tried
        ({1: 10, 2: 21, 4: 36, 8: 90}, 4),
        ({1: 60, 2: 119}, 2),  # long enough: nothing larger is tried
    ],
)
def test_a_cpu_takes_as_many_views_at_a_time_as_are_fastest(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    engine = Engine(bundle, InferenceSettings(device="cpu", batch_size=8, threads=1))
    monkeypatch.setattr(engine, "_seconds", lambda _, views: seconds[len(views)] / 1000)
    engine.start()
    runs: list[int] = []
    session = engine._sessions["brightness"]

    class Counting:
        def run(self, names: Any, feed: Any) -> Any:
            runs.append(len(feed["images"]))
            return session.run(names, feed)

    engine._sessions["brightness"] = Counting()
    engine.score([prepared(*range(100, 116))])
    assert max(runs) == expected
    assert sum(runs) == 16
