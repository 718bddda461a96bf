"""ONNX Runtime: one session for each model, on the requested device and no other."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bundle.errors import EXPORT_AGAIN, BundleCorrupt
from bundle.manifest import Model, Tensor
from bundle.scores import aggregate_embeddings
from bundle.store import Bundle
from bundle.text import printable
from bundle.views import Views
from worker.errors import DeviceFailed, InferenceFailed, InvalidOutput, MemoryShort, StartupError
from worker.images.prepare import PreparedImage
from worker.scoring.gpu import Driver, GpuRunner, Upload, device_names, open_driver
from worker.settings import InferenceSettings

Floats = npt.NDArray[np.float32]

_TRIES, _TRIES_S = 3, 0.02
"""At least so many, and as many as that time has room for: short runs are disturbed by others most."""
_LONG_S = 0.1
"""A run that takes longer gains nothing by more views, since the overhead of a call is small beside it."""
_CLEARLY_SLOWER, _AS_FAST = 1.15, 1.03
_STICKY = ("CUDA failure", "CUDA error", "CUDNN failure", "CUBLAS failure", "device-side assert", "out of memory")


@dataclass(frozen=True, eq=False, slots=True)
class ImageScores:
    """Scores of one image: ``logits`` float32[V] of its views, and ``embedding`` float32[D].

    With V = 0 (the image is too small) the embedding is empty.
    """

    logits: Floats
    embedding: Floats


class Engine:
    """The sessions of a bundle; ``start`` loads them and runs the probe."""

    def __init__(self, bundle: Bundle, settings: InferenceSettings) -> None:
        self._bundle = bundle
        self._settings = settings
        self._sessions: dict[str, ort.InferenceSession] = {}
        models = bundle.manifest.models
        self._kinds = {m.name: f"{m.preprocessing.digest} {m.input.shape[1:]}" for m in models}
        """Kind of input by model; models with the same kind read the same views."""
        self._views_per_run: dict[str, int] = {}
        self._runner: GpuRunner | None = None
        self._dimension = bundle.manifest.templates.dimension
        self.device = ""
        """`cuda` or `cpu`, once started."""
        self.driver: Driver | None = None
        """The driver of the GPU, where there is one."""

    def start(self) -> float:
        """Create the sessions and compare the probe's outputs with the recorded ones; returns the largest error.

        Raises:
            StartupError: a session does not run on the requested device, or a graph does not load.
            bundle.errors.DecoderDrift, GraphDrift: this machine gives other pixels or numbers than the exporter's.
        """
        self.device = _device(self._settings)
        if self.device == "cuda":
            device_id = self._settings.device_id
            self.driver = open_driver(device_id)
            self._runner = GpuRunner(self.driver, ("cuda", device_id), self._settings.batch_size)
        for model in self._bundle.manifest.models:
            self._sessions[model.name] = self._session(model)
            self._views_per_run[model.name] = self._settings.batch_size
        error = self._check_probe()
        for model in self._bundle.manifest.models:
            if self._runner is None:
                self._views_per_run[model.name] = self._best_views_per_run(model)
            else:
                self._warm_up(model)
        return error

    def run(self, model: Model, views: Views) -> dict[str, Floats]:
        """The outputs of one graph for ``uint8[M, H, W, 3]``, in several runs where there are more views than fit."""
        if self._runner is not None:
            return self._run_uploaded(model, self._runner.upload({self._kinds[model.name]: views}, ahead=False))
        step, found = self._views_per_run[model.name], []
        session, names = self._sessions[model.name], [tensor.name for tensor in model.outputs.values()]
        for start in range(0, len(views), step):
            chunk = np.ascontiguousarray(views[start : start + step])
            found.append(session.run(names, {model.input.name: chunk}))
        return self._collected(model, found)

    @property
    def uploads_ahead(self) -> bool:
        """Whether ``upload`` copies to a device, so that it is worth a thread of its own."""
        return self._runner is not None

    def upload(self, images: Sequence[PreparedImage]) -> Upload | None:
        """Copy a batch to the device, on another thread than that of ``score``; None on a CPU.

        Waits while two copied batches are not computed yet.
        """
        return None if self._runner is None else self._runner.upload(self._inputs(images), ahead=True)

    def score(
        self, images: Sequence[PreparedImage], upload: Upload | None = None
    ) -> list[ImageScores | InvalidOutput | InferenceFailed]:
        """One answer for each image, in order; a batch that fails is halved until the image that fails is alone.

        Args:
            images: the batch.
            upload: the same batch, where it was copied ahead.

        Raises:
            MemoryShort: there is too little memory for a single image.
            DeviceFailed: no later call would succeed. A batch in which every image fails counts as a failure of the
                device if the probe fails too.
        """
        answers = self._halving(images, upload)
        if not any(isinstance(answer, ImageScores) for answer in answers):
            try:
                self._check_probe()
            except Exception as error:
                raise DeviceFailed(
                    f"{self.device}: every image of a batch fails, and the probe too: {error}"
                ) from error
        return answers

    def _halving(
        self, images: Sequence[PreparedImage], upload: Upload | None = None
    ) -> list[ImageScores | InvalidOutput | InferenceFailed]:
        try:
            return self._score(images, upload)
        except DeviceFailed:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            if any(sign in str(error) for sign in _STICKY):
                raise DeviceFailed(f"{self.device}: {str(error)[:300]}") from error
            if len(images) == 1 and isinstance(error, MemoryError):
                raise MemoryShort("no memory for a single image") from error
            if len(images) == 1:
                return [InferenceFailed(str(error)[:300])]
        middle = len(images) // 2
        return self._halving(images[:middle]) + self._halving(images[middle:])

    def _best_views_per_run(self, model: Model) -> int:
        """The fastest power of two up to ``batch_size``, by measurement.

        A batch that outgrows the caches of a CPU is slower per view; for small graphs larger batches are faster.
        `make bench` measures both (`batch_s` of each regime).
        """
        height, width = model.input.shape[1:3]
        if not (isinstance(height, int) and isinstance(width, int)):
            return self._settings.batch_size
        seconds: dict[int, float] = {}
        for count in self._sizes():
            run_s = self._shortest_s(model, np.zeros((count, height, width, 3), np.uint8))
            seconds[count] = run_s / count
            if run_s > _LONG_S or seconds[count] > _CLEARLY_SLOWER * min(seconds.values()):
                break
        fastest = min(seconds.values())
        return max(count for count, each in seconds.items() if each < _AS_FAST * fastest)

    def _sizes(self) -> list[int]:
        """Powers of two up to the batch size."""
        return [1 << n for n in range(self._settings.batch_size.bit_length())]

    def _shortest_s(self, model: Model, views: Views) -> float:
        tries = [self._seconds(model, views) for _ in range(_TRIES)]
        while sum(tries) < _TRIES_S:
            tries.append(self._seconds(model, views))
        return min(tries)

    def _seconds(self, model: Model, views: Views) -> float:
        began = time.perf_counter()
        self._sessions[model.name].run(None, {model.input.name: views})
        return time.perf_counter() - began

    def _check_probe(self) -> float:
        manifest = self._bundle.manifest
        return self._bundle.probe.check(manifest.models, self.run, manifest.parity.tolerance, manifest.decoder)

    def _inputs(self, images: Sequence[PreparedImage]) -> dict[str, Views]:
        """Views of a whole batch, by kind of input."""
        models = {kind: name for name, kind in self._kinds.items()}
        return {kind: np.concatenate([image.views[name] for image in images]) for kind, name in models.items()}

    def _run_uploaded(self, model: Model, upload: Upload) -> dict[str, Floats]:
        assert self._runner is not None
        session, names = self._sessions[model.name], [tensor.name for tensor in model.outputs.values()]
        return self._collected(model, self._runner.run(session, model, names, upload, self._kinds[model.name]))

    def _collected(self, model: Model, runs: Sequence[Sequence[Any]]) -> dict[str, Floats]:
        """Outputs by role, with the rows of several runs joined."""
        empty = {"logit": np.empty(0, np.float32), "embedding": np.empty((0, self._dimension), np.float32)}
        columns = zip(*runs, strict=True) if runs else [()] * len(model.outputs)
        return {
            role: np.concatenate([empty[role], *(np.asarray(part, np.float32) for part in parts)])
            for role, parts in zip(model.outputs, columns, strict=True)
        }

    def _rows(
        self, images: Sequence[PreparedImage], upload: Upload | None
    ) -> Iterator[tuple[Model, dict[str, Floats]]]:
        """Outputs of each model for the whole batch."""
        models = self._bundle.manifest.models
        if self._runner is None:
            inputs = self._inputs(images)
            yield from ((model, self.run(model, inputs[self._kinds[model.name]])) for model in models)
            return
        uploaded = upload or self._runner.upload(self._inputs(images), ahead=False)
        try:
            yield from ((model, self._run_uploaded(model, uploaded)) for model in models)
        finally:
            self._runner.release(uploaded)

    def _warm_up(self, model: Model) -> None:
        """Run every batch size that is a power of two: cuDNN chooses its algorithms for a shape at the first run."""
        height, width = model.input.shape[1:3]
        if isinstance(height, int) and isinstance(width, int):
            for count in self._sizes():
                self.run(model, np.zeros((count, height, width, 3), np.uint8))

    def _score(
        self, images: Sequence[PreparedImage], upload: Upload | None
    ) -> list[ImageScores | InvalidOutput | InferenceFailed]:
        l2 = self._bundle.manifest.templates.l2_normalised
        outputs: dict[str, list[Floats]] = {}
        is_finite = True
        for model, roles in self._rows(images, upload):
            ends = np.cumsum([len(image.views[model.name]) for image in images]).tolist()
            for role, rows in roles.items():
                is_finite = is_finite and bool(np.isfinite(rows).all())
                outputs[role] = [rows[begin:end] for begin, end in pairwise([0, *ends])]
        answers: list[ImageScores | InvalidOutput | InferenceFailed] = []
        for one_logits, one_embeddings in zip(outputs["logit"], outputs["embedding"], strict=True):
            if not (is_finite or (np.isfinite(one_logits).all() and np.isfinite(one_embeddings).all())):
                answers.append(InvalidOutput("the model's output is not a finite number"))
            elif len(one_embeddings) == 0:
                answers.append(ImageScores(one_logits, np.empty(0, np.float32)))
            else:
                answers.append(ImageScores(one_logits, aggregate_embeddings(one_embeddings, l2_normalised=l2)))
        return answers

    def _session(self, model: Model) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._settings.threads
        # Spinning threads take the cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A graph may name files with weights, which ONNX Runtime would look for in the working directory. No digest
        # covers them, so it is made to look where there are no files.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device == "cuda":
            ort.preload_dlls()
            cuda: dict[str, Any] = {
                "device_id": self._settings.device_id,
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
            }
            if self._settings.gpu_memory_bytes:
                cuda["gpu_mem_limit"] = self._settings.gpu_memory_bytes
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        try:
            # With its fallback ONNX Runtime would replace a failing CUDA provider by the CPU silently (#23372).
            session = ort.InferenceSession(self._bundle.graph(model), options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise StartupError(f"{self._bundle.path / model.file}: does not load on {self.device}: {error}") from error
        _check_tensors(self._bundle.path / model.file, model, session)
        if self.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise StartupError(
                f"{model.file}: inference.device=cuda, but ONNX Runtime runs it on {session.get_providers()[0]}"
            )
        return session


def _check_tensors(file: Path, model: Model, session: ort.InferenceSession) -> None:
    """Compare what the manifest says of inputs and outputs with the graph.

    Raises:
        BundleCorrupt: the graph has others.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    if others := inputs.keys() - {model.input.name}:
        raise BundleCorrupt(f"{file}: needs an input {printable(min(others))} as well; {EXPORT_AGAIN}")
    declared = [("input", model.input, inputs), *((role, tensor, outputs) for role, tensor in model.outputs.items())]
    for role, tensor, nodes in declared:
        node = nodes.get(tensor.name)
        if node is None or not _fits(tensor, node.type, node.shape):
            found = f"has no {tensor.name}" if node is None else f"{tensor.name} is {node.type} {node.shape}"
            raise BundleCorrupt(f"{file}: {printable(found)}, which the manifest calls {role}; {EXPORT_AGAIN}")


def _fits(tensor: Tensor, kind: str, shape: Sequence[int | str | None]) -> bool:
    """Whether a graph's tensor is the declared one; axes that the graph leaves free may have any length."""
    fixed = [(one, other) for one, other in zip(tensor.shape, shape, strict=False) if isinstance(other, int)]
    kinds = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    return kind == kinds[tensor.dtype] and len(tensor.shape) == len(shape) and all(one == other for one, other in fixed)


def _device(settings: InferenceSettings) -> str:
    if settings.device == "cpu":
        return "cpu"
    usable = cuda_usable(settings.device_id)
    if settings.device == "cuda" and not usable:
        raise StartupError(
            f"inference.device=cuda: no usable CUDA device {settings.device_id} here (driver and GPU needed); "
            "set inference.device=cpu to run on a CPU"
        )
    return "cuda" if usable else "cpu"


def cuda_usable(device_id: int) -> bool:
    """Whether ONNX Runtime was built with CUDA and the CUDA driver finds that GPU."""
    return "CUDAExecutionProvider" in ort.get_available_providers() and device_id < len(device_names())
