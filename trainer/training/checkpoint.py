"""Checkpoints: one file with a network's weights, config, labels, and their origin."""

import io
import json
import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from bundle.files import LARGE_FILE_BYTES, read_regular
from bundle.manifest import Label
from trainer.errors import BadConfig, CheckpointInvalid, CheckpointMissing, OutputUnwritable
from trainer.training.config import TrainConfig, missing_keys
from trainer.training.detector import Detector
from trainer.training.systems import make_network, parse_config, system

FORMAT: Final = "genprint-checkpoint-2"
"""Version 1 knew S1 only, and cannot be read."""
_ANEW: Final = "train it anew with `genprint trainer train`"


class Epoch(BaseModel):
    """Figures of one epoch; means over its images."""

    model_config = ConfigDict(frozen=True)

    number: int
    lr: float
    loss: float
    parts: dict[str, float]
    """Parts of the loss by name, unweighted."""
    accuracy: float
    """Accuracy on the training images as augmented, by class scores (in the binary variant by the logit's sign)."""
    images_per_s: float
    val_accuracy: float | None = None


class Addition(BaseModel):
    """Classes that were added to a trained network (``few_shot``)."""

    model_config = ConfigDict(frozen=True)

    images: dict[str, int]
    """Images of each new class."""
    replayed: int
    """Images of known classes, together."""
    fingerprint: str
    """Fingerprint of the folder that the images were drawn from."""
    settings: dict[str, Any]
    losses: tuple[float, ...]
    """Mean loss of each epoch."""


class Origin(BaseModel):
    """The data and the programs that made the weights."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    """``ImageFolder.fingerprint`` of the training images."""
    images: dict[str, int]
    """Number of training images of each class."""
    precision: str
    device: str
    processes: int
    versions: dict[str, str]
    created_at: str
    additions: tuple[Addition, ...] = ()


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[Label, ...]
    origin: Origin
    history: tuple[Epoch, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network, on the CPU.

    Attributes:
        labels: in the order of the network's outputs.
        weights: state of the network, its fixed filters among them.
        objective: state of the losses, S1's centres for example.
    """

    config: TrainConfig
    labels: tuple[Label, ...]
    origin: Origin
    history: tuple[Epoch, ...]
    weights: Mapping[str, Tensor]
    objective: Mapping[str, Tensor]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the training data."""
        return self.origin.fingerprint

    def network(self) -> nn.Module:
        """Make the network as it is trained, in evaluation mode: ``uint8[N, H, W, 3]`` -> (scores, embedding)."""
        net = make_network(self.config, self.labels)
        net.load_state_dict(self.weights)
        return net.eval()

    def model(self) -> Detector:
        """Make the network as it is served, in evaluation mode: ``uint8[N, H, W, 3]`` -> (logit, embedding)."""
        config = self.config
        detector = Detector(self.network(), self.labels, binary=config.binary, l2_normalised=config.l2_normalised)
        return detector.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OutputUnwritable: names the path and the reason.
    """
    header = _Header(labels=checkpoint.labels, origin=checkpoint.origin, history=checkpoint.history)
    content = {
        "format": FORMAT,
        "config": checkpoint.config.model_dump_json(),
        "header": header.model_dump_json(),
        "weights": {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()},
        "objective": {name: tensor.contiguous() for name, tensor in checkpoint.objective.items()},
    }
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staging.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"{path}: cannot be written: {error.strerror}; choose another place") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; no code in it is run (``weights_only``).

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointInvalid: the file is no checkpoint, damaged, of another version, or does not record a config key that
            its system has: no default stands in for what scores may depend on; or a weight is not finite.
    """
    try:
        data = read_regular(path, LARGE_FILE_BYTES)
    except OSError as error:
        raise CheckpointMissing(f"{path}: no checkpoint here: {error.strerror}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on pickles that it then refuses
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises almost anything on bytes that are no checkpoint
        raise CheckpointInvalid(f"{path}: not a checkpoint, or damaged") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointInvalid(f"{path}: format {found!r}, expected {FORMAT!r}; {_ANEW}")
    try:
        header = _Header.model_validate_json(content["header"])
        checkpoint = Checkpoint(
            config=_stored_config(path, json.loads(content["config"])),
            labels=header.labels,
            origin=header.origin,
            history=header.history,
            weights=content["weights"],
            objective=content["objective"],
        )
        checkpoint.model()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointInvalid(f"{path}: {where}: {first['msg']}") from error
    except BadConfig as error:
        raise CheckpointInvalid(f"{path}: config: {error}") from error
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointInvalid(f"{path}: its parts do not fit together: {' '.join(str(error).split())}") from error
    for name, tensor in checkpoint.weights.items():
        if not tensor.isfinite().all():
            raise CheckpointInvalid(f"{path}: weights {name} are not finite numbers; train again, with a smaller --lr")
    return checkpoint


def _stored_config(path: Path, values: Mapping[str, Any]) -> TrainConfig:
    """The config as it was stored, without a default for anything.

    Raises:
        BadConfig: a value cannot be.
        CheckpointInvalid: a key is missing, and a default of today's code would stand in for it.
    """
    if not isinstance(values, dict):
        raise BadConfig(f"expected an object, found {type(values).__name__}")
    kind = system(str(values["system"])).config if "system" in values else TrainConfig
    if missing := list(missing_keys(kind, values)):
        raise CheckpointInvalid(
            f"{path}: config lacks {', '.join(missing)}: scores depend on it, and this checkpoint was written before "
            f"it was recorded; {_ANEW}"
        )
    return parse_config(values)
