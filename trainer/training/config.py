"""Settings that the training runs of all systems share, as one frozen object.

Each system adds its own fields and its paper's defaults in its file in ``trainer/models/``; ``systems.read_config``
makes one of a recipe (TOML) and the options given over it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Crop, Preprocessing, Resize, View
from trainer.choices import MAX_SEED, Fit
from trainer.data.layouts import Layout


class TrainConfig(BaseModel):
    """Settings of every run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: str
    """Name of the system in ``trainer.choices.SYSTEMS``."""

    # The data
    layout: Layout | None = None
    """Layout of the images on disk; None recognises it."""
    split: str | None = None
    """Split to train on, where the data come in splits."""
    val_split: str | None = None
    """Split of the watched images, where they come in splits."""
    size: int = Field(default=128, ge=32, le=1024)
    """Side of the square the network sees, in pixels."""
    fit: Fit = "resize"
    """``resize`` makes every image ``size`` x ``size``; it blurs away traces of images that were larger. ``crop`` takes
    the centre as stored and skips images that are smaller: better evidence, less content."""
    real: tuple[str, ...] = Field(default=("real",), min_length=1)
    """Sub-folders that hold photographs; every other sub-folder is a generator."""
    flip: bool = False
    """Mirror half of the training images left to right; a generator's grid need not be symmetric."""
    max_unreadable: int = Field(default=20, ge=0)
    """Broken images that are listed and skipped before the run stops."""
    cache_mib: int = Field(default=4096, ge=0)
    """MiB of memory for decoded views; where they do not fit, they are decoded anew each epoch."""
    workers: int = Field(default=0, ge=0, le=64)
    """Processes that decode and augment; of use where the cache is too small or augmentation is slow."""

    # The model
    binary: bool = False
    """One output, the log-odds of *generated*, instead of one output a class; templates work with either."""
    l2_normalised: bool = False
    """Embeddings are scaled to length 1 before they are compared with templates."""

    # The optimisation
    epochs: int = Field(default=10, ge=0)
    batch: int = Field(default=128, ge=2)
    """Images a step, over all processes."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate at the start."""
    keep: Literal["last", "best"] = "last"
    """The weights of the last epoch, or of the (first) one with the highest accuracy on the images watched."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of every image in serving, and in training unless a system has another: one view."""
        if self.fit == "resize":
            return Preprocessing(views=(View(resize=Resize(mode="exact", size=self.size)),))
        return Preprocessing(views=(View(crop=Crop(mode="centre", size=self.size)),))

    @property
    def training_preprocessing(self) -> Preprocessing:
        """Preprocessing of a training image before augmentation; larger than ``size`` where that crops."""
        return self.preprocessing

    @property
    def needs_val(self) -> bool:
        """Whether the run is steered by its accuracy on watched images."""
        return self.keep == "best"


def missing_keys(kind: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of the fields of ``kind``, and of the models nested in it, that ``values`` do not give.

    >>> list(missing_keys(TrainConfig, {"system": "s1", "size": 64}))[:3]
    ['layout', 'split', 'val_split']
    """
    for name, field in kind.model_fields.items():
        if name not in values:
            yield name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{key}" for key in missing_keys(field.annotation, values[name]))
