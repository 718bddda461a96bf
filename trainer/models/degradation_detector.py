"""Small networks that tell degraded images (resized, blurred, compressed: ``augment.degradation``) from pristine ones.

They see the standardised statistics of ``block_statistics``. A plane would not do: degraded images of one generator may
lie where pristine ones of another do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainer.arrays import Floats, Floats64
from trainer.models.block_statistics import EXTENDED


class DetectorConstants(BaseModel):
    """Constants of the detector and its training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    members: int = Field(default=3, ge=1)
    """Networks whose log-odds are averaged; one alone is right less often."""
    hidden_units: int = Field(default=64, ge=1)
    """Hidden units of each network."""
    batch: int = Field(default=256, ge=1)
    """Images a training step."""
    temperature: float = Field(default=1.5, gt=0)
    """Divisor of the log-odds: the networks have seen the training images, and are too sure of them."""


@dataclass(frozen=True, eq=False)
class DegradedPairs:
    """Standardised statistics of N pristine images, ``float32[N, 1099]``, and of a degraded copy of each."""

    pristine: Floats
    degraded: Floats


class DegradationDetector(nn.Module):
    """Standardised statistics ``float32[N, 1099]`` -> log-odds ``float32[N, 1]`` that the image is degraded.

    The log-odds are the mean of those of networks that were trained apart; side by side these are one. Untrained, the
    log-odds are 0.
    """

    def __init__(self, constants: DetectorConstants) -> None:
        super().__init__()
        units = constants.members * constants.hidden_units
        self.hidden, self.out = nn.Linear(EXTENDED, units), nn.Linear(units, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute the log-odds."""
        found: Tensor = self.out(self.hidden(rows).relu())
        return found


def train_detector(
    detector: DegradationDetector,
    groups: Sequence[DegradedPairs],
    whitening: Floats64,
    constants: DetectorConstants,
    *,
    epochs: int,
    seed: int,
) -> None:
    """Train ``detector`` to tell degraded copies from the images that they are copies of.

    Args:
        detector: gets weights that take statistics as they are, not whitened.
        groups: the images of all known classes, and of each simulated one.
        whitening: ``float64[1099, 1099]``; the networks are trained on statistics times a third of it.
        constants: those that ``detector`` was made with.
        epochs: of each network.
        seed: of weights and batches.
    """
    rows = torch.from_numpy(np.concatenate([part for pairs in groups for part in (pairs.pristine, pairs.degraded)]))
    degraded = torch.cat([torch.arange(2.0).repeat_interleave(len(pairs.pristine)) for pairs in groups])
    middle, scale = rows.mean(dim=0), torch.from_numpy(whitening).float() / 3
    rows = (rows - middle) @ scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = [_train_member(rows, degraded, constants, epochs) for _ in range(constants.members)]
    weights = torch.cat([hidden.weight for hidden, _ in members]) @ scale.T
    divisor = constants.members * constants.temperature
    with torch.no_grad():
        detector.hidden.weight.copy_(weights)
        detector.hidden.bias.copy_(torch.cat([hidden.bias for hidden, _ in members]) - weights @ middle)
        detector.out.weight.copy_(torch.cat([out.weight for _, out in members], dim=1) / divisor)
        detector.out.bias.copy_(torch.cat([out.bias for _, out in members]).sum() / divisor)


def _train_member(
    rows: Tensor, degraded: Tensor, constants: DetectorConstants, epochs: int
) -> tuple[nn.Linear, nn.Linear]:
    """Both layers of one network that has learnt which rows are ``degraded``."""
    hidden, out = nn.Linear(EXTENDED, constants.hidden_units), nn.Linear(constants.hidden_units, 1)
    nn.init.zeros_(out.weight)  # where there is little to learn from, no image looks more degraded than another
    net = nn.Sequential(nn.Dropout(0.3), hidden, nn.ReLU(), nn.Dropout(0.3), out)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    steps = math.ceil(len(rows) / constants.batch) * epochs
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (constants.batch,))
        loss = nn.functional.binary_cross_entropy_with_logits(net(rows[chosen])[:, 0], degraded[chosen])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        rate.step()
    return hidden, out
