"""Against plain convolution, Pillow's own files and the statistics that each transform promises."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from trainer.arrays import Pixels
from trainer.data.transforms import BEYOND, CLEAN, POST_PROCESSED, TRANSFORMS, blur, jpeg, noise, webp


@pytest.fixture
def image() -> Pixels:
    """An edge, a ramp and some texture; not square."""
    rng = np.random.default_rng(0)
    pixels = np.linspace(40, 200, 40)[None, :, None] + rng.normal(0, 6, (24, 40, 3))
    pixels[:, 20:, 0] -= 30
    return pixels.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_keeps_shape_and_type_and_repeats_itself(image: Pixels, name: str) -> None:
    before = image.copy()
    first, second = (TRANSFORMS[name].apply(image) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert (first != image).any() == (name != "clean")


def test_the_tracks_are_those_of_the_protocol() -> None:
    assert CLEAN.track == "clean"
    assert [t.name for t in POST_PROCESSED if not t.held_out] == [
        "jpeg90",
        "jpeg75",
        "jpeg50",
        "resize0.75",
        "blur0.5",
        "blur1",
        "resize0.75-jpeg75",
    ]
    assert [t.name for t in POST_PROCESSED if t.held_out] == ["noise2", "noise5", "resize1.5", "webp60"]
    assert [t.name for t in BEYOND] == ["jpeg30", "resize0.5", "blur2"]
    assert {t.track for t in BEYOND} == {"beyond"}


@pytest.mark.parametrize("quality", [90, 50])
def test_jpeg_is_a_file_of_that_quality_with_halved_colour(image: Pixels, quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    with Image.open(buffer) as opened:
        np.testing.assert_array_equal(jpeg(image, quality), np.asarray(opened))


def test_webp_is_a_file_of_that_quality(image: Pixels) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=60, lossless=False)
    with Image.open(buffer) as opened:
        np.testing.assert_array_equal(webp(image, 60), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_a_convolution_with_a_gaussian_on_a_mirrored_image(image: Pixels, sigma: float) -> None:
    reach = int(4 * sigma + 0.5)
    kernel = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
    kernel = [weight / sum(kernel) for weight in kernel]
    padded = np.pad(image.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    rows = np.sum([weight * padded[i : i + 24] for i, weight in enumerate(kernel)], axis=0)
    expected = np.sum([weight * rows[:, i : i + 40] for i, weight in enumerate(kernel)], axis=0)
    assert np.abs(blur(image, sigma) - expected).max() <= 0.5 + 1e-9


def test_noise_has_its_deviation_and_differs_between_images() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    added = noise(grey, 5.0) - 128.0
    assert added.std() == pytest.approx(5.0, rel=0.02)
    assert abs(added.mean()) < 0.1
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.05
    other = noise(grey + np.uint8(1), 5.0) - 129.0
    assert abs(np.corrcoef(added.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("name", ["resize0.75", "resize0.5", "resize1.5"])
def test_resizing_and_back_keeps_what_is_smooth(name: str) -> None:
    ramp = np.broadcast_to(np.linspace(50, 200, 48)[None, :, None], (32, 48, 3)).round().astype(np.uint8)
    change = np.abs(TRANSFORMS[name].apply(ramp).astype(int) - ramp)[:, 4:-4]
    assert change.max() <= 2


def test_shrinking_loses_the_finest_pattern_and_enlarging_keeps_some() -> None:
    checks = np.where(np.indices((32, 32)).sum(axis=0)[..., None] % 2, 160, 96).astype(np.uint8).repeat(3, axis=2)
    spread = {name: TRANSFORMS[name].apply(checks)[4:-4, 4:-4].std() for name in ("resize0.5", "resize1.5")}
    assert spread["resize0.5"] < 1
    assert spread["resize1.5"] > 5


def test_resizing_comes_before_jpeg(image: Pixels) -> None:
    np.testing.assert_array_equal(
        TRANSFORMS["resize0.75-jpeg75"].apply(image), jpeg(TRANSFORMS["resize0.75"].apply(image), 75)
    )
