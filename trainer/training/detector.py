"""A trained network as it is served: log-odds of *generated*, and an embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bundle.manifest import Label


class Detector(nn.Module):
    """``uint8[N, H, W, 3]`` -> (logit ``float32[N]``, embedding ``float32[N, D]``).

    The logit is the log-odds of *generated*: ``logsumexp(generator scores) - logsumexp(real scores)``, or the single
    output of the binary variant. The embedding has length 1 where ``l2_normalised``.
    """

    photographs: Tensor

    def __init__(self, net: nn.Module, labels: Sequence[Label], *, binary: bool, l2_normalised: bool) -> None:
        """``labels``: in the order of the outputs of ``net``, unless it is ``binary`` and has one."""
        super().__init__()
        self.net = net
        self.binary, self.l2_normalised = binary, l2_normalised
        photographs = torch.tensor([label.kind == "real" for label in labels])
        self.register_buffer("photographs", photographs, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-odds and embeddings."""
        scores, embedding = self.net(images)
        if self.l2_normalised:
            embedding = nn.functional.normalize(embedding)
        if self.binary:
            return scores[:, 0], embedding
        return log_odds(scores, self.photographs), embedding


def log_odds(scores: Tensor, photographs: Tensor) -> Tensor:
    """Log-odds of *generated*, ``float32[N]``, from class scores.

    Args:
        scores: ``float32[N, C]``, log-likelihoods but for a term that all classes share.
        photographs: ``bool[C]``, which classes are of photographs; at least one is, and one is not.

    Two generators that are as likely as the photographs are twice as likely together:

    >>> round(log_odds(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([True, False, False])).item(), 4)
    0.6931
    """
    return (_logsumexp(~photographs, scores) - _logsumexp(photographs, scores))[:, 0]


def against_simulated(scores: Tensor, photographs: Tensor) -> Tensor:
    """Scores of the C labelled classes, where simulated generators count against photographs.

    An image that looks like a simulated generator is no photograph: the scores of photographs are lowered until the
    log-odds of *generated* are what they would be if simulated classes were labelled generators.

    Args:
        scores: ``float32[N, C + S]``, simulated classes last.
        photographs: ``bool[C]``, which are of photographs.

    Returns:
        ``float32[N, C]``.

    A photograph, a generator and two simulated ones, all as likely: the score of the photograph falls by log(3), so
    that the odds of *generated* are 3 to 1.

    >>> scores, photographs = torch.zeros(1, 4), torch.tensor([True, False])
    >>> known = against_simulated(scores, photographs)
    >>> [round(score, 4) for score in known[0].tolist()]
    [-1.0986, 0.0]
    >>> round(log_odds(known, photographs).exp().item(), 4)
    3.0
    """
    known, simulated = scores[:, : len(photographs)], scores[:, len(photographs) :]
    if simulated.shape[1] == 0:
        return known
    more = nn.functional.softplus(simulated.logsumexp(1, keepdim=True) - _logsumexp(~photographs, known))
    return known - more * photographs


def _logsumexp(chosen: Tensor, scores: Tensor) -> Tensor:
    """``logsumexp`` of the chosen of C classes: ``bool[C]``, ``float32[N, C]`` -> ``float32[N, 1]``.

    The others are set to the least finite number, not to -inf: ONNX Runtime 1.31 takes 0 for the largest score of a row
    that begins with it, and scores of hundreds become infinite. (Its issue 28461 is of the same kind: of nothing but
    -inf it makes NaN.)
    """
    return scores.masked_fill(~chosen, torch.finfo(scores.dtype).min).logsumexp(1, keepdim=True)
