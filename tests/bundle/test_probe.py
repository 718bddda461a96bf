from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

import bundle.probe
from bundle.errors import BundleCorrupt, DecoderDrift, GraphDrift
from bundle.manifest import Model
from bundle.preprocess import DECODING_POLICY, DecodedImage, decode
from bundle.probe import Probe, relative_error
from bundle.store import Bundle
from bundle.templates import npz_arrays, npz_bytes
from bundle.views import Views
from tests.worker.small_bundle import small_bundle

Outputs = dict[str, npt.NDArray[np.float32]]
Change = Callable[[Outputs], Outputs]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("probe") / "small")


def mean(_: Model, views: Views) -> Outputs:
    """The graph of ``small_bundle``, in NumPy."""
    brightness = views.astype(np.float32).mean(axis=(1, 2, 3))
    return {"logit": (brightness - 127.5) / 10, "embedding": brightness[:, None]}


def check(loaded: Bundle, change: Change = lambda outputs: outputs, tolerance: float = 1e-3) -> float:
    def run(model: Model, views: Views) -> Outputs:
        return change(mean(model, views))

    return loaded.probe.check(loaded.manifest.models, run, tolerance, made_with="pillow-1+libjpeg-2")


def test_the_same_numbers_pass(loaded: Bundle) -> None:
    assert check(loaded) < 1e-6


def test_it_returns_the_largest_error(loaded: Bundle) -> None:
    recorded = loaded.probe.outputs["brightness/embedding"]
    found = check(loaded, lambda o: {**o, "embedding": o["embedding"] + 1}, tolerance=0.1)
    assert found == pytest.approx(1 / (1 + recorded.min()), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o: {**o, "logit": o["logit"] * 1.01},
            r"^model\.onnx: brightness/logit differs from the recorded one by 0\.00\d+,",
        ),
        (lambda o: {**o, "embedding": o["embedding"] * np.nan}, "embedding differs from the recorded one by nan"),
        (lambda o: {**o, "logit": o["logit"] + np.float32(np.inf)}, "logit differs from the recorded one by nan"),
        (lambda o: {**o, "embedding": o["embedding"][:, :0]}, "embedding differs from the recorded one by inf"),
        (lambda o: {"logit": o["logit"]}, r"^model\.onnx: gives no brightness/embedding"),
    ],
    ids=["drift", "NaN", "infinite", "shape", "missing"],
)
def test_graph_drift(loaded: Bundle, change: Change, message: str) -> None:
    with pytest.raises(GraphDrift, match=message):
        check(loaded, change)


def test_decoder_drift_is_told_before_the_graph_runs(loaded: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_level_off(data: bytes) -> DecodedImage:
        decoded = decode(data)
        if decoded.facts.format == "JPEG":
            decoded = replace(decoded, image=decoded.image.point(lambda value: value ^ 1))
        return decoded

    def unreachable(_: Outputs) -> Outputs:
        raise AssertionError

    monkeypatch.setattr(bundle.probe, "decode", one_level_off)
    with pytest.raises(
        DecoderDrift,
        match=r"^probe/1\.jpg decodes to other pixels .*\(pillow-1\+libjpeg-2 then, pillow-1.*; "
        rf"Genprint's decoding policy changed from 1 to {DECODING_POLICY}: export again\)$",
    ):
        check(loaded, unreachable)


def test_a_decoder_that_is_missing_here(loaded: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.preprocess.FORMATS", ("PNG",))
    with pytest.raises(DecoderDrift, match=r"^probe/1\.jpg cannot be decoded: not an image of PNG \(pillow-1"):
        check(loaded)


def test_round_trip(loaded: Bundle) -> None:
    written = loaded.probe.to_bytes()
    read = Probe.from_bytes(loaded.probe.images, written, loaded.manifest.models)
    assert read.to_bytes() == written
    assert read.pixels == loaded.probe.pixels
    with pytest.raises(BundleCorrupt, match="the probe's expectations cannot be read"):
        Probe.from_bytes({}, written[:100], loaded.manifest.models)


@pytest.mark.parametrize(
    ("name", "array", "fault"),
    [
        ("pixels/brightness", None, "pixels/brightness is missing"),
        ("pixels/brightness", np.array(["0" * 64]), "pixels/brightness are 1 digests of 2 images"),
        ("pixels/brightness", np.array("0" * 64), "pixels/brightness has another type or number of axes"),
        ("outputs/brightness/logit", None, "outputs/brightness/logit is missing"),
        ("outputs/brightness/embedding", None, "outputs/brightness/embedding is missing"),
        ("outputs/brightness/logit", np.array(1, np.float32), "outputs/brightness/logit has another type or number"),
        ("outputs/brightness/logit", np.array([], np.float32), "outputs/brightness/logit is empty"),
        ("outputs/brightness/logit", np.array([np.nan], np.float32), "outputs/brightness/logit must hold finite"),
    ],
)
def test_expectations_that_switch_a_check_off(
    loaded: Bundle, name: str, array: npt.NDArray[np.generic] | None, fault: str
) -> None:
    arrays = npz_arrays(loaded.probe.to_bytes()) | {name: array}
    written = npz_bytes({key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(BundleCorrupt, match=f"{fault}.*; export the bundle again$"):
        Probe.from_bytes(loaded.probe.images, written, loaded.manifest.models)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1, 2], [1, 2], 0),
        ([1, 3], [1, 2], 1 / 3),
        ([0.5], [0], 0.5),
        ([-5], [-3], 0.5),
        ([1000], [999], 1e-3),
        ([], [], 0),
        ([1], [1, 1], np.inf),
        ([np.nan, 1], [1, 1], np.nan),
        ([1], [np.nan], np.nan),
        ([np.inf], [np.inf], np.nan),
    ],
)
def test_relative_error(actual: list[float], expected: list[float], error: float) -> None:
    found = relative_error(np.array(actual, np.float32), np.array(expected, np.float32))
    assert found == pytest.approx(error, nan_ok=True)
