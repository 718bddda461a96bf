"""Views are cut where the libraries cut them whose detectors are served."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydantic import ValidationError
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from bundle.errors import TooManyPixels
from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import EncodedImage, Limits, read_views
from bundle.views import cut

Pixels = npt.NDArray[np.uint8]
RANDOM = np.random.default_rng(0)
DIGEST = "ab4af4ac16368b9036f5e4a123b60c009394add58ceb092e0b16bb0a93ddb1ca"
SIZES = [(4032, 3024), (20, 333), *((int(w), int(h)) for w, h in RANDOM.integers(16, 300, (40, 2)))]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_shorter_side_and_a_centre_are_torchvision_s_and_so_transformers(kernel: Any) -> None:
    theirs = transforms.Compose(
        [transforms.Resize(44, InterpolationMode(kernel)), transforms.CenterCrop(40), transforms.PILToTensor()]
    )
    view = View(
        resize=Resize(mode="shorter", size=44, kernel=kernel, rounding="down"),
        crop=Crop(mode="centre", size=40, rounding="nearest"),
    )
    ours = View(resize=Resize(mode="shorter", size=44, kernel=kernel), crop=Crop(mode="centre", size=40))
    differ = 0
    for width, height in SIZES:
        image = noise(width, height)
        expected = theirs(image).permute(1, 2, 0).numpy()
        [found] = cut(image, view)
        assert np.array_equal(found, expected), (width, height)
        [rounded] = cut(image, ours)
        differ += not np.array_equal(rounded, expected)
    assert differ > len(SIZES) / 4  # the two roundings matter


def test_a_centre_with_padding_is_torchvision_s() -> None:
    theirs = transforms.Compose([transforms.CenterCrop(61), transforms.PILToTensor()])
    view = View(crop=Crop(mode="centre", size=61, rounding="nearest"), on_small="zero_pad")
    for width, height in SIZES:
        image = noise(width, height)
        [found] = cut(image, view)
        assert np.array_equal(found, theirs(image).permute(1, 2, 0).numpy()), (width, height)


@pytest.mark.parametrize(("mode", "theirs"), [("five", transforms.FiveCrop(32)), ("ten", transforms.TenCrop(32))])
def test_five_and_ten_crops_are_torchvision_s(mode: Any, theirs: Any) -> None:
    view = View(crop=Crop(mode=mode, size=32, rounding="nearest"))
    for width, height in ((32, 32), (33, 40), (77, 64)):
        image = noise(width, height)
        expected = {np.asarray(square).tobytes() for square in theirs(image)}
        assert {square.tobytes() for square in cut(image, view)} == expected
    assert Preprocessing(views=(view,)).most_views == {"five": 5, "ten": 10}[mode]


def test_crops_on_a_grid_of_pixels_start_at_its_multiples() -> None:
    image = noise(100, 90)
    pixels = np.asarray(image)
    found = cut(image, View(crop=Crop(mode="five", size=28, multiple=14)))
    corners = [(28, 28), (0, 0), (0, 70), (56, 0), (56, 70)]  # of (31, 36), (62, 72)
    assert [square.tobytes() for square in found] == [pixels[y : y + 28, x : x + 28].tobytes() for y, x in corners]


def test_a_small_image_is_tiled_from_its_corner() -> None:
    image = noise(20, 50)
    [found] = cut(image, View(crop=Crop(mode="centre", size=48), on_small="tile"))
    repeated = np.tile(np.asarray(image), (1, 3, 1))
    assert np.array_equal(found, repeated[1:49, :48])


def test_a_longer_side_keeps_the_shape_and_is_padded() -> None:
    image = noise(80, 33)
    view = View(resize=Resize(mode="longer", size=40), crop=Crop(mode="centre", size=40), on_small="zero_pad")
    [found] = cut(image, view)
    assert np.array_equal(found[12:28], np.asarray(image.resize((40, 16), Image.Resampling.BILINEAR)))
    assert not found[:12].any()
    assert not found[28:].any()


def test_an_image_is_coded_as_jpeg_before_anything_else() -> None:
    image = noise(40, 40)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    [found] = cut(image, View(jpeg=70, crop=Crop(mode="centre", size=16)))
    assert np.array_equal(found, np.asarray(Image.open(buffer))[12:28, 12:28])
    with pytest.raises(TooManyPixels, match="70000 x 8 cannot be coded as JPEG"):
        cut(Image.new("RGB", (70_000, 8)), View(jpeg=70, crop=Crop(mode="centre", size=8)))


def test_transparency_is_dropped_as_pillow_does_where_the_view_says_so() -> None:
    clear = noise(24, 24)
    clear.putalpha(Image.fromarray(RANDOM.integers(0, 256, (24, 24), dtype=np.uint8)))
    palette = noise(24, 24).quantize(16)
    crop = Crop(mode="centre", size=24)
    for image, options in ((clear, {}), (clear.convert("LA"), {}), (palette, {"transparency": 3}), (noise(24, 24), {})):
        data = png(image, **options)
        dropped, white = (
            read_views(data, Preprocessing(views=(View(alpha=alpha, crop=crop),)))[0] for alpha in ("drop", "white")
        )
        assert np.array_equal(dropped, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.array_equal(dropped, white) == (image.mode == "RGB")


def test_orientation_is_ignored_where_the_view_says_so() -> None:
    image, exif = noise(24, 16), Image.Exif()
    exif[0x112] = 6
    crop = Crop(mode="centre", size=8)
    [found] = read_views(png(image, exif=exif), Preprocessing(views=(View(orient=False, crop=crop),)))
    assert np.array_equal(found, np.asarray(image)[4:12, 8:16])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"resize": {"mode": "exact", "size": 8, "library": "opencv"}}, "opencv resizes without antialias"),
        (
            {"resize": {"mode": "exact", "size": 8, "kernel": "lanczos", "library": "torch"}},
            "kernel 'lanczos' is Pillow's only, not that of torch",
        ),
        ({"crop": {"mode": "grid", "size": 8, "stride": 4, "max": 9, "multiple": 2}}, "multiple 2 .* with crop 'grid'"),
        ({"crop": {"mode": "five", "size": 8, "multiple": 0}}, "multiple 0 must be at least 1"),
    ],
)
def test_what_no_library_does_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        View.model_validate(part)


def test_a_field_at_its_default_leaves_the_digest_as_it_was() -> None:
    """Digests of before these fields: bundles and cached scores keep their identity."""
    view = View(resize=Resize(mode="shorter", size=256), crop=Crop(mode="centre", size=224))
    same = View.model_validate(
        {
            "alpha": "white",
            "jpeg": None,
            "resize": {"mode": "shorter", "size": 256, "library": "pillow", "rounding": "nearest"},
            "crop": {"mode": "centre", "size": 224, "rounding": "down", "multiple": 1},
        }
    )
    assert same.model_dump(mode="json") == {
        "orient": True,
        "colour": "rgb",
        "resize": {"mode": "shorter", "size": 256, "kernel": "bilinear", "antialias": True},
        "crop": {"mode": "centre", "size": 224, "stride": None, "max": None},
        "on_small": "unsure",
    }
    assert Preprocessing(views=(same,)).digest == Preprocessing(views=(view,)).digest == DIGEST
    for other in ({"alpha": "drop"}, {"jpeg": 90}, {"crop": {"mode": "centre", "size": 224, "multiple": 14}}):
        changed = View.model_validate(same.model_dump() | other)
        assert Preprocessing(views=(changed,)).digest != DIGEST


def test_what_views_take_is_known_before() -> None:
    data = png(noise(64, 64))
    crop = Crop(mode="centre", size=32)
    plain, coded = (Preprocessing(views=(View(jpeg=quality, crop=crop),)) for quality in (None, 90))
    image = EncodedImage(data, Limits())
    assert image.peak_bytes([coded]) > image.peak_bytes([plain])
