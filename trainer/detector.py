"""A trained network as it is served."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bundle.manifest import Label


class Detector(nn.Module):
    """``uint8[N, H, W, 3]`` -> (logit ``float32[N]``, embedding ``float32[N, D]``).

    The logit is the log-odds of *generated*: ``logsumexp(generator scores) - logsumexp(real scores)``, or the single
    output of the binary variant. The embedding has length 1 where ``l2_normalised``.
    """

    real: Tensor
    generators: Tensor

    def __init__(self, net: nn.Module, labels: Sequence[Label], *, binary: bool, l2_normalised: bool) -> None:
        """``labels``: in the order of the outputs of ``net``, unless it is ``binary`` and has one."""
        super().__init__()
        self.net = net
        self.binary, self.l2_normalised = binary, l2_normalised
        for name, kind in (("real", "real"), ("generators", "generator")):
            numbers = torch.tensor([label.id for label in labels if label.kind == kind])
            self.register_buffer(name, numbers, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of *generated*, and embeddings."""
        scores, embedding = self.net(images)
        if self.l2_normalised:
            embedding = nn.functional.normalize(embedding)
        if self.binary:
            return scores[:, 0], embedding
        generated = scores.index_select(1, self.generators).logsumexp(1)
        return generated - scores.index_select(1, self.real).logsumexp(1), embedding
