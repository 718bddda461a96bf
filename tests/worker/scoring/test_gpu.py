"""Uploads, slots and bindings on a device in host memory: ONNX Runtime's binding is real, CUDA is not."""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bundle.preprocess import ImageFacts
from bundle.store import Bundle
from bundle.views import Views
from tests.worker.messages.edges import until
from tests.worker.scoring.host_driver import HostDriver
from tests.worker.small_bundle import SIZE, small_bundle
from worker.errors import DeviceFailed, InferenceFailed, InvalidOutput
from worker.images.prepare import PreparedImage
from worker.operations.metrics import Metrics
from worker.scoring.engine import Engine, ImageScores
from worker.scoring.gpu import CudaDriver, GpuRunner
from worker.settings import InferenceSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver()


@pytest.fixture
def engine(bundle: Bundle, driver: HostDriver) -> Engine:
    engine = Engine(bundle, InferenceSettings(device="cpu", batch_size=4, threads=1))
    engine.start()
    engine._runner = GpuRunner(driver, ("cpu", 0), 4)
    return engine


def prepared(*brightness: int) -> PreparedImage:
    views: Views = np.zeros((len(brightness), SIZE, SIZE, 3), np.uint8)
    views += np.array(brightness, np.uint8).reshape(-1, 1, 1, 1)
    return PreparedImage(ImageFacts("PNG", SIZE, SIZE, 1, animated=False), {"brightness": views})


def logits(answers: list[Any]) -> list[list[float]]:
    return [[round(float(logit), 3) for logit in answer.logits] for answer in answers]


def expected(*brightness: int) -> list[float]:
    return [round((value - 127.5) / 10, 3) for value in brightness]


def test_batches_of_any_size_give_each_image_its_own_scores(engine: Engine, driver: HostDriver) -> None:
    for images in (
        [prepared(10), prepared(200)],
        [prepared(*range(100, 111)), prepared(), prepared(20, 40)],
        [prepared(30)],
        [prepared()],
    ):
        found = logits(engine.score(images))
        assert found == [expected(*np.asarray(i.views["brightness"])[:, 0, 0, 0].tolist()) for i in images]
    assert len(driver.uploads) == 3  # one a batch, and none for a batch without a view


def test_a_batch_copied_ahead_is_not_copied_again(engine: Engine, driver: HostDriver) -> None:
    images = [prepared(10), prepared(20)]
    upload = engine.upload(images)
    assert logits(engine.score(images, upload)) == [expected(10), expected(20)]
    assert len(driver.uploads) == 1


def test_two_models_of_one_kind_read_one_upload(engine: Engine, driver: HostDriver, bundle: Bundle) -> None:
    runner = GpuRunner(driver, ("cpu", 0), 4)
    model, session = bundle.manifest.detector, engine._sessions["brightness"]
    views = prepared(10, 20, 30, 40, 50).views["brightness"]
    upload = runner.upload({"kind": views}, ahead=True)
    first, second = (runner.run(session, model, ["logit"], upload, "kind") for _ in range(2))
    assert [run[0].round(3).tolist() for run in first] == [run[0].round(3).tolist() for run in second]
    assert np.concatenate([run[0] for run in first]).round(3).tolist() == expected(10, 20, 30, 40, 50)
    assert [count for _, count in upload.runs["kind"]] == [4, 1]
    assert all(address % 256 == upload.slot.address % 256 for address, _ in upload.runs["kind"])
    assert len(driver.uploads) == 1


def test_two_kinds_of_input_go_in_one_copy(driver: HostDriver) -> None:
    runner = GpuRunner(driver, ("cpu", 0), 4)
    small, large = np.full((3, 5, 5, 3), 7, np.uint8), np.full((2, 9, 9, 3), 8, np.uint8)
    upload = runner.upload({"small": small, "large": large}, ahead=True)
    assert len(driver.uploads) == 1
    [memory] = [memory for address, memory in driver.held.items() if address == upload.slot.address]
    for kind, views in (("small", small), ("large", large)):
        [(address, count)] = upload.runs[kind]
        begin = address - upload.slot.address
        assert count == len(views)
        assert (memory[begin : begin + views.nbytes] == views.reshape(-1)).all()


def test_a_third_batch_waits_until_one_is_computed(engine: Engine, driver: HostDriver) -> None:
    first, second, third = ([prepared(value)] for value in (10, 20, 30))
    uploads = [engine.upload(first), engine.upload(second)]
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(engine.upload, third)
        until(lambda: waiting.running() or waiting.done(), "the thread runs")
        assert len(driver.uploads) == 2
        assert not waiting.done()
        assert logits(engine.score(first, uploads[0])) == [expected(10)]
        upload = waiting.result(10)
    assert len({address for address, _ in driver.uploads}) == 2  # in the slot of the first
    assert logits(engine.score(third, upload)) == [expected(30)]
    assert logits(engine.score(second, uploads[1])) == [expected(20)]


def test_a_batch_that_fails_gives_its_place_back_and_finds_the_culprit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._runner is not None
    run = engine._runner.run

    def failing(session: Any, model: Any, outputs: Any, upload: Any, kind: str) -> Any:
        found = run(session, model, outputs, upload, kind)
        if any(abs(found[0][0] - expected(77)[0]) < 0.01):
            raise RuntimeError("bad kernel")
        return found

    monkeypatch.setattr(engine._runner, "run", failing)
    for _ in range(5):  # more often than there are slots
        images = [prepared(10), prepared(77), prepared(30), prepared(0)]
        answers = engine.score(images, engine.upload(images))
        assert [type(answer) for answer in answers] == [ImageScores, InferenceFailed, ImageScores, InvalidOutput]


def test_a_device_that_fails_ends_the_worker(engine: Engine, driver: HostDriver) -> None:
    driver.failure = DeviceFailed("cuda: cuMemcpyHtoDAsync_v2 gives error 700")
    for _ in range(5):  # each gives its slot back
        with pytest.raises(DeviceFailed, match="700"):
            engine.upload([prepared(1)])
    with pytest.raises(DeviceFailed, match="700"):
        engine.score([prepared(1)])


def test_memory_is_told_and_a_dead_device_does_not_hide_the_other_metrics(driver: HostDriver) -> None:
    metrics = Metrics()
    metrics.watch_device_memory(driver.memory)
    address = driver.allocate(1234)

    def used() -> float | None:
        return metrics.registry.get_sample_value("genprint_device_memory_bytes", {"kind": "used"})

    assert used() == 1234
    driver.free(address)
    driver.failure = DeviceFailed("gone")
    assert used() != used()  # not a number


class Library:
    """The functions of libcuda that are called: they write through the given pointers and record the calls."""

    def __init__(self, errors: dict[str, int] | None = None) -> None:
        self.calls: list[str] = []
        self.depth = threading.local()
        self._errors = errors or {}
        self._memory = (ctypes.c_uint8 * 64)()

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuMemAlloc_v2":
                arguments[0]._obj.value = ctypes.addressof(self._memory)
            if name == "cuMemHostAlloc":
                arguments[0]._obj.value = ctypes.addressof(self._memory)
            if name == "cuMemcpyHtoDAsync_v2":
                ctypes.memmove(arguments[0].value, arguments[1].value, arguments[2].value)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 30, 100
            return self._errors.get(name, 0)

        return call


def test_the_driver_s_calls_happen_in_its_context_and_in_order() -> None:
    library = Library()
    driver = CudaDriver(library, 0)
    address = driver.allocate(64)
    library.calls.clear()
    driver.upload(np.arange(10, dtype=np.uint8), address)
    assert library.calls == [
        "cuCtxPushCurrent_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuStreamSynchronize",
        "cuCtxPopCurrent_v2",
    ]
    assert list(library._memory[:10]) == list(range(10))
    assert driver.memory() == (70, 100)
    pinned = driver.pinned(64)
    assert pinned.dtype == np.uint8
    assert (pinned.shape, int(pinned[3])) == ((64,), 3)


@pytest.mark.parametrize("name", ["cuInit", "cuDevicePrimaryCtxRetain", "cuStreamCreate"])
def test_what_the_driver_refuses_is_named(name: str) -> None:
    with pytest.raises(DeviceFailed, match=f"{name} gives error 999"):
        CudaDriver(Library({name: 999}), 0)


def test_an_error_gives_the_context_back() -> None:
    library = Library({"cuMemAlloc_v2": 2})
    driver = CudaDriver(library, 0)
    with pytest.raises(DeviceFailed, match="cuMemAlloc_v2 gives error 2"):
        driver.allocate(10)
    assert library.calls[-1] == "cuCtxPopCurrent_v2"
