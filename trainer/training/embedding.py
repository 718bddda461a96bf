"""Logits, embeddings and class scores of many images, a batch at a time."""

from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from trainer.arrays import Floats, Images
from trainer.data.folder import ImageFolder


def embed(model: nn.Module, images: Images | ImageFolder, batch: int = 256) -> tuple[Floats, Floats]:
    """Logits ``float32[N]`` and embeddings ``float32[N, D]`` of ``uint8[N, H, W, 3]`` or a folder, in float32."""
    logits, embeddings = in_batches(model, images, _device_of(model), batch)
    return logits, embeddings


def class_scores(net: nn.Module, folder: ImageFolder, batch: int = 256) -> Floats:
    """Scores ``float32[N, outputs]`` of a network in training, whose mode is restored."""
    training = net.training
    scores, _ = in_batches(net.eval(), folder, _device_of(net), batch)
    net.train(training)
    return scores


@torch.inference_mode()
def in_batches(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    images: Images | ImageFolder,
    device: torch.device,
    batch: int = 256,
) -> tuple[Floats, ...]:
    """Outputs of a function over ``uint8[N, H, W, 3]`` or a folder, in float32; a folder without a cache is decoded."""
    found = []
    for start in range(0, len(images), batch):
        chosen = slice(start, start + batch)
        pixels = images.pixels(chosen) if isinstance(images, ImageFolder) else images[chosen]
        outputs = function(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
        found.append([output.float().cpu().numpy() for output in outputs])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _device_of(model: nn.Module) -> torch.device:
    return next(chain(model.parameters(), model.buffers())).device
