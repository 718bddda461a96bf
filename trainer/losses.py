"""Losses of the papers."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CentreLoss(nn.Module):
    """Pulls features towards the centre of their class (Wen et al., ECCV 2016; eq. 1 of S1).

    ``L = 1/2 mean_i ||x_i - c_{y_i}||^2``. Eq. 1 sums over the batch; we take the mean, as Wen et al.'s own code does.

    Centres are no parameters: they follow their images by ``update``, at a rate of their own. They start at zero.

    Attributes:
        centres: ``float32[C, D]``, the same in all processes.
    """

    centres: Tensor

    def __init__(self, classes: int, dimension: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centres", torch.zeros(classes, dimension))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``float32[N, D]``, ``int64[N]``: a scalar. No gradient reaches the centres."""
        return 0.5 * (embeddings - self.centres[labels]).square().sum(dim=1).mean()

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """``c_j -= rate * sum_{y_i=j}(c_j - x_i) / (1 + n_j)``; the sums run over the batches of all processes."""
        sums = torch.zeros_like(self.centres).index_add_(0, labels, embeddings.to(self.centres.dtype))
        counts = torch.bincount(labels, minlength=len(self.centres)).to(self.centres.dtype)
        if dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        counts = counts[:, None]
        self.centres -= self.rate * (counts * self.centres - sums) / (1 + counts)
