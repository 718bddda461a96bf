"""How a bundle is made: what the command line and callers may choose."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Shown
from trainer.choices import MAX_SEED, TemplateMethod


class ExportOptions(BaseModel):
    """How a bundle is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Shown | None = None
    """None: ``genprint-`` and the name of the system."""
    add: tuple[Shown, ...] = ()
    """Generators that the source does not know, which get a template of their images in ``train``: the one that the
    system gives a new class, with ``template: own``. The detector's calibration leaves their images out."""
    template: TemplateMethod | None = None
    """``mean`` of a label's training images, ``one`` of them at random as S1 does, or the system's ``own``; None: the
    last, where there are some, or else the first."""
    calib_split: Literal["calib", "val"] = "calib"
    """What to calibrate on. Training and test images would promise too much."""
    calibrate_degraded: bool | None = None
    """Calibrate on a copy of each calibration image as well, degraded as images are on the web
    (``trainer.data.augment.degradation``); None: where the system is trained on such copies."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """A template rejects an image whose conformal p-value is not above it."""
    error_target: float = Field(default=0.01, ge=0, lt=0.5)
    """Share of errors that each threshold allows on the calibration images."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest ``|a - b| / (1 + |b|)`` between PyTorch and ONNX Runtime."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Chooses the image of ``template: one``."""
