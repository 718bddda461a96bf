"""Everything a training run depends on: one frozen object, from a recipe (TOML) and the options given over it.

The defaults are S1 as published (Xuan et al., WIFS 2019); where the paper is silent the field says what we took.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bundle.manifest import Crop, Preprocessing, Resize, View
from trainer.errors import BadConfig


class TrainConfig(BaseModel):
    """A run of system S1: SRM filters -> ResNet -> feature; cross-entropy + centre loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: Literal["s1"] = "s1"

    # The data
    size: int = Field(default=128, ge=32, le=1024)
    """Side of the square the network sees, in pixels."""
    fit: Literal["resize", "crop"] = "resize"
    """``resize`` makes every image ``size`` x ``size``, as the paper does; it blurs away traces of images that were
    larger. ``crop`` takes the centre as stored and skips images that are smaller: better evidence, less content."""
    real: tuple[str, ...] = Field(default=("real",), min_length=1)
    """Sub-folders that hold photographs; every other sub-folder is a generator."""
    flip: bool = False
    """Mirror half of the training images left to right. The paper does not say; off, because a generator's grid need
    not be symmetric."""
    max_unreadable: int = Field(default=20, ge=0)
    """Broken images that are listed and skipped before the run stops."""
    cache_mib: int = Field(default=4096, ge=0)
    """Views are kept decoded in memory where they fit this budget, and decoded anew each epoch where not."""
    workers: int = Field(default=0, ge=0, le=64)
    """Processes that decode; of use only where the cache is too small."""

    # The model
    backbone: Literal["resnet18", "resnet50"] = "resnet18"
    """The paper says "ResNet". 18 layers reach its figures here and train four times faster than 50."""
    srm: Literal["rgbn3", "srm30"] = "rgbn3"
    """The three kernels of RGB-N (the likeliest reading of the paper) or the thirty of the Spatial Rich Model."""
    srm_truncation: float | None = Field(default=None, gt=0)
    """Clip residuals to [-T, T], on the 0-255 scale. The paper does not mention it; forensic ports use 3."""
    embedding: int = Field(default=512, ge=2)
    binary: bool = False
    """One output and a sigmoid (the paper's Table I) instead of one output a class; templates work with either."""

    # The optimisation
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=128, ge=2)
    """Images a step, over all processes."""
    lr: float = Field(default=1e-3, gt=0)
    lr_decay: float = Field(default=0.8, gt=0, lt=1)
    """Factor on the rate after every epoch. The paper only says that it is reduced; 0.8 ends ten epochs at 13 %."""
    centre_weight: float = Field(default=0.005, ge=0)
    """Weight of the centre loss beside the cross-entropy; the middle of Wen et al.'s 0.003-0.008. It multiplies the
    batch **mean**, as their own implementation does, where eq. 1 writes a sum: at batch 128 that is 128 times less."""
    centre_rate: float = Field(default=0.5, ge=0, le=1)
    """How far a centre moves towards its images in a step (Wen et al.: 0.5)."""
    seed: int = Field(default=0, ge=0)

    @property
    def preprocessing(self) -> Preprocessing:
        """What every image goes through, in training as in serving: one view of ``size``."""
        if self.fit == "resize":
            return Preprocessing(views=(View(resize=Resize(mode="exact", size=self.size)),))
        return Preprocessing(views=(View(crop=Crop(mode="centre", size=self.size)),))


def read_config(recipe: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """The recipe's values, with ``overrides`` (those not None) over them, and the defaults beneath.

    Raises:
        BadConfig: the file is missing or malformed; or a key or value is not one of ours.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        try:
            values = tomllib.loads(recipe.read_text())
        except OSError as error:
            raise BadConfig(f"{recipe}: no recipe here: {error.strerror}") from error
        except ValueError as error:
            raise BadConfig(f"{recipe}: not TOML: {error}") from error
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{recipe}: " if recipe is not None else ""
        raise BadConfig(f"{where}{key}: {first['msg']}, got {first['input']!r}") from error
