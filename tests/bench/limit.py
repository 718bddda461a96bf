"""What an image costs at least: CPU seconds of each part that no worker can do without, with all cores loaded.

Each part runs in as many processes as there are cores, on the images and the bundle of the regime, as plainly as the
library behind it allows: Pillow through ``bundle.preprocess``, an ONNX Runtime session, hashlib, kafka-python with
large batches. The worker's own work (events, batching, attribution, verdicts, transactions often enough) is not
among them.
"""

import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bundle.preprocess import Limits
from bundle.store import load_bundle, sha256
from tests.bench.estimates import limit_per_s
from tests.bench.relay import KafkaCost
from tests.bench.rig import Rig
from tests.worker.images.in_process import InProcess

BATCH_SIZES = (1, 4, 8, 16, 32)
_SAMPLE = 64
_PART_S = 4.0
_HASH_S = 1.0
_LIMITS = Limits(max_bytes=2**24, max_pixels=2**26)


@dataclass(frozen=True)
class Limit:
    """CPU seconds per image of each part, and the rate at which they would fill the machine."""

    per_s: float
    decode_s: float
    inference_s: float
    """At the best batch size."""
    kafka: KafkaCost
    hash_s: float
    best_batch: int
    batch_s: dict[int, float]
    """Seconds of the clock that a batch of each size takes one inference thread (or the device)."""
    device_per_s: float | None
    """What the device alone could do, where it is not the CPU."""

    @property
    def summary(self) -> str:
        """The parts in microseconds."""
        parts = {
            "decode": self.decode_s,
            "inference": self.inference_s,
            "Kafka": self.kafka.total_s,
            "hash": self.hash_s,
        }
        return "CPU µs per image: " + ", ".join(f"{name} {1e6 * s:,.0f}" for name, s in parts.items())


@dataclass(frozen=True)
class Cost:
    """Seconds of one unit: of the CPU, and of the clock."""

    cpu_s: float
    clock_s: float


def measure_limit(rig: Rig, bundle: Path, kafka: KafkaCost) -> Limit:
    """All parts for one bundle; Kafka's is the same for all bundles."""
    sample = list(rig.images.first(_SAMPLE))
    seconds = rig.seconds(_PART_S)
    with ProcessPoolExecutor(rig.cores, multiprocessing.get_context("spawn")) as pool:

        def loaded(part: Callable[..., Cost], *arguments: Any, processes: int = rig.cores) -> Cost:
            """Mean over processes that run it at the same time."""
            costs = [future.result() for future in [pool.submit(part, *arguments) for _ in range(processes)]]
            return Cost(*np.mean([(cost.cpu_s, cost.clock_s) for cost in costs], axis=0).tolist())

        loaded(_decode, bundle, sample, 0.5)  # imports, page cache
        decode = loaded(_decode, bundle, sample, seconds)
        hashing = loaded(_hash, sample, _HASH_S)
        feeders = rig.cores if rig.device == "cpu" else 1  # one session for a device, as the worker has
        batches = {n: loaded(_infer, bundle, sample, n, rig.device, seconds, processes=feeders) for n in BATCH_SIZES}
    binding = "cpu_s" if rig.device == "cpu" else "clock_s"
    best = min(BATCH_SIZES, key=lambda n: getattr(batches[n], binding) / n)
    inference_s = batches[best].cpu_s / best
    device_per_s = math.inf if rig.device == "cpu" else best / batches[best].clock_s
    return Limit(
        per_s=limit_per_s(rig.cores, [decode.cpu_s, inference_s, kafka.total_s, hashing.cpu_s], device_per_s),
        decode_s=decode.cpu_s,
        inference_s=inference_s,
        kafka=kafka,
        hash_s=hashing.cpu_s,
        best_batch=best,
        batch_s={n: cost.clock_s for n, cost in batches.items()},
        device_per_s=None if rig.device == "cpu" else device_per_s,
    )


def _cost(run: Callable[[], int], seconds: float) -> Cost:
    """The cost of ``run``, which says how many units it did, repeated for some seconds."""
    run()
    units, cpu_s, began = 0, time.process_time(), time.monotonic()
    while time.monotonic() < began + seconds:
        units += run()
    return Cost((time.process_time() - cpu_s) / units, (time.monotonic() - began) / units)


def _decode(bundle: Path, images: list[bytes], seconds: float) -> Cost:
    decoders = InProcess(load_bundle(bundle).manifest.models, _LIMITS)
    return _cost(lambda: len([decoders.prepare(image) for image in images]), seconds)


def _hash(images: list[bytes], seconds: float) -> Cost:
    return _cost(lambda: len([sha256(image) for image in images]), seconds)


def _infer(bundle: Path, images: list[bytes], size: int, device: str, seconds: float) -> Cost:
    """One batch of ``size`` images; on the CPU one thread, as many processes do it at a time as there are cores."""
    loaded = load_bundle(bundle)
    [model] = loaded.manifest.models
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if device == "cuda":
        ort.preload_dlls()
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = ort.InferenceSession(loaded.graph(model), options, providers=[provider])
    assert session.get_providers()[0] == provider
    decoders = InProcess((model,), _LIMITS)
    prepared = [decoders.prepare(images[n % len(images)]) for n in range(size)]
    views = np.concatenate([image.views[model.name] for image in prepared])
    return _cost(lambda: bool(session.run(None, {model.input.name: views})), seconds)
