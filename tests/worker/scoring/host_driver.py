"""A device whose memory is the host's."""

import numpy as np

from worker.scoring.gpu import Bytes


class HostDriver:
    """``Driver`` in host memory that keeps a record of its copies."""

    def __init__(self) -> None:
        self.held: dict[int, Bytes] = {}
        self.uploads: list[tuple[int, int]] = []
        self.failure: Exception | None = None

    def allocate(self, size: int) -> int:
        memory = np.full(size, 255, np.uint8)
        self.held[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, address: int) -> None:
        del self.held[address]

    def pinned(self, size: int) -> Bytes:
        return np.full(size, 254, np.uint8)

    def upload(self, source: Bytes, address: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.uploads.append((address, len(source)))
        self.held[address][: len(source)] = source

    def memory(self) -> tuple[int, int]:
        if self.failure is not None:
            raise self.failure
        return sum(map(len, self.held.values())), 10**9
