"""Device, processes and precision of a run."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer.errors import BadConfig
from trainer.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of ``torchrun``; one alone is 0 of 1."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision that the network computes in; ``dtype`` None means plain float32."""

    name: str
    dtype: torch.dtype | None
    scaled: bool
    """Whether the loss is scaled, without which float16 gradients underflow."""


@contextmanager
def join_processes(config: TrainConfig) -> Iterator[World]:
    """Join the processes that ``torchrun`` started: NCCL between GPUs, Gloo between CPUs.

    Raises:
        BadConfig: the batch cannot be shared evenly.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if config.batch % size:
        raise BadConfig(f"batch: {config.batch} images cannot be shared evenly by {size} processes")
    device = choose_device()
    if size == 1:
        yield World(0, 1, device)
        return
    if not dist.is_initialized():
        # Once a process: torchrun's processes do not find each other a second time.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    yield World(rank, size, device)
    dist.barrier()


def choose_device() -> torch.device:
    """Choose the GPU that ``torchrun`` assigns to this process, or the first; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic = True
    return device


def choose_precision(device: torch.device) -> Precision:
    """Choose bfloat16 where the hardware has it; else float16 on GPUs, and float32 on CPUs, as emulation is slower."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", torch.bfloat16, scaled=False)
        return Precision("fp16", torch.float16, scaled=True)
    capabilities = torch.cpu.get_capabilities()
    if any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16")):
        return Precision("bf16", torch.bfloat16, scaled=False)
    return Precision("fp32 (this CPU has no bf16 instructions)", None, scaled=False)
