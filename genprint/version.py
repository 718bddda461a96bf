"""What a bug report needs: versions of everything that numbers depend on, providers and devices."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = (
    "numpy",
    "pillow",
    "pydantic",
    "kafka-python",
    "redis",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "torch",
    "torchvision",
    "timm",
)


def version_report() -> str:
    """The report, in lines; it names what is not installed, and tells nothing about the user of the machine."""
    lines = [
        f"genprint {_version('genprint')}",
        f"python {platform.python_version()} ({sys.implementation.name}), {platform.system()} {platform.machine()}",
        *(f"{package} {_version(package)}" for package in PACKAGES),
        f"decoders: {_decoders()}",
        f"ONNX Runtime providers: {_providers()}",
        f"CUDA devices: {_devices()}",
    ]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _decoders() -> str:
    from bundle.preprocess import decoder_version

    return decoder_version()


def _providers() -> str:
    import worker  # noqa: F401 - sets the environment that ONNX Runtime reads when it is loaded

    try:
        import onnxruntime
    except ImportError as error:
        return f"none ({error.name or error} is missing)"
    return ", ".join(onnxruntime.get_available_providers())


def _devices() -> str:
    from worker.scoring.gpu import device_names

    return ", ".join(f"{index}: {name}" for index, name in enumerate(device_names())) or "none"
