"""The hardware and the versions that figures depend on, and what processes have used of it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.local.process import children_of
from worker.scoring.engine import cuda_usable

PACKAGES = ("genprint", "kafka-python", "onnxruntime-gpu", "pillow", "numpy", "redis", "torch", "confluent-kafka")
_FLAGS = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_tile"}


def machine() -> dict[str, Any]:
    """Processor, memory, device, operating system, packages."""
    lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    facts = {name.strip(): value.strip() for name, value in lines}
    return {
        "cpu": facts.get("model name", platform.processor()),
        "flags": sorted(_FLAGS & set(facts.get("flags", "").split())),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "device": device(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cores() -> int:
    """Those that we may use."""
    return len(os.sched_getaffinity(0))


def device() -> str:
    """``cuda`` where there is one, as the worker would find it, else ``cpu``."""
    return "cuda" if cuda_usable(0) else "cpu"


def cpu_s(pid: int | None) -> float:
    """User and system seconds of a process and its children so far, all their threads together."""
    ticks = 0
    for each in _family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int | None) -> int:
    """Resident memory of a process and its children now; what they share counts for each."""
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _family(pid)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int | None) -> int:
    """Open descriptors of a process now; those of its decoders nobody may see."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int | None) -> int:
    """Threads of a process and its children now."""
    return sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in _family(pid))


def _family(pid: int | None) -> list[str]:
    """Ids of a process and of its children: a worker's decoders work for it."""
    return [str(pid), *map(str, children_of(pid) if pid else [])]
