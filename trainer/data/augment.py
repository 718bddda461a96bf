"""Augmentation of training images, after the preprocessing that all images go through.

Augmentations take and give whole grey levels, as in a file: a network is served ``uint8``. Draws for whole batches come
from torch's global generator, those for single images from a NumPy generator that belongs to image and epoch.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from trainer.arrays import Pixels
from trainer.data.transforms import coded, draws_of

Coder = Literal["opencv", "pillow"]
CODERS: tuple[Coder, ...] = ("opencv", "pillow")
_KERNELS = (Image.Resampling.BICUBIC, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)
"""Bicubic stands twice, as most software takes it."""
_PALETTES = (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE, Image.Quantize.FASTOCTREE)


def flip_half(images: Tensor) -> Tensor:
    """Mirror each of ``uint8[N, H, W, 3]`` left to right with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored.to(images.device), images.flip(2), images)


def random_batch_blur(kernels: Sequence[int] = (1, 3, 5, 7)) -> Callable[[Tensor], Tensor]:
    """Blur a whole batch with one of the kernels, drawn evenly (S2's M_GB)."""

    def augment(images: Tensor) -> Tensor:
        return blur_batch(images, kernels[int(torch.randint(len(kernels), ()))])

    return augment


def random_batch_noise(highest: float = 5.0) -> Callable[[Tensor], Tensor]:
    """Add Gaussian noise to a whole batch, of one deviation drawn evenly from [0, highest] grey levels (S2's M_GN)."""

    def augment(images: Tensor) -> Tensor:
        deviation = float(torch.rand(())) * highest
        noise = torch.randn(images.shape, device=images.device)
        return _whole(images.float() + deviation * noise)

    return augment


def blur_batch(images: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of ``uint8[N, H, W, 3]`` by an odd kernel of so many pixels; 1 changes nothing.

    The weights are those of OpenCV for a kernel whose deviation is not given: about 0.8, 1.1 and 1.4 pixels for 3,
    5 and 7. The border is mirrored without repeating the edge, as OpenCV's is.
    """
    if kernel == 1:
        return images
    reach = kernel // 2
    weights = torch.from_numpy(cv2.getGaussianKernel(kernel, 0)[:, 0]).float().to(images.device)
    planes = nn.functional.pad(images.permute(0, 3, 1, 2).float(), (reach, reach, reach, reach), mode="reflect")
    across = weights.expand(3, 1, 1, kernel)
    planes = nn.functional.conv2d(nn.functional.conv2d(planes, across.mT, groups=3), across, groups=3)
    return _whole(planes.permute(0, 2, 3, 1))


def blur_jpeg_crop(
    size: int,
    *,
    blur: float,
    jpeg: float,
    sigma: tuple[float, float] = (0.0, 3.0),
    quality: tuple[int, int] = (30, 100),
) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """S3's chain for one image: blur, JPEG, crop; each decided by a draw of its own.

    Args:
        size: side of the crop, anywhere in the image.
        blur: probability of a Gaussian blur.
        jpeg: probability of JPEG coding.
        sigma: the blur's deviation in pixels, drawn evenly from this interval.
        quality: JPEG's quality, a whole number drawn evenly from this range, both ends included; the coder is OpenCV's
            or Pillow's with equal chance, each with its default sub-sampling (4:2:0).
    """

    def augment(image: Pixels, rng: np.random.Generator) -> Pixels:
        if rng.random() < blur:
            image = blur_image(image, rng.uniform(*sigma))
        if rng.random() < jpeg:
            image = jpeg_image(image, int(rng.integers(quality[0], quality[1] + 1)), CODERS[rng.integers(2)])
        y, x = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
        return image[y : y + size, x : x + size]

    return augment


def degradation(clean: float) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """Degrade images as on the web: make them smaller and back, blur, code as JPEG, reduce to a palette as in GIF.

    A degraded image has one of these at least, by chance. Noise, enlarging and WebP are not among them, so that
    robustness to unseen post-processing can be measured; a palette's dithering is the nearest to noise.

    Args:
        clean: share of images that stay pristine.
    """

    def augment(image: Pixels, rng: np.random.Generator) -> Pixels:
        if rng.random() < clean:
            return image
        happens = rng.random(4) < (0.4, 0.4, 0.55, 0.2)
        if not happens.any():
            happens[rng.integers(4)] = True
        shrunk, blurred, compressed, indexed = happens
        if shrunk:
            image = _smaller_and_back(image, rng)
        if blurred:
            sigma = float(rng.uniform(0.3, 1.3))
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.uint8)
        if compressed:
            image = _jpeg_anywhere(image, rng)
        return _in_palette(image, rng) if indexed else image

    return augment


def degraded_copy(image: Pixels, number: int = 0) -> Pixels:
    """Degraded copy of ``uint8[H, W, 3]``; each ``number`` gives one of its own, always the same for the same image."""
    return degradation(0)(image, draws_of(image).spawn(number + 1)[number])


def _smaller_and_back(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Resize to 0.6 to 0.95 of the size and back, by a kernel drawn for each way."""
    factor = rng.uniform(0.6, 0.95)
    height, width = image.shape[:2]
    size = round(width * factor), round(height * factor)
    down, up = (_KERNELS[int(kernel)] for kernel in rng.integers(len(_KERNELS), size=2))
    return np.asarray(Image.fromarray(image).resize(size, down).resize((width, height), up))


def _jpeg_anywhere(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Code as JPEG of quality 40 to 96, mostly 4:2:0; for three in ten images its grid is shifted from the corner."""
    quality, sampling = int(rng.integers(40, 97)), ("4:2:0", "4:2:0", "4:2:0", "4:4:4", "4:2:2")[rng.integers(5)]
    height, width = image.shape[:2]
    y, x = rng.integers(0, 8, 2) if rng.random() < 0.3 else (0, 0)
    if y or x:
        image = np.pad(image, ((y, 8 - y), (x, 8 - x), (0, 0)), mode="reflect")
    return coded(image, "JPEG", quality=quality, subsampling=sampling)[y : y + height, x : x + width]


def _in_palette(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Reduce to a palette of 16 to 256 colours; seven in ten images are dithered (Floyd and Steinberg)."""
    whole = Image.fromarray(image)
    indexed = whole.quantize(int(2 ** rng.uniform(4, 8)), _PALETTES[rng.integers(len(_PALETTES))])
    if rng.random() < 0.7:
        indexed = whole.quantize(palette=indexed, dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(indexed.convert("RGB"))


def blur_image(image: Pixels, sigma: float) -> Pixels:
    """Blur by a Gaussian, cut off at four deviations with the border repeated in reverse, as SciPy's is.

    The authors' code lets SciPy round each pass down, which darkens images by a grey level; here values are rounded.
    """
    side = 2 * int(4 * sigma + 0.5) + 1
    if side == 1:
        return image
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT), np.uint8)


def jpeg_image(image: Pixels, quality: int, coder: Coder) -> Pixels:
    """Code as JPEG and decode."""
    if coder == "opencv":
        # OpenCV takes B, G, R.
        _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None
        return np.asarray(decoded[..., ::-1], np.uint8)
    return coded(image, "JPEG", quality=quality)


def _whole(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
