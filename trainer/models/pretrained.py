"""Weights that were trained elsewhere, from a file."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bundle.files import open_regular
from trainer.errors import BadConfig


def load_pretrained(module: nn.Module, path: Path, what: str, without: Sequence[str]) -> None:
    """Load a state dict into ``module``, without the entries of its last layer.

    Args:
        module: has exactly the remaining entries.
        path: the file; no code in it is run.
        what: the expected content, for the error: ``a torchvision state dict of resnet50``.
        without: prefixes of the names of the last layer's entries.

    Raises:
        BadConfig: the file is missing, is no state dict, or is one of another network.
    """
    where = f"pretrained: {path}"
    try:
        with open_regular(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(tuple(without))})
    except OSError as error:
        raise BadConfig(f"{where}: no weights here: {error.strerror}") from error
    except Exception as error:  # the unpickler raises almost anything on bytes that are no weights
        reason = " ".join(str(error).split())[:200]
        raise BadConfig(f"{where}: not {what}: {reason}") from error
