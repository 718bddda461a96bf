"""Losses of the papers: modules with their formulas, and where they differ from paper or reference code."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (what everyone calls it)


class CentreLoss(nn.Module):
    """Pulls features towards the centre of their class (Wen et al., ECCV 2016; eq. 1 of S1).

    ``L = 1/2 mean_i ||x_i - c_{y_i}||^2``. Eq. 1 sums over the batch; here it is the mean, as in Wen et al.'s own code.

    Centres are no parameters: they follow their images by ``update``, at a rate of their own. They start at zero.

    Example, one image at (3, 4), five from its centre at the origin: ``1/2 * 5^2``. The centre then moves by
    ``0.5 * (3, 4) / (1 + 1)``.

    >>> loss = CentreLoss(classes=2, dimension=2, rate=0.5)
    >>> images, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    >>> loss(images, labels).item()
    12.5
    >>> loss.update(images, labels)
    >>> loss.centres.tolist()
    [[0.0, 0.0], [0.75, 1.0]]

    Attributes:
        centres: ``float32[C, D]``, the same in all processes.
    """

    centres: Tensor

    def __init__(self, classes: int, dimension: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centres", torch.zeros(classes, dimension))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of ``float32[N, D]``, ``int64[N]``: a scalar. No gradient reaches the centres."""
        return 0.5 * (embeddings - self.centres[labels]).square().sum(dim=1).mean()

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Move centres: ``c_j -= rate * sum_{y_i=j}(c_j - x_i) / (1 + n_j)``, over the batches of all processes."""
        sums = torch.zeros_like(self.centres).index_add_(0, labels, embeddings.to(self.centres.dtype))
        counts = torch.bincount(labels, minlength=len(self.centres)).to(self.centres.dtype)
        if dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        counts = counts[:, None]
        self.centres -= self.rate * (counts * self.centres - sums) / (1 + counts)


class TripletLoss(nn.Module):
    """Brings a new class's images together and away from all others (eq. 2 and 3 of S1; Schroff et al., CVPR 2015).

    ``L = sum [ |a - p|^2 - |a - n|^2 + margin ]_+`` over triplets of an anchor, another image of its class and an image
    of any other class. S1's set of triplets *combines new types with other types*: anchor or negative is of a new
    class.

    What S1 leaves open follows FaceNet: embeddings are L2-normalised first (S1 does not say so; without it a margin has
    no scale), the margin is 0.2 on squared distances, every ordered anchor-positive pair counts, and its negative is
    drawn evenly among those that violate the margin (in FaceNet's public port too; the paper's own *semi-hard* ones
    are fewer and may be none in a small batch). Like eq. 2 and unlike the port it is a sum; Adam does not see the
    scale.

    Example, two images of a class with the same direction, and one of another class at a right angle to them: squared
    distances 0 and 2. A margin of 2.5 is violated by 0.5, for each of the two as anchor:

    >>> images, labels = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> TripletLoss(margin=0.2)(images, labels).item()
    0.0
    >>> TripletLoss(margin=2.5)(images, labels).item()
    1.0

    Args:
        margin: on squared distances, which lie in [0, 4] where embeddings are normalised.
        negatives: ``drawn`` takes one for each pair, ``all`` is eq. 2 to the letter.
        normalise: compare directions, as FaceNet does, instead of the features themselves.
    """

    def __init__(
        self, margin: float = 0.2, negatives: Literal["drawn", "all"] = "drawn", *, normalise: bool = True
    ) -> None:
        super().__init__()
        self.margin, self.negatives, self.normalise = margin, negatives, normalise

    def forward(
        self, embeddings: Tensor, labels: Tensor, new: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Compute the loss, a scalar; zero, with a gradient of zero, where no triplet violates the margin.

        Args:
            embeddings: ``float32[N, D]``.
            labels: ``int64[N]``.
            new: ``bool[N]``, which images are of a new class; without it, all triplets count.
            generator: draws the negatives (``drawn``); None for torch's global generator.
        """
        rows = F.normalize(embeddings, dim=1) if self.normalise else embeddings
        lengths = rows.square().sum(dim=1)
        apart = (lengths[:, None] + lengths - 2 * rows @ rows.T).clamp(min=0)
        same = labels[:, None] == labels
        anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero().T
        allowed = ~same if new is None else ~same & (new[:, None] | new)
        excess = apart[anchors, positives][:, None] - apart[anchors] + self.margin
        violating = allowed[anchors] & (excess > 0)
        if self.negatives == "drawn":
            violating &= _one_of_each_row(violating, generator)
        return excess[violating].sum()


def _one_of_each_row(candidates: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mask ``bool[P, N]`` of one column in each row, drawn evenly among the row's candidates if it has any."""
    device = candidates.device if generator is None else generator.device
    lots = torch.rand(candidates.shape, generator=generator, device=device).to(candidates.device)
    chosen = torch.where(candidates, lots, -1.0).argmax(dim=1) if candidates.numel() else candidates.new_empty(0).long()
    return torch.zeros_like(candidates).scatter_(1, chosen[:, None], value=True)


class SupervisedContrastiveLoss(nn.Module):
    """Supervised contrast: all images of a class are positives (Khosla et al., NeurIPS 2020, eq. 2, ``L_out``).

    ``L = mean_i -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) )`` with L2-normalised
    z. Eq. 2 sums over the anchors; here it is the mean over those that have a positive, as in the authors' code but for
    their factor ``t / base``. Several views of an image are rows of their own with its label.
    With several processes, each contrasts its own images.

    Example, two images of a class with the same direction, and one of another class at a right angle. To the first, its
    positive has similarity 1 and the negative 0: the loss is ``-log(e / (e + 1))``.

    >>> images, labels = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
    >>> round(SupervisedContrastiveLoss(temperature=1.0)(images, labels).item(), 4)
    0.3133

    Args:
        temperature: t; the paper's best is 0.1.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of ``float32[N, D]``, ``int64[N]``: a scalar; zero where no image has a positive."""
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = (labels[:, None] == labels) & ~itself
        with torch.autocast(labels.device.type, enabled=False):  # bfloat16 has too few digits for angles over t
            rows = F.normalize(embeddings.float(), dim=1)
            logits = (rows @ rows.T / self.temperature).masked_fill(itself, torch.finfo(rows.dtype).min)
        chances = F.log_softmax(logits, dim=1).masked_fill(~positive, 0.0)
        counts = positive.sum(dim=1)
        return -(chances.sum(dim=1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class ActivationLoss(nn.Module):
    """One half of the latent space is active for reals, the other for fakes (ForensicTransfer, Cozzolino et al. 2018).

    ``L = mean_i |a_{i,1} - l_i| + |a_{i,0} - (1 - l_i)|`` with l = 1 for generated images and ``a_{i,k}`` the mean
    absolute value of half k of the latent (``part_activations``). It is the mean over the batch, as in the public
    ports. The paper's whole objective adds its reconstruction error with weight 0.1. With more than two parts, that of
    an image's class is to be 1 and all others 0: the same formula for a case that the paper does not have.

    Example, a photograph whose halves have the activations 0.75 and 0.25, where 1 and 0 are wanted:

    >>> ActivationLoss()(torch.tensor([[0.75, 0.25]]), torch.tensor([False])).item()
    0.5
    """

    def forward(self, activations: Tensor, classes: Tensor) -> Tensor:
        """Compute the loss of ``float32[N, K]`` and classes ``int64[N]`` (or ``bool[N]``: generated): a scalar."""
        wanted = F.one_hot(classes.long(), activations.shape[1]).to(activations.dtype)
        return (activations - wanted).abs().sum(dim=1).mean()


def part_activations(latent: Tensor, parts: int = 2) -> Tensor:
    """Mean absolute value of each part of the channels: ``float32[N, K C, ...]`` -> ``float32[N, K]``; reals' first.

    >>> part_activations(torch.tensor([[1.0, -2.0, 0.0, 0.5]])).tolist()
    [[1.5, 0.25]]
    """
    return torch.stack([part.flatten(1).mean(dim=1) for part in latent.abs().chunk(parts, dim=1)], dim=1)
