"""Against OpenCV, SciPy and plain counting; draws by their shares."""

import io
from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from trainer.data import augment
from trainer.data.augment import (
    blur_batch,
    blur_image,
    blur_jpeg_crop,
    degradation,
    degraded_copy,
    flip_half,
    jpeg_image,
    random_batch_blur,
    random_batch_noise,
)

Pixels = npt.NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def largest(one: npt.ArrayLike, other: npt.ArrayLike) -> int:
    return int(np.abs(np.asarray(one, np.int64) - np.asarray(other, np.int64)).max())


class TestBatches:
    @pytest.mark.parametrize("kernel", [3, 5, 7])
    def test_blur_is_opencvs_for_its_kernel(self, kernel: int) -> None:
        images = noise(3, 12, 15, 3)
        blurred = blur_batch(torch.from_numpy(images), kernel)
        assert blurred.dtype == torch.uint8
        for image, found in zip(images, blurred.numpy(), strict=True):
            assert largest(found, cv2.GaussianBlur(image.astype(np.float32), (kernel, kernel), 0).round()) <= 1

    def test_kernel_1_changes_nothing(self) -> None:
        images = torch.from_numpy(noise(2, 8, 8, 3))
        assert blur_batch(images, 1) is images

    def test_one_kernel_a_batch_each_as_often(self) -> None:
        torch.manual_seed(0)
        images = torch.from_numpy(noise(2, 9, 9, 3))
        outcomes = {blur_batch(images, kernel).numpy().tobytes(): kernel for kernel in (1, 3, 5, 7)}
        drawn = Counter(outcomes[random_batch_blur()(images).numpy().tobytes()] for _ in range(400))
        assert set(drawn) == {1, 3, 5, 7}
        assert min(drawn.values()) > 70

    def test_noise_has_one_deviation_a_batch_between_0_and_5(self) -> None:
        torch.manual_seed(0)
        images = torch.full((4, 32, 32, 3), 128, dtype=torch.uint8)
        deviations = []
        for _ in range(200):
            found = random_batch_noise()(images).double()
            each = (found - 128).std(dim=(1, 2, 3))
            assert each.max() - each.min() < 0.1 * each.mean() + 0.1
            assert (found - 128).mean().abs() < 0.3
            deviations.append(float(each.mean()))
        assert 0 <= min(deviations) < 0.2  # rounding leaves whole grey levels of a tiny deviation as they are
        assert 4.8 < max(deviations) < 5.2
        assert np.mean(deviations) == pytest.approx(2.5, abs=0.3)

    def test_noise_does_not_wrap_around(self) -> None:
        torch.manual_seed(0)
        images = torch.tensor([0, 255], dtype=torch.uint8).repeat(2, 8, 8, 3)[..., :3]
        found = random_batch_noise(20)(images).int()
        assert (found - images.int()).abs().max() < 128

    def test_half_are_mirrored(self) -> None:
        torch.manual_seed(0)
        images = torch.from_numpy(noise(400, 2, 3, 3))
        found = flip_half(images)
        mirrored = [bool((one == other.flip(1)).all()) for one, other in zip(found, images, strict=True)]
        kept = [bool((one == other).all()) for one, other in zip(found, images, strict=True)]
        assert all(a != b for a, b in zip(mirrored, kept, strict=True))
        assert 160 < sum(mirrored) < 240


class TestImages:
    @pytest.mark.parametrize("sigma", [0.05, 0.3, 1, 2.9])
    def test_blur_is_scipys(self, sigma: float) -> None:
        image = noise(40, 30, 3)
        wanted = gaussian_filter(image.astype(float), (sigma, sigma, 0))
        assert np.abs(blur_image(image, sigma) - wanted).max() <= 1.5  # OpenCV computes in fixed point
        assert np.abs((blur_image(image, sigma) - wanted).mean()) < 0.1  # and does not darken

    @pytest.mark.parametrize("quality", [30, 75, 100])
    def test_each_coder_keeps_colours_in_their_places(self, quality: int) -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 0] = 200
        for coder in augment.CODERS:
            found = jpeg_image(image, quality, coder)
            assert found.shape == image.shape
            assert largest(found, image) < 12

    def test_pillows_is_what_a_file_would_give(self) -> None:
        image = noise(24, 40, 3)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=60)
        np.testing.assert_array_equal(jpeg_image(image, 60, "pillow"), np.asarray(Image.open(buffer)))

    def test_opencvs_is_what_its_own_file_would_give(self) -> None:
        image = noise(24, 40, 3)
        _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 60])
        with Image.open(io.BytesIO(coded.tobytes())) as file:
            assert largest(jpeg_image(image, 60, "opencv"), np.asarray(file)) <= 3


class TestChain:
    def test_the_order_and_the_shares_of_the_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps: list[tuple[str, float, str]] = []

        def blur(image: Pixels, sigma: float) -> Pixels:
            steps.append(("blur", sigma, ""))
            return image

        def jpeg(image: Pixels, quality: int, coder: str) -> Pixels:
            steps.append(("jpeg", quality, coder))
            return image

        monkeypatch.setattr(augment, "blur_image", blur)
        monkeypatch.setattr(augment, "jpeg_image", jpeg)
        chain, images = blur_jpeg_crop(8, blur=0.5, jpeg=0.1), 4000
        both = 0
        for number in range(images):
            before = len(steps)
            chain(np.zeros((9, 9, 3), np.uint8), np.random.default_rng((1, number)))
            names = [name for name, _, _ in steps[before:]]
            assert names in ([], ["blur"], ["jpeg"], ["blur", "jpeg"])
            both += len(names) == 2
        sigmas = [value for name, value, _ in steps if name == "blur"]
        qualities = Counter(int(value) for name, value, _ in steps if name == "jpeg")
        coders = Counter(coder for name, _, coder in steps if name == "jpeg")
        assert len(sigmas) / images == pytest.approx(0.5, abs=0.03)
        assert sum(qualities.values()) / images == pytest.approx(0.1, abs=0.02)
        assert both / images == pytest.approx(0.05, abs=0.015)  # independent of each other
        assert 0 <= min(sigmas) < 0.05
        assert 2.95 < max(sigmas) <= 3
        assert (min(qualities), max(qualities)) == (30, 100)
        assert coders["opencv"] / coders.total() == pytest.approx(0.5, abs=0.1)

    def test_every_crop_is_as_likely(self) -> None:
        image = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6, 1).repeat(3, 2)
        chain = blur_jpeg_crop(4, blur=0, jpeg=0)
        found = [chain(image, np.random.default_rng(number)) for number in range(600)]
        assert all(crop.shape == (4, 4, 3) for crop in found)
        corners = Counter(int(crop[0, 0, 0]) for crop in found)
        assert set(corners) == {0, 1, 2, 6, 7, 8}
        assert min(corners.values()) > 60

    def test_the_image_itself_stays(self) -> None:
        image = noise(40, 40, 3)
        before = image.copy()
        blur_jpeg_crop(32, blur=1, jpeg=1)(image, np.random.default_rng(0))
        np.testing.assert_array_equal(image, before)


def test_an_image_has_one_degraded_copy_of_each_number() -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (40, 48, 3)).astype(np.uint8) for _ in range(20)]
    copies = [degraded_copy(image) for image in images]
    for image, copy in zip(images, copies, strict=True):
        assert copy.shape == image.shape
        np.testing.assert_array_equal(degraded_copy(image.copy()), copy)
        assert len({degraded_copy(image, number).tobytes() for number in range(4)}) == 4
    changed = [float(np.abs(copy.astype(float) - image).mean()) for image, copy in zip(images, copies, strict=True)]
    assert len(set(changed)) == 20
    assert min(changed) > 0


def test_degraded_images_change_as_often_as_configured_and_keep_their_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    results = [degradation(0.4)(image, rng) for _ in range(300)]
    assert {result.shape for result in results} == {image.shape}
    assert {result.dtype for result in results} == {np.dtype(np.uint8)}
    same = np.mean([np.array_equal(result, image) for result in results])
    assert 0.3 < same < 0.5
    rng = np.random.default_rng(1)
    assert not any(np.array_equal(degradation(0.0)(image, rng), image) for _ in range(100))
