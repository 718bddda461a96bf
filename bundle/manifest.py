"""``manifest.json``: everything that the worker needs to know about models and templates, declared once.

Evolution: schema version 1 only gains optional fields. A reader ignores descriptive fields that it does not know,
but refuses unknown fields where they would change a score (``Exact``): leaving out a preprocessing step silently would
give wrong verdicts.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from bundle.text import has_controls

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_](\.?[A-Za-z0-9_/-])*$")]
"""A relative POSIX path inside the bundle; never two dots in a row, so it cannot leave it."""


def _shown(text: str) -> str:
    if has_controls(text):
        raise ValueError("has a control character or a mark of writing direction")
    return text


Shown = Annotated[str, StringConstraints(min_length=1), AfterValidator(_shown)]
"""A text that is printed on terminals."""
Probability = Annotated[float, Field(ge=0, le=1)]
Prior = Annotated[float, Field(gt=0, lt=1)]


class Exact(BaseModel):
    """A part that scores depend on: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Descriptive(BaseModel):
    """A part that only describes: unknown fields of a later version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _later(default: Any) -> Any:
    """The default of a field that was added later: it stays out of the JSON, so that older digests remain."""
    return Field(default=default, exclude_if=lambda value: value == default)


class Resize(Exact):
    """``exact`` makes both sides ``size``; ``shorter`` and ``longer`` make that side ``size`` and keep the shape."""

    mode: Literal["none", "exact", "shorter", "longer"] = "none"
    size: int | None = Field(default=None, ge=8, le=4096)
    kernel: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    antialias: bool = True
    """False samples the source at single points (bilinear and bicubic only), as ``align_corners=False`` ports do; but
    Pillow's bicubic kernel has a = -1 there, where PyTorch and OpenCV have -0.75."""
    library: Literal["pillow", "torchvision", "torch", "opencv"] = _later("pillow")
    """Whose pixels it gives; see ``bundle.resampling``."""
    rounding: Literal["nearest", "down"] = _later("nearest")
    """Of the other side's length where the shape is kept: to the nearest (a half to the even number) as Pillow and
    OpenCV round, or down as torchvision and transformers do."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.mode == "none") != (self.size is None):
            raise ValueError(f"resize {self.mode!r} {'takes no' if self.mode == 'none' else 'needs a'} size")
        if not self.antialias and self.kernel not in ("bilinear", "bicubic"):
            raise ValueError(f"kernel {self.kernel!r} is defined with antialias only")
        if self.library != "pillow" and self.kernel not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(f"kernel {self.kernel!r} is Pillow's only, not that of {self.library}")
        if self.library == "opencv" and self.antialias and self.kernel != "nearest":
            raise ValueError("opencv resizes without antialias")
        return self


class Crop(Exact):
    """Which squares are cut out.

    ``five`` is the centre and the corners, ``ten`` their mirror images too; ``grid`` walks by ``stride`` and keeps
    ``max`` evenly chosen crops.
    """

    mode: Literal["none", "centre", "five", "ten", "grid"] = "none"
    size: int | None = Field(default=None, ge=8, le=4096)
    stride: int | None = Field(default=None, ge=1)
    max: int | None = Field(default=None, ge=1, le=1024)
    rounding: Literal["nearest", "down"] = _later("down")
    """Of the centre's place where a pixel is left over: down, or a half to the even number as torchvision does."""
    multiple: int = _later(1)
    """Crops start at multiples of so many pixels, rounded down; not those of a grid, which has its stride."""

    @property
    def most(self) -> int:
        """Crops of an image at most."""
        return {"none": 1, "centre": 1, "five": 5, "ten": 10, "grid": self.max or 0}[self.mode]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.multiple != 1 and (self.multiple < 1 or self.mode in ("none", "grid")):
            raise ValueError(f"multiple {self.multiple} must be at least 1, and has no meaning with crop {self.mode!r}")
        if (self.mode == "none") != (self.size is None):
            raise ValueError(f"crop {self.mode!r} {'takes no' if self.mode == 'none' else 'needs a'} size")
        if {self.stride is not None, self.max is not None} != {self.mode == "grid"}:
            raise ValueError("stride and max are both needed for a grid of crops and for nothing else")
        return self


class View(Exact):
    """One way to cut a fixed-size square (or several) out of an image; applied in the order of the fields."""

    orient: bool = True
    """Turn the image upright as its EXIF orientation says."""
    alpha: Literal["white", "drop"] = _later("white")
    """Show the image over white, or take the colours that it has where it is transparent, as Pillow's
    ``convert("RGB")`` does."""
    jpeg: int | None = Field(default=None, ge=1, le=100, exclude_if=lambda value: value is None)
    """Code the image as JPEG of this quality first (Pillow, 4:2:0)."""
    colour: Literal["rgb"] = "rgb"
    resize: Resize = Resize()
    crop: Crop = Crop()
    on_small: Literal["unsure", "reflect", "upscale", "zero_pad", "tile"] = "unsure"
    """What to do with an image that is smaller than the crop; ``unsure`` gives no view of it, ``tile`` repeats it to
    the right and downwards."""

    @property
    def size(self) -> int:
        """Side of the square, in pixels."""
        size = self.crop.size if self.crop.mode != "none" else self.resize.size
        assert size is not None  # _fixed_size
        return size

    @model_validator(mode="after")
    def _fixed_size(self) -> Self:
        if self.crop.mode == "none" and self.resize.mode != "exact":
            raise ValueError("a view needs a fixed size: resize 'exact' or a crop")
        return self


class Preprocessing(Exact):
    """From a decoded image to ``uint8[views, size, size, 3]``; carried out by ``bundle.preprocess`` alone."""

    views: tuple[View, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Side of every view, in pixels."""
        return self.views[0].size

    @property
    def drops_alpha(self) -> bool:
        """Whether a view is of the colours below transparency."""
        return any(view.alpha == "drop" for view in self.views)

    @property
    def most_views(self) -> int:
        """Views of an image at most."""
        return sum(view.crop.most for view in self.views)

    @property
    def digest(self) -> str:
        """Identity of the preprocessing: sha256 of its canonical JSON."""
        return canonical_digest(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if len({view.size for view in self.views}) > 1:
            raise ValueError("all views of a model have one size")
        return self


class Tensor(Exact):
    """A graph's input or output; symbolic axes are strings."""

    name: Shown
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | Shown, ...]


class Model(Exact):
    """One ONNX graph: ``uint8[M, H, W, 3]`` in (M = images x views); cast, normalisation and filters are inside."""

    name: Shown
    file: FileName
    input: Tensor
    logit: Tensor | None = None
    """``float32[M]``: log-odds of *generated*, uncalibrated; the detector's output."""
    embedding: Tensor | None = None
    """``float32[M, D]``: embeddings; the embedder's output."""
    preprocessing: Preprocessing
    logit_over_views: Literal["mean", "max", "trimmed"] = "mean"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    opset: int

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs that are read, by role: ``logit``, ``embedding``."""
        roles = {"logit": self.logit, "embedding": self.embedding}
        return {role: tensor for role, tensor in roles.items() if tensor is not None}

    @model_validator(mode="after")
    def _tensors(self) -> Self:
        ranks = {"input": ("uint8", 4), "logit": ("float32", 1), "embedding": ("float32", 2)}
        for name, tensor in {"input": self.input, **self.outputs}.items():
            dtype, rank = ranks[name]
            if tensor.dtype != dtype or len(tensor.shape) != rank or not isinstance(tensor.shape[0], str):
                raise ValueError(f"{name} must be {dtype} with {rank} axes, of which the first is free (a name)")
        size = self.preprocessing.size
        axes = zip(self.input.shape[1:], (size, size, 3), strict=True)
        if any(isinstance(axis, int) and axis != wanted for axis, wanted in axes):
            raise ValueError(f"input must hold views of {size} x {size} pixels and 3 channels")
        return self


class Label(Exact):
    """A name that a verdict or template can give: photographs (``real``), or a family or checkpoint of generators."""

    id: int = Field(ge=0)
    name: Shown
    kind: Literal["real", "generator"]
    level: Literal["family", "checkpoint"] = "family"
    in_detector: bool = True
    """False for a label that only the template library knows, since it was added after the detector was trained."""


class TemplateSpec(Exact):
    """How to read ``templates.npz``: which embeddings it holds and how they are compared."""

    file: FileName = "templates.npz"
    embedder: Shown
    preprocessing_digest: Sha256
    metric: Literal["l2"] = "l2"
    l2_normalised: bool
    dimension: int = Field(ge=1)
    alpha: Probability
    """A template accepts an image whose conformal p-value is above alpha."""


class Calibration(Exact):
    """``probability = sigmoid(scale * logit + bias)`` at ``prior_generated`` (Platt scaling)."""

    method: Literal["platt"] = "platt"
    scale: float = Field(gt=0)
    bias: float
    prior_generated: Prior
    count_real: int
    count_generated: int


class OperatingPoint(Exact):
    """A threshold on the calibrated probability and the error it made on the calibration images."""

    threshold: Probability
    error: Literal["false_positive_rate", "false_negative_rate"]
    target: Probability
    observed: Probability
    interval_95: tuple[Probability, Probability]
    """Exact (Clopper-Pearson) interval of ``observed``."""
    count: int


class Thresholds(Exact):
    """At or above ``high`` the detector decides *generated*, below ``low`` *real*, between them neither."""

    low: OperatingPoint
    high: OperatingPoint

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low.threshold > self.high.threshold:
            raise ValueError(f"low {self.low.threshold} is above high {self.high.threshold}")
        return self


class Parity(Descriptive):
    """How far ONNX Runtime was from PyTorch on real images when the bundle was made."""

    tolerance: float
    """Largest allowed ``|a - b| / (1 + |b|)`` of any output; the probe is held to it as well."""
    logit_error: float
    embedding_error: float
    images: int


class ProbeSpec(Exact):
    """Files of the probe: the expected pixels and outputs, and the images."""

    file: FileName = "probe/expected.npz"
    images: tuple[FileName, ...] = Field(min_length=1)


class Evaluation(BaseModel):
    """What the bundle reached on a split when it was made; figures that a later version adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    images: int
    data_fingerprint: str = ""
    top1_by_template: float
    recall: dict[str, float] = {}
    """Of each label."""
    auroc: float | None
    average_precision: float | None = None
    """None, as AUROC, where all images are of one kind."""


class Manifest(Descriptive):
    """The declaration of a bundle. Scores depend on all fields but the last, descriptive ones."""

    schema_version: Literal[1] = 1
    name: Shown
    version: Shown
    created_at: Shown
    models: tuple[Model, ...] = Field(min_length=1, max_length=2)
    labels: tuple[Label, ...] = Field(min_length=2)
    templates: TemplateSpec
    calibration: Calibration
    thresholds: Thresholds
    probe: ProbeSpec
    files: dict[FileName, Sha256]
    parity: Parity
    decoder: Shown
    """``preprocess.decoder_version()`` at export."""
    versions: dict[str, str] = {}
    training: dict[str, Any] = {}
    evaluation: dict[Shown, Evaluation] = {}

    @property
    def detector(self) -> Model:
        """The model that gives a logit."""
        return next(model for model in self.models if model.logit is not None)

    @property
    def embedder(self) -> Model:
        """The model that gives an embedding; often the detector itself."""
        return next(model for model in self.models if model.embedding is not None)

    @property
    def real_labels(self) -> frozenset[str]:
        """Names of the labels that mean photographs."""
        return frozenset(label.name for label in self.labels if label.kind == "real")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for output in ("logit", "embedding"):
            found = [model.name for model in self.models if getattr(model, output) is not None]
            if len(found) != 1:
                raise ValueError(f"exactly one model must have output {output!r}, found {found}")
        if self.templates.embedder != self.embedder.name:
            raise ValueError(
                f"templates were made by {self.templates.embedder!r}, the embedder is {self.embedder.name!r}"
            )
        if self.templates.preprocessing_digest != self.embedder.preprocessing.digest:
            raise ValueError("templates were made with another preprocessing than the embedder's")
        assert self.embedder.embedding is not None
        if self.embedder.embedding.shape[1] != self.templates.dimension:
            raise ValueError(
                f"templates are of dimension {self.templates.dimension}, "
                f"the embedder's output of {self.embedder.embedding.shape[1]}"
            )
        if {label.kind for label in self.labels} != {"real", "generator"}:
            raise ValueError("labels must hold at least one real and one generator label")
        if len({label.name for label in self.labels}) != len(self.labels):
            raise ValueError("label names must differ")
        named = {model.file for model in self.models} | {self.templates.file, self.probe.file, *self.probe.images}
        if missing := named - self.files.keys():
            raise ValueError(f"no sha256 for {sorted(missing)}")
        return self


def canonical_digest(value: object) -> str:
    """Sha256 (hex) of the JSON text of ``value`` with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
