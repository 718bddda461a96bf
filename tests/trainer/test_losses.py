"""Against plain loops over the formulas, and between one process and two."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.losses import CentreLoss

EMBEDDINGS = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 0.5], [2.0, 2.0]])
LABELS = torch.tensor([0, 2, 0, 2])


def make(centres: list[list[float]], rate: float = 0.5) -> CentreLoss:
    loss = CentreLoss(len(centres), 2, rate)
    loss.centres.copy_(torch.tensor(centres))
    return loss


def test_the_loss_is_half_the_mean_squared_distance_to_the_own_centre() -> None:
    loss = make([[1.0, 1.0], [9.0, 9.0], [2.0, 0.0]])

    total = 0.0
    for embedding, label in zip(EMBEDDINGS.tolist(), LABELS.tolist(), strict=True):
        centre = [[1.0, 1.0], [9.0, 9.0], [2.0, 0.0]][label]
        total += 0.5 * sum((x - c) ** 2 for x, c in zip(embedding, centre, strict=True))

    assert loss(EMBEDDINGS, LABELS).item() == pytest.approx(total / 4)


def test_the_gradient_is_the_mean_offset_and_leaves_the_centres_alone() -> None:
    loss = make([[1.0, 1.0], [9.0, 9.0], [2.0, 0.0]])
    embeddings = EMBEDDINGS.clone().requires_grad_()

    loss(embeddings, LABELS).backward()

    assert embeddings.grad is not None
    np.testing.assert_allclose(embeddings.grad, [[0, 0.25], [0.25, -0.25], [-0.25, -0.125], [0, 0.5]])
    assert not list(loss.parameters())


def test_centres_move_by_the_rule_of_wen() -> None:
    centres = [[1.0, 1.0], [9.0, 9.0], [2.0, 0.0]]
    loss = make(centres)

    expected = []
    for number, centre in enumerate(centres):
        own = [e for e, label in zip(EMBEDDINGS.tolist(), LABELS.tolist(), strict=True) if label == number]
        delta = [sum(c - e[axis] for e in own) / (1 + len(own)) for axis, c in enumerate(centre)]
        expected.append([c - 0.5 * d for c, d in zip(centre, delta, strict=True)])
    loss.update(EMBEDDINGS, LABELS)

    np.testing.assert_allclose(loss.centres, expected, rtol=1e-6)
    np.testing.assert_array_equal(loss.centres[1], [9.0, 9.0])  # no image, no move


def test_centres_reach_the_mean_of_a_class_that_stands_still() -> None:
    loss = make([[0.0, 0.0]])
    for _ in range(100):
        loss.update(EMBEDDINGS, torch.zeros(4, dtype=torch.int64))
    np.testing.assert_allclose(loss.centres[0], EMBEDDINGS.mean(0), rtol=1e-5)


WORKER = """
import sys, torch, torch.distributed as dist
from trainer.losses import CentreLoss
rank, rendezvous, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + rendezvous, rank=rank, world_size=2)
embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
labels = torch.tensor([0, 1, 1, 0, 2, 2, 2, 1])
loss = CentreLoss(4, 4, 0.5)
for _ in range(3):
    loss.update(embeddings[rank::2], labels[rank::2])
torch.save(loss.centres, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_hold_the_centres_that_one_would(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}  # noqa: PTH109
    command = [sys.executable, "-c", WORKER]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]

    embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    alone = CentreLoss(4, 4, 0.5)
    for _ in range(3):
        alone.update(embeddings, torch.tensor([0, 1, 1, 0, 2, 2, 2, 1]))

    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone.centres)
