"""Against plain loops over the formulas, and between one process and two."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.training.losses import (
    ActivationLoss,
    CentreLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
    part_activations,
)

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
from trainer.training.losses import (
    ActivationLoss,
    CentreLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
    part_activations,
)
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
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]

    embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    alone = CentreLoss(4, 4, 0.5)
    for _ in range(3):
        alone.update(embeddings, torch.tensor([0, 1, 1, 0, 2, 2, 2, 1]))

    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone.centres)


Triplet = tuple[int, int, int]


def triplets(labels: list[int], new: list[bool] | None) -> list[Triplet]:
    """Eq. 3 by plain loops."""
    count = range(len(labels))
    return [
        (a, p, n)
        for a in count
        for p in count
        for n in count
        if a != p and labels[a] == labels[p] and labels[n] != labels[a] and (new is None or new[a] or new[n])
    ]


def excess(rows: list[list[float]], triplet: Triplet, margin: float) -> float:
    a, p, n = (rows[i] for i in triplet)
    near = sum((x - y) ** 2 for x, y in zip(a, p, strict=True))
    far = sum((x - y) ** 2 for x, y in zip(a, n, strict=True))
    return max(0.0, near - far + margin)


def unit(rows: torch.Tensor) -> list[list[float]]:
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.tolist()]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(12, 4, generator=draw, dtype=torch.float64), torch.tensor([0, 1, 2, 3] * 3)


@pytest.mark.parametrize(
    "new", [None, [label == 3 for label in [0, 1, 2, 3] * 3], [label > 1 for label in [0, 1, 2, 3] * 3]]
)
@pytest.mark.parametrize("normalise", [True, False])
def test_triplet_loss_sums_over_all_triplets_of_equation_3(
    batch: tuple[torch.Tensor, torch.Tensor], new: list[bool] | None, normalise: bool
) -> None:
    embeddings, labels = batch
    rows = unit(embeddings) if normalise else embeddings.tolist()
    expected = sum(excess(rows, triplet, 0.2) for triplet in triplets(labels.tolist(), new))

    loss = TripletLoss(negatives="all", normalise=normalise)
    found = loss(embeddings, labels, None if new is None else torch.tensor(new))
    assert found.item() == pytest.approx(expected)


def test_a_triplet_by_hand() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.6, 0.8]])  # directions 0, 90 and about 53 degrees
    # 0 -> 1: 2 - (2 - 2 * 0.6) + 0.2 = 1.4; 1 -> 0: 2 - (2 - 2 * 0.8) + 0.2 = 1.8
    assert TripletLoss()(embeddings, torch.tensor([7, 7, 4])).item() == pytest.approx(3.2)


def test_one_violating_negative_is_drawn_for_each_pair_and_all_get_their_turn(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    embeddings, labels = batch
    rows = unit(embeddings)
    choices: dict[tuple[int, int], list[float]] = {}
    for triplet in triplets(labels.tolist(), None):
        if (size := excess(rows, triplet, 0.2)) > 0:
            choices.setdefault(triplet[:2], []).append(size)

    draw = torch.Generator().manual_seed(0)
    losses = [TripletLoss()(embeddings, labels, generator=draw).item() for _ in range(3000)]

    assert sum(map(min, choices.values())) <= min(losses) < max(losses) <= sum(map(max, choices.values()))
    expected = sum(sum(sizes) / len(sizes) for sizes in choices.values())
    variance = sum(float(np.var(sizes)) for sizes in choices.values())
    assert np.mean(losses) == pytest.approx(expected, abs=4 * math.sqrt(variance / 3000))
    assert np.var(losses) == pytest.approx(variance, rel=0.15)


def test_a_seed_draws_the_same_negatives_twice(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (TripletLoss()(*batch, generator=torch.Generator().manual_seed(5)).item() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [0, 0, 1]])
def test_a_batch_without_violations_has_no_loss_and_no_gradient(labels: list[int]) -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.1]], requires_grad=True)
    loss = TripletLoss()(embeddings, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_supervised_contrastive_loss_is_equation_2(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    embeddings, labels = batch[0], torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 9])  # the last one has no positive
    rows, numbers = unit(embeddings), labels.tolist()

    def similarity(i: int, j: int) -> float:
        return sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / 0.1

    terms = []
    for i in range(11):
        others = [a for a in range(12) if a != i]
        below = sum(math.exp(similarity(i, a)) for a in others)
        own = [p for p in others if numbers[p] == numbers[i]]
        terms.append(-sum(math.log(math.exp(similarity(i, p)) / below) for p in own) / len(own))

    assert SupervisedContrastiveLoss()(embeddings, labels).item() == pytest.approx(sum(terms) / 11)


def test_contrast_by_hand() -> None:
    embeddings = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    loss = SupervisedContrastiveLoss(temperature=1.0)(embeddings, torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 1)))
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("images", [1, 3])
def test_without_a_positive_there_is_no_contrast(images: int) -> None:
    embeddings = torch.eye(images, 3, requires_grad=True)
    loss = SupervisedContrastiveLoss()(embeddings, torch.arange(images))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_activation_loss_by_hand() -> None:
    latent = torch.tensor(
        [[[1.0, -1.0], [0.0, 2.0], [0.5, 0.5], [0.0, -1.0]], [[0.0, 0.0], [0.0, 0.4], [3.0, 0.0], [1.0, 0.0]]]
    )
    activations = part_activations(latent)
    np.testing.assert_allclose(activations, [[1.0, 0.5], [0.1, 1.0]])

    # a real: |0.5 - 0| + |1 - 1|; a fake: |1 - 1| + |0.1 - 0|
    assert ActivationLoss()(activations, torch.tensor([False, True])).item() == pytest.approx((0.5 + 0.1) / 2)
    # the other way round: |0.5 - 1| + |1 - 0|, |1 - 0| + |0.1 - 1|
    assert ActivationLoss()(activations, torch.tensor([True, False])).item() == pytest.approx((1.5 + 1.9) / 2)
