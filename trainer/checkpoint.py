"""One file that holds everything a trained network is: weights, config, labels, and where they come from."""

import io
import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from bundle.manifest import Label
from bundle.preprocess import decoder_version
from trainer.config import TrainConfig
from trainer.errors import CheckpointInvalid, CheckpointMissing
from trainer.models.srm_metric import Detector, SrmMetricNet

FORMAT: Final = "genprint-checkpoint-1"


class Epoch(BaseModel):
    """What one epoch did; means over its images."""

    model_config = ConfigDict(frozen=True)

    number: int
    lr: float
    loss: float
    cross_entropy: float
    centre: float
    accuracy: float
    """Of the training images, as they were seen; by the class scores (by the logit's sign in the binary variant)."""
    images_per_s: float
    val_accuracy: float | None = None


class Origin(BaseModel):
    """Which data and which programs made the weights."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    """``ImageFolder.fingerprint`` of the training images."""
    images: dict[str, int]
    """Training images a class."""
    precision: str
    device: str
    processes: int
    versions: dict[str, str]
    created_at: str


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainConfig
    labels: tuple[Label, ...]
    origin: Origin
    history: tuple[Epoch, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network, on the CPU.

    Attributes:
        labels: in the order of the network's outputs.
        weights: state of ``SrmMetricNet``, the SRM kernels among them.
        centres: ``float32[C, D]``, as the centre loss left them; few-shot training starts from them.
    """

    config: TrainConfig
    labels: tuple[Label, ...]
    origin: Origin
    history: tuple[Epoch, ...]
    weights: Mapping[str, Tensor]
    centres: Tensor

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def fingerprint(self) -> str:
        """Of the training data."""
        return self.origin.fingerprint

    def model(self) -> Detector:
        """A new network in evaluation mode: ``uint8[N, H, W, 3]`` -> (logit, embedding)."""
        net = SrmMetricNet(self.config, len(self.labels))
        net.load_state_dict(self.weights)
        return Detector(net, tuple(label.id for label in self.labels if label.kind == "real")).eval()


def installed_versions() -> dict[str, str]:
    """Of what a run's numbers depend on."""
    versions = {"torch": torch.__version__, "decoder": decoder_version()}
    for package in ("genprint", "torchvision", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "not installed"
    return versions


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all."""
    header = _Header(
        config=checkpoint.config, labels=checkpoint.labels, origin=checkpoint.origin, history=checkpoint.history
    )
    content = {
        "format": FORMAT,
        "header": header.model_dump_json(),
        "weights": {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()},
        "centres": checkpoint.centres,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staging.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; no code in it is run (``weights_only``).

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointInvalid: not a checkpoint, damaged, or of a version that we do not know.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointMissing(f"{path}: no checkpoint here: {error.strerror}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on pickles that it then refuses
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises almost anything on bytes that are no checkpoint
        raise CheckpointInvalid(f"{path}: not a checkpoint, or damaged") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointInvalid(f"{path}: format {found!r}, expected {FORMAT!r}; was it written by `trainer train`?")
    try:
        header = _Header.model_validate_json(content["header"])
        checkpoint = Checkpoint(
            config=header.config,
            labels=header.labels,
            origin=header.origin,
            history=header.history,
            weights=content["weights"],
            centres=content["centres"],
        )
        checkpoint.model()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointInvalid(f"{path}: {where}: {first['msg']}") from error
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointInvalid(f"{path}: incomplete: {' '.join(str(error).split())[:200]}") from error
    return checkpoint
