"""Systems: the parts that a detector of the literature consists of, and the registry of all.

A system is one file in ``trainer/models/`` with a config of its own and a ``SYSTEM``: a network, the losses it is
trained by, an optimiser, a schedule, augmentations; parts that it leaves out have defaults. ``loop.py`` trains any.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bundle.documents import read_toml
from bundle.manifest import Label
from trainer.arrays import Pixels
from trainer.choices import SYSTEMS
from trainer.data.enlarged import Enlarged
from trainer.data.folder import ImageFolder
from trainer.errors import BadConfig, first_fault
from trainer.training.config import TrainConfig
from trainer.training.schedules import Constant, Schedule

AugmentImage = Callable[[Pixels, np.random.Generator], Pixels]
"""Augmentation of one image of ``training_preprocessing``, in the data loader; gives ``uint8[size, size, 3]``."""
AugmentBatch = Callable[[Tensor], Tensor]
"""Augmentation of ``uint8[N, size, size, 3]`` on the device, with draws of torch's global generator on the CPU."""


class Losses(NamedTuple):
    """Losses of one batch: means over its images."""

    total: Tensor
    """Scalar, of which the gradient is taken."""
    parts: dict[str, Tensor]
    """Scalars by name, unweighted; reported for each epoch."""
    scores: Tensor
    """``float32[N, outputs]``, one row an image; classes that are only there to learn from come after the outputs."""
    embedding: Tensor
    """``float32[N, D]``."""


class Objective(nn.Module):
    """Losses that train a network: cross-entropy over the labels, or over *generated* in the binary variant.

    A system with other losses overrides ``forward``; parameters and buffers of an objective are kept in the checkpoint
    beside the network, and its parameters are trained.
    """

    generated: Tensor
    done: float = 0.0
    """Share of the run's epochs that are done; the loop sets it before each."""

    def __init__(self, config: TrainConfig, labels: Sequence[Label]) -> None:
        super().__init__()
        self.binary = config.binary
        kinds = torch.tensor([label.kind == "generator" for label in labels])
        self.register_buffer("generated", kinds, persistent=False)

    def forward(self, net: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Compute the losses of ``net`` on ``uint8[N, H, W, 3]``, ``int64[N]``.

        ``net`` may be called several times and any of its methods used: processes share the gradients of all that
        happens in here. It runs under autocast where the device has it, so losses are computed from float32.
        """
        scores, embedding = net(images)
        scores = scores.float()
        loss = self.classification(scores, labels)
        return Losses(loss, {"cross_entropy": loss}, scores, embedding)

    def after_step(self, losses: Losses, labels: Tensor) -> None:
        """Called after the optimiser's step, without gradients: moves centres or memory banks, for example."""

    def classification(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of ``float32[N, outputs]``: softmax over labels, or sigmoid of the single output."""
        if self.binary:
            return nn.functional.binary_cross_entropy_with_logits(scores[:, 0], self.generated[labels].float())
        return nn.functional.cross_entropy(scores, labels)

    def right(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Which images are predicted right, ``bool[N]``: by the largest score, or by the sign of the single output."""
        if self.binary:
            return (scores[:, 0] > 0) == self.generated[labels]
        return scores.argmax(1) == labels


C = TypeVar("C", bound=TrainConfig)


def adam(config: TrainConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Make Adam with its default parameters, over network and objective."""
    # Not ``fused``, though thrice as fast on a CPU: PyTorch 2.14 takes a gradient for one in the parameter's own order.
    return torch.optim.Adam(module.parameters(), lr=config.lr)


def constant(_config: TrainConfig, _optimiser: torch.optim.Optimizer, _steps: int) -> Schedule:
    """Make a schedule that keeps the rate."""
    return Constant()


@dataclass(frozen=True, slots=True)
class System(Generic[C]):
    """A system, whose functions get its own config.

    Attributes:
        source: the paper, as it is displayed.
        config: class of its config, whose field ``system`` has the registered name as type and default.
        summary: the network in a few words, as it is displayed.
        network: (config, outputs) -> ``uint8[N, H, W, 3]`` -> (scores ``float32[N, outputs]``, embedding
            ``float32[N, D]``); casting, normalisation and filters are inside, and it exports to ONNX with a free batch.
            outputs is the number of labels, or 1 (log-odds of *generated*) in the binary variant.
        start: (config, new network): loads weights before training, pretrained ones for example.
        enlarge: (config, training images, progress(done, total)) -> the images of an epoch, where they are more than
            those; only the objective uses their classes after the known ones. Runs in every process and
            must give the same in each.
        objective: (config, labels in the order of the outputs) -> losses.
        optimiser: (config, module that holds ``net`` and ``objective``) -> optimiser.
        schedule: (config, optimiser, steps an epoch) -> the learning rate over time.
        augment_image: config -> augmentation of each training image, or None.
        augment_batch: config -> augmentation of each training batch, or None.
        trained_on_degraded: whether it is trained on degraded copies (``augment.degradation``), to be served such
            images: its bundles are calibrated on degraded copies as well.
        fit: (config, network, training images, progress(done, total)): fits what has a closed form after the epochs,
            on the network in evaluation mode; systems without gradients set ``epochs`` to 0. Runs in every process and
            must give the same in each.
        templates: (config, trained weights, number of labels) -> ``float32[C, D]``: a template a label in the space of
            the embeddings as they are served, where training itself makes some.
        template_for_new_class: (config, trained weights, embeddings ``float32[n, D]`` of a class that training did not
            know) -> ``float32[D]``: its template, where it is not their mean (of length 1, where embeddings are).
    """

    source: str
    config: type[C]
    summary: Callable[[C], str]
    network: Callable[[C, int], nn.Module]
    start: Callable[[C, nn.Module], None] = lambda _config, _net: None
    enlarge: Callable[[C, ImageFolder, Callable[[int, int], None]], Enlarged] | None = None
    objective: Callable[[C, Sequence[Label]], Objective] = Objective
    optimiser: Callable[[C, nn.Module], torch.optim.Optimizer] = adam
    schedule: Callable[[C, torch.optim.Optimizer, int], Schedule] = constant
    augment_image: Callable[[C], AugmentImage | None] = lambda _: None
    augment_batch: Callable[[C], AugmentBatch | None] = lambda _: None
    trained_on_degraded: bool = False
    fit: Callable[[C, nn.Module, ImageFolder, Callable[[int, int], None]], None] | None = None
    templates: Callable[[C, Mapping[str, Tensor], int], Tensor] | None = None
    template_for_new_class: Callable[[C, Mapping[str, Tensor], Tensor], Tensor] | None = None


def system(name: str) -> System[Any]:
    """Look up a system by its name.

    Raises:
        BadConfig: there is none of that name.
    """
    if name not in SYSTEMS:
        raise BadConfig(f"system: no system {name!r}, only {', '.join(SYSTEMS)}")
    found: System[Any] = import_module(SYSTEMS[name]).SYSTEM
    return found


def make_network(config: TrainConfig, labels: Sequence[Label]) -> nn.Module:
    """Make a new network of the config's system, with an output a label, or one in the binary variant."""
    net: nn.Module = system(config.system).network(config, 1 if config.binary else len(labels))
    return net


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """Make the config of the system that ``values`` name under ``system`` (S1 where they name none).

    >>> parse_config({"system": "s2", "batch": 16}).batch
    16
    >>> parse_config({"size": 4})
    Traceback (most recent call last):
    trainer.errors.BadConfig: size: Input should be greater than or equal to 32, got 4

    Raises:
        BadConfig: names the unknown system, or the first invalid key with its value.
    """
    try:
        config: TrainConfig = system(str(values.get("system", "s1"))).config.model_validate(dict(values))
    except ValidationError as error:
        key, fault = first_fault(error)
        raise BadConfig(f"{key}: {fault}") from error
    return config


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse texts ``KEY=VALUE``; a value is read as TOML, and as a text where it is none.

    >>> parse_settings(["epochs=3", 'real=["photos"]', "backbone=resnet18", "flip=true"])
    {'epochs': 3, 'real': ['photos'], 'backbone': 'resnet18', 'flip': True}

    Raises:
        BadConfig: a text has no ``=``.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadConfig(f"--set {setting}: expected KEY=VALUE")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):  # not TOML; or lists in thousands of lists, or as many digits
            values[key.strip()] = value
    return values


def read_config(recipe: Path | None, overrides: Mapping[str, Any]) -> TrainConfig:
    """Make a config of the recipe's values, with ``overrides`` (those not None) over them and the defaults beneath.

    Raises:
        BadConfig: the file is missing or malformed; or a key or value is invalid.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        try:
            values = read_toml(recipe)
        except OSError as error:
            raise BadConfig(f"{recipe}: no recipe here: {error.strerror}") from error
        except ValueError as error:
            raise BadConfig(f"{recipe}: not TOML: {error}") from error
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return parse_config(values)
    except BadConfig as error:
        raise BadConfig(f"{recipe}: {error}" if recipe is not None else str(error)) from error
