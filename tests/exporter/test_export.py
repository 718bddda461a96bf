import hashlib
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from rich.console import Console
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from bundle.manifest import Model
from bundle.preprocess import decode, decoder_version, make_views
from bundle.store import Bundle
from bundle.views import Views
from exporter import export as export_module
from exporter.contents.calibration import fit_platt
from exporter.contents.card import model_card
from exporter.errors import BadOptions, ExportDataMissing, ParityFailed
from exporter.export import export
from exporter.onnx.graph import Graph
from exporter.onnx.runner import GraphOutputs, RunGraph, runner
from exporter.options import ExportOptions
from exporter.source import from_checkpoint
from tests.bundles import CLASSES, IMAGES, OPTIONS, export_bundle, texture
from trainer.data.augment import degraded_copy
from trainer.data.folder import ImageFolder
from trainer.errors import OutputUnwritable, SplitUnknown, TooFewClasses, UnknownClass
from trainer.evaluation.attribute import Attribution, attribute
from trainer.evaluation.templates import default_template_method, own_templates
from trainer.training.checkpoint import Checkpoint
from trainer.training.loop import train
from trainer.training.systems import parse_config

pytestmark = pytest.mark.slow


def outputs(bundle: Bundle, folder: Path) -> GraphOutputs:
    """The bundle's graph on the images of a folder, in the order of their names."""
    return graph_of(bundle)(views_of(bundle, folder))


def views_of(bundle: Bundle, folder: Path) -> Views:
    recipe = bundle.manifest.detector.preprocessing
    return np.concatenate([make_views(decode(path.read_bytes()), recipe) for path in sorted(folder.iterdir())])


@cache
def graph_of(bundle: Bundle) -> RunGraph:
    model = bundle.manifest.detector
    return runner(Graph(bundle.graph(model), model))


def attributed(checkpoint: Checkpoint, data: Path, *, calibrate_degraded: bool | None) -> Attribution:
    test, train, calib = (
        ImageFolder.read(data / split, checkpoint.config.preprocessing) for split in ("test", "train", "calib")
    )
    return attribute(
        checkpoint,
        test,
        train,
        calib,
        default_template_method(checkpoint),
        OPTIONS.alpha,
        calibrate_degraded=calibrate_degraded,
    )


def test_the_bundle_tells_images_it_has_not_seen_apart(tiny_bundle: Bundle, tiny_data: Path) -> None:
    alpha = tiny_bundle.manifest.templates.alpha
    for name in CLASSES:
        found = outputs(tiny_bundle, tiny_data / "test" / name)
        matches = tiny_bundle.templates.match(found.embedding, alpha)
        assert [match.candidates[0].label for match in matches] == [name] * IMAGES["test"]
        assert sum(match.accepted for match in matches) >= IMAGES["test"] // 2
        assert ((found.logit > 0) == (name != "real")).all()


def test_templates_are_class_means_and_their_calibration_held_out(tiny_bundle: Bundle, tiny_data: Path) -> None:
    library = tiny_bundle.templates
    assert library.labels == CLASSES
    assert library.counts.tolist() == [IMAGES["train"]] * 3
    assert tiny_bundle.manifest.templates.dimension == 16
    for index, name in enumerate(CLASSES):
        mean = outputs(tiny_bundle, tiny_data / "train" / name).embedding.mean(axis=0)
        assert library.vectors[index] == pytest.approx(mean, rel=1e-3, abs=1e-3)
        held_out = outputs(tiny_bundle, tiny_data / "calib" / name).embedding
        expected = np.sort(cdist(held_out, mean[None])[:, 0])
        assert library.calibration[index] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_manifest_says_what_was_done(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tiny_data: Path) -> None:
    manifest = tiny_bundle.manifest
    assert (manifest.name, manifest.decoder) == ("tiny", decoder_version())
    assert manifest.labels == tiny_checkpoint.labels
    assert manifest.detector.preprocessing == tiny_checkpoint.config.preprocessing
    assert manifest.training["data_fingerprint"] == tiny_checkpoint.fingerprint
    assert manifest.training["images"] == dict.fromkeys(CLASSES, IMAGES["train"])
    assert {"torch", "onnx", "onnxruntime-gpu", "numpy"} <= manifest.versions.keys()
    assert manifest.parity.images == 3 * IMAGES["calib"]
    assert 0 <= max(manifest.parity.logit_error, manifest.parity.embedding_error) <= manifest.parity.tolerance
    assert (manifest.calibration.count_real, manifest.calibration.count_generated) == (20, 40)
    assert (manifest.thresholds.high.count, manifest.thresholds.low.count) == (20, 40)
    logits = {name: outputs(tiny_bundle, tiny_data / "test" / name).logit for name in CLASSES}
    auroc = roc_auc_score(
        np.repeat([name != "real" for name in CLASSES], IMAGES["test"]), np.concatenate([logits[n] for n in CLASSES])
    )
    assert manifest.evaluation["test"].auroc == pytest.approx(auroc)
    assert manifest.evaluation["test"].images == 3 * IMAGES["test"]


def test_the_probe_holds_every_label_and_every_lossy_format(tiny_bundle: Bundle, tiny_data: Path) -> None:
    formats = [decode(data).facts.format for data in tiny_bundle.probe.images.values()]
    assert formats == ["PNG", "PNG", "PNG", "JPEG", "WEBP", "AVIF"]
    first = [(tiny_data / "calib" / name / "00.png").read_bytes() for name in CLASSES]
    assert list(tiny_bundle.probe.images.values())[:3] == first

    def run(model: Model, views: Views) -> dict[str, npt.NDArray[np.float32]]:
        assert model == tiny_bundle.manifest.detector
        found = graph_of(tiny_bundle)(views)
        return {"logit": found.logit, "embedding": found.embedding}

    assert tiny_bundle.probe.check(tiny_bundle.manifest.models, run, 1e-3, "") <= 1e-4


def test_the_model_card_is_complete(tiny_bundle: Bundle) -> None:
    card = tiny_bundle.files["MODEL_CARD.md"].decode()
    for line in (
        f"# tiny {tiny_bundle.manifest.version}",
        "| real | real | 24 | 24 | 20 |",
        "| striped | generator | 24 | 24 | 20 |",
        "| test | 24 | 1.0000 | 1.0000 | 1.0000 |",
        "called unknown, if they resemble the calibration images. A label with fewer than 19 calibration images",
    ):
        assert line in card
    assert "{" not in card


@pytest.mark.parametrize(("alpha", "images"), [(0.01, 99), (0.05, 19), (0.3, 3), (0.5, 1), (0.9, 1)])
def test_the_card_says_how_many_images_rejection_takes(tiny_bundle: Bundle, alpha: float, images: int) -> None:
    assert 1 / (images + 1) <= alpha
    templates = tiny_bundle.manifest.templates.model_copy(update={"alpha": alpha})
    card = model_card(tiny_bundle.manifest.model_copy(update={"templates": templates}), tiny_bundle.templates)
    assert f"fewer than {images} calibration images can reject" in card


class TestRefused:
    """Nothing is written, whatever goes wrong; the exported graph is the bundle's, to save its making."""

    @pytest.fixture(autouse=True)
    def _made_graph(self, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_bundle.manifest.detector
        monkeypatch.setattr(export_module, "export_graph", lambda *_, **__: Graph(tiny_bundle.graph(model), model))

    @pytest.fixture
    def data(self, tiny_data: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_data, tmp_path / "data")

    @pytest.mark.parametrize(
        ("gone", "error", "message"),
        [
            ("train", SplitUnknown, r"data: it has no split 'train'; its splits: \(calib, test\)"),
            ("calib", SplitUnknown, r"data: it has no split 'calib'; its splits: \(train, test\)"),
            ("train/striped", ExportDataMissing, "data: train has no images of striped to make a template from"),
            ("calib/real", ExportDataMissing, "data: calibration needs both real and generated images in calib"),
        ],
    )
    def test_missing_images(
        self, tiny_checkpoint: Checkpoint, data: Path, gone: str, error: type[Exception], message: str
    ) -> None:
        shutil.rmtree(data / gone)
        with pytest.raises(error, match=message):
            export_bundle(tiny_checkpoint, data, data.parent / "out" / "bundle")
        assert not (data.parent / "out").exists()

    def test_too_few_or_unknown_classes(self, tiny_checkpoint: Checkpoint, data: Path) -> None:
        (data / "calib" / "striped").rename(data / "calib" / "martian")
        message = "the checkpoint has no class 'martian', only doubled, real, striped; `--add NAME` gives a generator"
        with pytest.raises(UnknownClass, match=message):
            export_bundle(tiny_checkpoint, data, data.parent / "bundle")
        shutil.rmtree(data / "calib" / "martian")
        shutil.rmtree(data / "calib" / "doubled")
        with pytest.raises(TooFewClasses, match="found only 'real'"):
            export_bundle(tiny_checkpoint, data, data.parent / "bundle")

    def test_parity(self, tiny_checkpoint: Checkpoint, data: Path) -> None:
        strict = OPTIONS.model_copy(update={"tolerance": 1e-12})
        with pytest.raises(ParityFailed, match=r"differs from PyTorch by [\d.]+e-0\d on 60 images, tolerance 1e-12"):
            export(
                from_checkpoint(tiny_checkpoint),
                data,
                data.parent / "bundle",
                strict,
                force=False,
                progress=lambda _: None,
            )
        assert not (data.parent / "bundle").exists()

    def test_what_is_there_stays(self, tiny_checkpoint: Checkpoint, tiny_data: Path, tiny_bundle: Bundle) -> None:
        with pytest.raises(FileExistsError, match="pass --force"):
            export_bundle(tiny_checkpoint, tiny_data, tiny_bundle.path)

    def test_where_nothing_can_be_written(self, tiny_checkpoint: Checkpoint, tiny_data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("words")
        with pytest.raises(OutputUnwritable, match=r"file/bundle: cannot be written: .*Not a directory"):
            export_bundle(tiny_checkpoint, tiny_data, tmp_path / "file" / "bundle")

    def test_a_list_that_is_calibrated_on_another_split(self, tiny_checkpoint: Checkpoint, data: Path) -> None:
        rows = [f"{path.relative_to(data)},{path.parent.name},{path.parts[-3]}" for path in sorted(data.rglob("*.png"))]
        listed = data / "images.csv"
        listed.write_text("path,label,split\n" + "\n".join(rows).replace(",calib", ",val"))
        options = OPTIONS.model_copy(update={"calib_split": "val"})
        out = data.parent / "bundle"
        found = export_bundle(tiny_checkpoint, listed, out, options)
        as_folders = export_bundle(tiny_checkpoint, data, data.parent / "b", OPTIONS)
        assert found.templates.version == as_folders.templates.version
        assert found.manifest.evaluation.keys() == {"val", "test"}
        assert "`val` chose calibration" in (out / "MODEL_CARD.md").read_text()

    def test_a_generator_that_training_did_not_know_gets_a_template(
        self, tiny_checkpoint: Checkpoint, tiny_bundle: Bundle, data: Path
    ) -> None:
        chequered(data, images=5)
        options = OPTIONS.model_copy(update={"add": ("chequered",)})
        found = export_bundle(tiny_checkpoint, data, data.parent / "b", options)
        new = found.manifest.labels[3]
        assert (new.id, new.name, new.kind, new.in_detector) == (3, "chequered", "generator", False)
        assert found.templates.labels == (*CLASSES, "chequered")
        assert found.templates.counts.tolist() == [24, 24, 24, 5]
        mean = outputs(found, data / "train" / "chequered").embedding.mean(axis=0)
        assert found.templates.vectors[3] == pytest.approx(mean, rel=1e-3, abs=1e-3)
        assert [len(distances) for distances in found.templates.calibration] == [IMAGES["calib"]] * 4
        embeddings = outputs(found, data / "test" / "chequered").embedding
        nearest = cdist(embeddings, found.templates.vectors).argmin(axis=1)
        named = [match.candidates[0].label for match in found.templates.match(embeddings, 0.05)]
        assert named == [found.templates.labels[index] for index in nearest]
        assert named.count("chequered") / len(named) > 0.7
        # The detector's calibration is what it is without the new label.
        assert found.manifest.calibration == tiny_bundle.manifest.calibration
        assert found.manifest.thresholds == tiny_bundle.manifest.thresholds
        assert found.manifest.evaluation["test"].images == 4 * IMAGES["test"]
        card = found.files["MODEL_CARD.md"].decode()
        assert "| chequered | generator | 0 | 5 | 20 |" in card
        assert "Labels without training images were added by a template alone." in card

    @pytest.mark.parametrize("names", [("real",), ("chequered", "chequered")])
    def test_a_label_is_added_once(self, tiny_checkpoint: Checkpoint, data: Path, names: tuple[str, ...]) -> None:
        options = OPTIONS.model_copy(update={"add": names})
        with pytest.raises(BadOptions, match=f"--add: there is a label '{names[0]}' already"):
            export_bundle(tiny_checkpoint, data, data.parent / "b", options)

    def test_degraded_copies_are_calibrated_on_as_well(
        self, tiny_checkpoint: Checkpoint, tiny_bundle: Bundle, data: Path
    ) -> None:
        options = OPTIONS.model_copy(update={"calibrate_degraded": True})
        found = export_bundle(tiny_checkpoint, data, data.parent / "b", options)
        recipe = found.manifest.detector.preprocessing
        logits, kinds = [], []
        for index, name in enumerate(CLASSES):
            views = [make_views(decode(p.read_bytes()), recipe)[0] for p in sorted((data / "calib" / name).iterdir())]
            both = graph_of(found)(np.stack([*views, *map(degraded_copy, views)]))
            distances = np.sort(cdist(both.embedding, found.templates.vectors[[index]])[:, 0])
            assert found.templates.calibration[index] == pytest.approx(distances, rel=1e-3, abs=1e-3)
            logits.append(both.logit)
            kinds.append(np.full(2 * IMAGES["calib"], name != "real"))
        expected = fit_platt(np.concatenate(logits), np.concatenate(kinds))
        assert found.manifest.calibration.scale == pytest.approx(expected.scale, rel=1e-3)
        assert found.manifest.calibration.bias == pytest.approx(expected.bias, rel=1e-2, abs=1e-3)
        assert (found.manifest.thresholds.high.count, found.manifest.thresholds.low.count) == (40, 80)
        assert "Half of the calibration images are copies" in found.files["MODEL_CARD.md"].decode()
        # `trainer attribute` rejects what the bundle rejects.
        for bundle, degraded in ((found, True), (tiny_bundle, False), (tiny_bundle, None)):
            said = attributed(tiny_checkpoint, data, calibrate_degraded=degraded)
            assert said.calibrated_on_degraded == bool(degraded)
            for name in CLASSES:
                matches = bundle.templates.match(outputs(bundle, data / "test" / name).embedding, OPTIONS.alpha)
                assert said.folders[name].unknown.hits == sum(not match.accepted for match in matches)
        assert "Half of the calibration images" not in tiny_bundle.files["MODEL_CARD.md"].decode()

    def test_a_label_without_calibration_images_rejects_nothing(self, tiny_checkpoint: Checkpoint, data: Path) -> None:
        shutil.rmtree(data / "calib" / "striped")
        shutil.rmtree(data / "test")
        odd_name = next((data / "calib" / "doubled").iterdir())
        odd_name.rename(odd_name.with_name("00 copy.PNG~"))
        one = ExportOptions(name="one", template="one", seed=3)
        steps: list[str] = []
        out = data.parent / "{digest}"
        found = export(from_checkpoint(tiny_checkpoint), data, out, one, force=False, progress=steps.append)
        assert len(found.templates.calibration[CLASSES.index("striped")]) == 0
        assert found.templates.counts.tolist() == [1, 1, 1]
        assert found.manifest.evaluation.keys() == {"calib"}
        assert found.path.name == found.digest[:12]
        assert list(found.manifest.probe.images)[:2] == ["probe/0.png", "probe/1.png"]
        assert len(steps) == len(set(steps)) >= 6
        assert hashlib.sha256((found.path / "manifest.json").read_bytes()).hexdigest() == found.digest


def chequered(data: Path, images: int) -> None:
    """Another generator, which puts a grid on every fourth pixel; so many images to make a template from."""
    rng = np.random.default_rng(9)
    for split, count in {**IMAGES, "train": images}.items():
        folder = data / split / "chequered"
        folder.mkdir()
        for number in range(count):
            pixels = texture("real", rng).astype(np.int64)
            pixels[::2, ::2] += 50
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")


OWN: dict[str, dict[str, object]] = {
    "block_spectra": {"simulated": 2, "simulated_steps": 3},
    "contrastive": {"widths": [4, 4, 8, 8, 8], "epochs": 4, "batch": 16, "simulated": 2, "simulated_steps": 3},
    "prnu": {"epochs": 0},
}


@pytest.mark.parametrize("name", OWN)
def test_systems_with_templates_of_their_own_export_with_them(name: str, tiny_data: Path, tmp_path: Path) -> None:
    config = parse_config({"system": name, "size": 32, **OWN[name]})
    data = shutil.copytree(tiny_data, tmp_path / "data")
    checkpoint = train(config, data / "train", tmp_path / "a.pt", None, Console(quiet=True))
    chequered(data, images=5)
    options = OPTIONS.model_copy(update={"add": ("chequered",)})
    found = export_bundle(checkpoint, data, tmp_path / "b", options)
    assert found.manifest.training["template"] == "own"
    degraded = found.manifest.training["calibrated_on_degraded"]
    assert (
        degraded
        == (name == "contrastive")
        == attributed(checkpoint, tiny_data, calibrate_degraded=None).calibrated_on_degraded
    )
    assert [len(distances) for distances in found.templates.calibration] == [(1 + degraded) * IMAGES["calib"]] * 4
    np.testing.assert_array_equal(found.templates.vectors[:3], own_templates(checkpoint).vectors)
    few = outputs(found, data / "train" / "chequered").embedding
    alone = graph_of(found)(views_of(found, data / "train" / "chequered")[:1]).embedding
    np.testing.assert_allclose(alone, few[:1], rtol=1e-4, atol=1e-4)
    placed = own_templates(checkpoint, {"chequered": few}).vectors[3]
    np.testing.assert_allclose(found.templates.vectors[3], placed, rtol=1e-3, atol=1e-3)
    if name == "block_spectra":
        assert found.manifest.evaluation["test"].top1_by_template == 1
        for known in CLASSES:
            assert ((outputs(found, data / "test" / known).logit > 0) == (known != "real")).all()
