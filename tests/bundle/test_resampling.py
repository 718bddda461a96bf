"""Resizing gives the pixels of the library that it copies, on random sizes and on images of noise, the hardest ones."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms

from bundle.manifest import Resize
from bundle.resampling import resample

Pixels = npt.NDArray[np.uint8]
_OPENCV = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def torchvision(pixels: Pixels, size: tuple[int, int], how: Resize) -> Pixels:
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    mode = InterpolationMode(how.kernel)
    resized = transforms.functional.resize(image, [size[1], size[0]], mode, antialias=how.antialias)
    found: Pixels = resized.permute(1, 2, 0).numpy()
    return found


def interpolated(pixels: Pixels, size: tuple[int, int], how: Resize) -> Pixels:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    options: dict[str, Any] = {} if how.kernel == "nearest" else {"align_corners": False, "antialias": how.antialias}
    resized = functional.interpolate(image, (size[1], size[0]), mode=how.kernel, **options)
    return resized[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def opencv(pixels: Pixels, size: tuple[int, int], how: Resize) -> Pixels:
    resized: Pixels = np.asarray(cv2.resize(pixels, size, interpolation=_OPENCV[how.kernel]), np.uint8)
    return resized


@pytest.fixture(autouse=True)
def _opencv_alone() -> Any:
    cv2.ipp.setUseIPP(False)
    yield
    cv2.ipp.setUseIPP(True)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("library", "theirs", "antialias"),
    [
        ("torchvision", torchvision, True),
        ("torchvision", torchvision, False),
        ("torch", interpolated, True),
        ("torch", interpolated, False),
        ("opencv", opencv, False),
    ],
)
def test_pixels_are_those_of_the_library(
    library: Any, theirs: Callable[[Pixels, tuple[int, int], Resize], Pixels], antialias: bool, kernel: Any
) -> None:
    how = Resize(mode="exact", size=8, kernel=kernel, antialias=antialias or kernel == "nearest", library=library)
    random = np.random.default_rng(0)
    # Where they reckon with 32-bit floats, what lies halfway between two levels may be rounded the other way.
    is_exact = kernel == "nearest" or library == "torchvision" or (library, kernel) == ("opencv", "bilinear")
    others = 0.0
    sizes = [*random.integers(8, 300, (20, 4)).tolist(), (500, 8, 8, 8), (8, 8, 8, 500), (64, 64, 64, 64)]
    for height, width, *size in sizes:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = np.asarray(resample(Image.fromarray(pixels), (size[0], size[1]), how))
        expected = theirs(pixels, (size[0], size[1]), how)
        assert found.shape == expected.shape
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= (0 if is_exact else 1), (height, width, size)
        others += float((difference > 0).mean()) / len(sizes)
    assert others < 1e-3
