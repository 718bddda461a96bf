"""Batches on a CUDA device: copied from page-locked memory, once for all models, while the batch before is computed.

The copies go through the driver's own library, the runs through ONNX Runtime's I/O binding. Written against their
documentation and tested with a driver in host memory (tests/worker/scoring/test_gpu.py), but not on a GPU.
"""

import ctypes
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bundle.manifest import Model
from bundle.views import Views
from worker.errors import DeviceFailed

Bytes = npt.NDArray[np.uint8]

LIBRARY = "libcuda.so.1"
_SLOTS = 2
"""One batch is computed while the next is copied."""
_ALIGNMENT = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: copies do not wait for ONNX Runtime's stream, nor that for them


class Driver(Protocol):
    """Memory of a device, and copies to it. Every call may raise DeviceFailed."""

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes on the device and return their address."""

    def free(self, address: int) -> None:
        """Free what ``allocate`` returned."""

    def pinned(self, size: int) -> Bytes:
        """``uint8[size]`` in page-locked memory, which the device reads directly; kept until the process ends."""

    def upload(self, source: Bytes, address: int) -> None:
        """Copy to the device, and return when the copy is complete."""

    def memory(self) -> tuple[int, int]:
        """Bytes used by all processes, and bytes in total."""


class CudaDriver:
    """``Driver`` through libcuda, in the context that ONNX Runtime uses as well (the device's primary one)."""

    def __init__(self, library: Any, device_id: int) -> None:
        self._cuda = library
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        device = ctypes.c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), device_id)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        with self._current():
            self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)

    def allocate(self, size: int) -> int:
        """See ``Driver``."""
        address = ctypes.c_uint64()
        with self._current():
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """See ``Driver``."""
        with self._current():
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def pinned(self, size: int) -> Bytes:
        """See ``Driver``."""
        address = ctypes.c_void_p()
        with self._current():
            self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def upload(self, source: Bytes, address: int) -> None:
        """See ``Driver``; releases the GIL meanwhile."""
        where, size = ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(source.nbytes)
        with self._current():
            self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), where, size, self._stream)
            self._call("cuStreamSynchronize", self._stream)

    def memory(self) -> tuple[int, int]:
        """See ``Driver``."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self._current():
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value, total.value

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make the context current on this thread for the time of a block."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise DeviceFailed(f"cuda: {name} gives error {code}")


def device_names() -> list[str]:
    """Names of the CUDA devices, in the driver's order; none where there is no usable driver."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        failed = cuda.cuDeviceGet(ctypes.byref(device), ordinal) or cuda.cuDeviceGetName(name, len(name), device)
        names.append("unknown" if failed else name.value.decode(errors="replace"))
    return names


def open_driver(device_id: int) -> Driver:
    """The driver of a GPU.

    Raises:
        OSError: there is no libcuda.
        DeviceFailed: no such device, or it cannot be used.
    """
    return CudaDriver(ctypes.CDLL(LIBRARY), device_id)


@dataclass
class _Slot:
    """Memory for one batch, on host and device; it grows when a batch does not fit."""

    host: Bytes
    address: int


@dataclass(frozen=True)
class Upload:
    """A batch on the device.

    ``runs`` holds, for each kind of input, the address and the number of views of each run to make.
    """

    slot: _Slot
    own: bool
    runs: Mapping[str, tuple[tuple[int, int], ...]]


class GpuRunner:
    """Runs graphs on uploaded batches.

    Args:
        driver: the driver of the device.
        device: ONNX Runtime's name of the device, and its number.
        views_per_run: most views of one run; more are run in several.
    """

    def __init__(self, driver: Driver, device: tuple[str, int], views_per_run: int) -> None:
        self._driver = driver
        self._device = device
        self._views_per_run = views_per_run
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(_SLOTS):
            self._free.put(self._slot(_ALIGNMENT))
        self._own = self._slot(_ALIGNMENT)

    def upload(self, inputs: Mapping[str, Views], *, ahead: bool) -> Upload:
        """Copy a batch to the device, and return when the copy is complete.

        Args:
            inputs: ``uint8[M, H, W, 3]`` by kind of input.
            ahead: whether this is called on another thread while earlier batches are computed; waits until one of their
                slots is released. Otherwise the batch goes to a separate slot, which the next such call overwrites.
        """
        chunks = [
            (kind, views[start : start + self._views_per_run])
            for kind, views in inputs.items()
            for start in range(0, len(views), self._views_per_run)
        ]
        begins = np.cumsum([0, *(-(-chunk.nbytes // _ALIGNMENT) * _ALIGNMENT for _, chunk in chunks)]).tolist()
        slot = self._free.get() if ahead else self._own
        try:
            self._make_room(slot, begins[-1])
            for begin, (_, chunk) in zip(begins, chunks, strict=False):
                slot.host[begin : begin + chunk.nbytes] = chunk.reshape(-1)
            if begins[-1]:
                self._driver.upload(slot.host[: begins[-1]], slot.address)
        except BaseException:
            if ahead:
                self._free.put(slot)
            raise
        runs: dict[str, list[tuple[int, int]]] = {kind: [] for kind in inputs}
        for begin, (kind, chunk) in zip(begins, chunks, strict=False):
            runs[kind].append((slot.address + begin, len(chunk)))
        return Upload(slot, not ahead, {kind: tuple(found) for kind, found in runs.items()})

    def run(self, session: Any, model: Model, outputs: list[str], upload: Upload, kind: str) -> list[list[Any]]:
        """Outputs of each run of a batch, as arrays in host memory; several models may run the same batch."""
        height, width = model.input.shape[1:3]
        found = []
        for address, count in upload.runs[kind]:
            binding = session.io_binding()
            shape = [count, height, width, 3]
            binding.bind_input(model.input.name, *self._device, np.uint8, shape, address)
            for name in outputs:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            found.append(binding.copy_outputs_to_cpu())
        return found

    def release(self, upload: Upload) -> None:
        """Free the slot of a batch that is computed."""
        if not upload.own:
            self._free.put(upload.slot)

    def _slot(self, size: int) -> _Slot:
        return _Slot(self._driver.pinned(size), self._driver.allocate(size))

    def _make_room(self, slot: _Slot, size: int) -> None:
        if size > len(slot.host):
            grown = 1 << (size - 1).bit_length()
            address = self._driver.allocate(grown)
            self._driver.free(slot.address)
            slot.host, slot.address = self._driver.pinned(grown), address
