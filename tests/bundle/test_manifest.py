import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from bundle.manifest import Crop, Manifest, Preprocessing, Resize, View
from tests.worker.small_bundle import small_bundle

Document = dict[str, Any]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small").manifest.model_dump_json()


EVALUATION = {"images": 3, "top1_by_template": 1.0, "auroc": None}


def fault(text: str, change: Callable[[Document], Any]) -> str:
    """The field and message with which a changed manifest is refused."""
    document = json.loads(text)
    change(document)
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate_json(json.dumps(document))
    first = caught.value.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def test_it_reads_what_it_wrote(text: str) -> None:
    manifest = Manifest.model_validate_json(text)
    assert manifest.model_dump_json() == text
    assert manifest.detector is manifest.embedder is manifest.models[0]
    assert manifest.real_labels == {"real"}
    assert manifest.models[0].outputs == {"logit": manifest.detector.logit, "embedding": manifest.embedder.embedding}


def test_later_versions_may_describe_more(text: str) -> None:
    document = json.loads(text)
    document |= {"licence": "Apache-2.0"}
    document["parity"] |= {"device": "cpu"}
    figures = {"x": EVALUATION | {"brier": 0.1}}
    assert Manifest.model_validate({**document, "evaluation": figures}).evaluation["x"].model_extra == {"brier": 0.1}
    assert Manifest.model_validate_json(json.dumps(document)).model_dump_json() == text


@pytest.mark.parametrize(
    "path",
    [
        ("models", 0),
        ("models", 0, "input"),
        ("models", 0, "preprocessing"),
        ("models", 0, "preprocessing", "views", 0),
        ("models", 0, "preprocessing", "views", 0, "resize"),
        ("models", 0, "preprocessing", "views", 0, "crop"),
        ("labels", 0),
        ("templates",),
        ("calibration",),
        ("thresholds",),
        ("thresholds", "high"),
        ("probe",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_what_scores_depend_on_must_be_known(text: str, path: tuple[str | int, ...]) -> None:
    def change(document: Document) -> None:
        part: Any = document
        for step in path:
            part = part[step]
        part["sharpen"] = 1

    assert fault(text, change) == f"{'.'.join(map(str, path))}.sharpen: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda d: d.pop("labels"), "labels: Field required"),
        (lambda d: d.update(name=""), "name: String should have at least 1"),
        (lambda d: d["calibration"].update(scale=0), "calibration.scale: Input should be greater than 0"),
        (lambda d: d["calibration"].update(bias=float("nan")), "calibration.bias: Input should be a finite number"),
        (lambda d: d["calibration"].update(prior_generated=1), "calibration.prior_generated: Input should be less"),
        (lambda d: d["files"].update({"model.onnx": "0"}), "files.model.onnx: String should match pattern"),
        (lambda d: d["files"].pop("model.onnx"), ": Value error, no sha256 for ['model.onnx']"),
        (lambda d: d["thresholds"]["low"].update(threshold=0.9), "thresholds: Value error, low 0.9 is above high 0.7"),
        (lambda d: d["templates"].update(embedder="other"), ": Value error, templates were made by 'other'"),
        (lambda d: d["templates"].update(preprocessing_digest="0" * 64), ": Value error, templates were made with"),
        (lambda d: d["models"][0].update(logit=None), ": Value error, exactly one model must have output 'logit'"),
        (lambda d: d["models"].append(d["models"][0]), ": Value error, exactly one model must have output 'logit'"),
        (lambda d: d["labels"][0].update(kind="real"), ": Value error, labels must hold at least one real and one"),
        (lambda d: d["labels"][0].update(name="a\x1b[31m"), "labels.0.name: Value error, has a control character"),
        (lambda d: d.update(name="a\u202eb"), "name: Value error, has a control character or a mark of"),
        (lambda d: d.update(decoder="a\nb"), "decoder: Value error, has a control character"),
        (lambda d: d["models"][0].update(name="a\u2028b"), "models.0.name: Value error, has a control character"),
        (lambda d: d["models"][0]["input"].update(name="\0"), "models.0.input.name: Value error, has a control"),
        (lambda d: d.update(evaluation={"x": {}}), "evaluation.x.images: Field required"),
        (lambda d: d.update(evaluation={"x\x07": EVALUATION}), "evaluation.x\x07.[key]: Value error, has a control"),
        (lambda d: d["models"][0]["input"].update(shape=[1, 2]), "models.0: Value error, input must be uint8 with 4"),
        (lambda d: d["models"][0]["input"].update(dtype="float32"), "models.0: Value error, input must be uint8"),
        (lambda d: d["models"][0]["input"].update(shape=["N", 8, 16, 3]), "models.0: Value error, input must hold"),
        (
            lambda d: d["models"][0]["logit"].update(shape=["N", 2]),
            "models.0: Value error, logit must be float32",
        ),
        (
            lambda d: d["models"][0]["embedding"].update(shape=[1, 1]),
            "models.0: Value error, embedding must be",
        ),
        (lambda d: d["templates"].update(dimension=2), ": Value error, templates are of dimension 2, the embedder's"),
        (lambda d: d["labels"][0].update(name="real"), ": Value error, label names must differ"),
    ],
)
def test_the_field_at_fault_is_named(text: str, change: Callable[[Document], Any], expected: str) -> None:
    assert expected in fault(text, change)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "a/../../b", "a/..", "..", ".", "", ".hidden", "a\\b", "a b", "a\n", "C:x", "a\0"],
)
@pytest.mark.parametrize("field", ["model", "templates", "probe file", "probe image", "files"])
def test_no_file_name_leaves_the_bundle(text: str, name: str, field: str) -> None:
    def change(document: Document) -> None:
        match field:
            case "model":
                document["models"][0]["file"] = name
            case "templates":
                document["templates"]["file"] = name
            case "probe file":
                document["probe"]["file"] = name
            case "probe image":
                document["probe"]["images"] = [name]
            case _:
                document["files"][name] = "0" * 64

    assert "String should match pattern" in fault(text, change)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Resize, {"mode": "exact"}, "'exact' needs a size"),
        (Resize, {"size": 32}, "'none' takes no size"),
        (Resize, {"mode": "exact", "size": 32, "kernel": "lanczos", "antialias": False}, "defined with antialias only"),
        (Crop, {"mode": "centre"}, "'centre' needs a size"),
        (Crop, {"size": 32}, "'none' takes no size"),
        (Crop, {"mode": "grid", "size": 32, "stride": 8}, "stride and max are both needed"),
        (Crop, {"mode": "five", "size": 32, "max": 3}, "stride and max are both needed"),
        (View, {}, "needs a fixed size"),
        (View, {"resize": {"mode": "shorter", "size": 32}}, "needs a fixed size"),
        (Preprocessing, {"views": []}, "at least 1 item"),
        (
            Preprocessing,
            {"views": [{"crop": {"mode": "centre", "size": size}} for size in (16, 32)]},
            "all views of a model have one size",
        ),
    ],
)
def test_recipes_that_mean_nothing(part: type[Any], values: Document, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        part.model_validate(values)


def test_a_recipe_s_digest_is_of_its_meaning() -> None:
    short = Preprocessing.model_validate({"views": [{"crop": {"mode": "centre", "size": 16}}]})
    spelt_out = Preprocessing.model_validate_json(short.model_dump_json())
    other = Preprocessing.model_validate({"views": [{"crop": {"mode": "centre", "size": 16}, "orient": False}]})
    assert short.digest == spelt_out.digest != other.digest
    # Caches are keyed by it, so it is the same on every machine and in every version.
    assert short.digest == "2b6c58035d8cd62e87a7c8e31ff94ac540b65efc72ba47a293c8a4ca88e7cacc"
