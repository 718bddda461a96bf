"""Every row of the policy table in ``bundle/preprocess.py``, on files made here."""

import io
import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from bundle.containers import FORMATS
from bundle.errors import (
    BrokenImage,
    EmptyImage,
    ImageError,
    ImageTooLarge,
    TooManyPixels,
    UnsupportedFormat,
)
from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import (
    DECODING_POLICY,
    EncodedImage,
    Limits,
    decode,
    decoder_version,
    decoding_policy,
    make_views,
    pixels_digest,
)
from bundle.views import MAX_PIXELS_CEILING

Pixels = npt.NDArray[np.uint8]

# Under pytest warnings are errors; in the program Pillow's are silent (see the filters in bundle/preprocess.py).
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:::PIL.{module}")
    for module in ("Image", "JpegImagePlugin", "PngImagePlugin", "TiffImagePlugin")
]


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand: ``rows`` with their filter bytes, ``chunks`` between header and pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, pixels, png_chunk(b"IEND", b"")])


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pixels(data: bytes) -> Pixels:
    return np.asarray(decode(data).image)


def views(image: Image.Image, *recipe: View) -> Pixels:
    return make_views(decode(encode(image, "PNG")), Preprocessing(views=recipe))


def gradient(width: int, height: int) -> Image.Image:
    """A smooth image without symmetry, which JPEG, WebP and AVIF keep to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 4, y * 4, (x + 2 * y)], axis=-1).astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURE, SECOND = gradient(48, 40), noise(48, 40)
ONE_FRAME = {name: encode(PICTURE, name) for name in FORMATS}
ANIMATED = {
    name: encode(PICTURE, name, save_all=True, append_images=[SECOND]) for name in ("GIF", "WEBP", "PNG", "AVIF")
}


class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_each_is_taken_by_content(self, name: str) -> None:
        decoded = decode(ONE_FRAME[name])
        facts = decoded.facts
        assert (facts.format, facts.width, facts.height, facts.animated) == (name, 48, 40, False)
        assert facts.bytes == len(ONE_FRAME[name])
        assert decoded.orientation == 1
        assert decoded.image.mode == "RGB"
        close = {"PNG": 0, "BMP": 0, "GIF": 20}.get(name, 12)
        assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(PICTURE)).max() <= close

    @pytest.mark.parametrize(
        "data",
        [
            encode(PICTURE, "TIFF"),
            encode(PICTURE, "PPM"),
            encode(PICTURE, "ICO"),
            encode(PICTURE, "JPEG2000"),
            b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
            b"%PDF-1.7\n",
            b"no image, only words. " * 40,
            b"\0" * 1000,
            b"x",
        ],
        ids=["tiff", "ppm", "ico", "jpeg2000", "svg", "pdf", "text", "zeros", "one byte"],
    )
    def test_others_are_refused(self, data: bytes) -> None:
        with pytest.raises(UnsupportedFormat, match="not an image of JPEG, PNG"):
            decode(data)

    def test_no_bytes(self) -> None:
        with pytest.raises(EmptyImage):
            decode(b"")


class TestOrientation:
    UPRIGHT = np.array([[1, 2, 3], [4, 5, 6]])
    STORED: ClassVar = {  # as EXIF 2.32 defines them: what the camera stored of UPRIGHT
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[3, 6], [2, 5], [1, 4]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[4, 1], [5, 2], [6, 3]],
    }

    @staticmethod
    def stored(orientation: int, block: int = 8) -> Image.Image:
        grey = np.array(TestOrientation.STORED[orientation], np.uint8) * 40
        return Image.fromarray(grey.repeat(block, axis=0).repeat(block, axis=1)).convert("RGB")

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
    def test_each(self, name: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {} if name == "PNG" else {"quality": 95}
        decoded = decode(encode(self.stored(orientation), name, exif=exif, **options))
        assert decoded.orientation == orientation
        stored = np.array(self.STORED[orientation])
        assert (decoded.facts.height, decoded.facts.width) == (stored.shape[0] * 8, stored.shape[1] * 8)

        def seen(*, orient: bool) -> list[list[int]]:
            shape = self.UPRIGHT.shape if orient else stored.shape
            recipe = View(orient=orient, crop=Crop(mode="centre", size=24), on_small="zero_pad")
            view = make_views(decoded, Preprocessing(views=(recipe,)))[0, :, :, 0].astype(int)
            rows, columns = 3 - shape[0], 3 - shape[1]  # 2 x 3 blocks lie in the middle of 3 x 3
            inner = view[rows * 4 : 24 - rows * 4, columns * 4 : 24 - columns * 4]
            return [[round(value / 40) for value in row] for row in inner[4::8, 4::8].tolist()]

        assert seen(orient=True) == self.UPRIGHT.tolist()
        assert seen(orient=False) == stored.tolist()

    def test_a_turned_avif(self) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        assert decode(encode(PICTURE, "AVIF", exif=exif)).orientation == 6

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0",
            b"Exif\0\0II*\0",
            b"Exif\0\0garbage that is no TIFF header",
            b"Exif\0\0II*\0\xff\xff\xff\x7f",
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # orientation 9
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0\x36\0\0\0",  # orientation is text
            b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01",  # cut within the first of five entries
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0",  # 32 bits
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0",  # two of them
        ],
        ids=["empty", "no offset", "garbage", "far offset", "nine", "text", "cut", "long", "two"],
    )
    def test_a_damaged_block_counts_as_absent(self, name: str, exif: bytes) -> None:
        plain, damaged = encode(PICTURE, name), decode(encode(PICTURE, name, exif=exif))
        assert damaged.orientation == 1
        assert np.array_equal(np.asarray(damaged.image), pixels(plain))

    def test_what_can_be_read_of_a_damaged_block_counts(self) -> None:
        two_entries = b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
        broken = struct.pack("<HHII", 0x10F, 2, 5000, 4000)  # a text of 5000 bytes that is not there
        assert decode(encode(PICTURE, "JPEG", exif=b"Exif\0\0" + two_entries + broken)).orientation == 6

    @pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
    def test_xmp_does_not_count_as_in_browsers(self, name: str) -> None:
        xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        assert decode(encode(PICTURE, name, xmp=xmp)).orientation == 1
        assert decode(encode(PICTURE, name, xmp=xmp, exif=exif)).orientation == 3


class TestColour:
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
    def test_a_profile_changes_nothing(self, name: str) -> None:
        swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        assert np.array_equal(pixels(encode(PICTURE, name, icc_profile=swapped)), pixels(ONE_FRAME[name]))

    INKS = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255], [100, 50, 0, 60]]], np.uint8)

    @pytest.mark.parametrize("marker", [True, False], ids=["with Adobe's marker", "without"])
    def test_cmyk_is_inverted(self, marker: bool) -> None:
        image = Image.fromarray(self.INKS.repeat(16, axis=0).repeat(16, axis=1), "CMYK")
        data = encode(image, "JPEG", quality=100, subsampling=0)  # Pillow stores 255 - ink, and the marker
        start = data.index(b"\xff\xee\x00\x0eAdobe")
        if not marker:
            data = data[:start] + data[start + 16 :]
        expected = (255.0 - self.INKS[..., :3]) * (255.0 - self.INKS[..., 3:]) / 255
        assert np.abs(pixels(data)[8::16, 8::16] - expected).max() <= 3

    def test_ycck(self) -> None:
        luma, black = np.meshgrid([0, 60, 200, 255], [0, 90, 255])
        stored = np.stack([luma, np.full_like(luma, 128), np.full_like(luma, 128), black], axis=-1)
        inks = (255 - stored).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        data = bytearray(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0))
        data[data.index(b"\xff\xee\x00\x0eAdobe") + 15] = 2  # says that the first three are luma and chroma
        expected = (255 - luma) * black / 255
        assert np.abs(pixels(bytes(data))[8::16, 8::16] - expected[..., None]).max() <= 3

    @pytest.mark.parametrize("name", ["PNG", "WEBP"])
    def test_alpha_is_composed_over_white(self, name: str) -> None:
        colour, alpha = np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 3))
        rgba = np.stack([colour, colour // 2, 255 - colour, alpha], axis=-1).astype(np.uint8)
        data = encode(Image.fromarray(rgba), name, **({"lossless": True, "exact": True} if name == "WEBP" else {}))
        share = alpha[..., None] / 255
        assert np.array_equal(pixels(data), np.rint(rgba[..., :3] * share + 255 * (1 - share)))

    def test_colours_hidden_under_alpha_0_are_white(self) -> None:
        hidden = noise(16, 16)
        hidden.putalpha(0)
        assert (pixels(encode(hidden, "PNG")) == 255).all()

    def test_avif_with_alpha(self) -> None:
        clear = PICTURE.copy()
        clear.putalpha(0)
        assert (pixels(encode(clear, "AVIF")) == 255).all()

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (png(4, 1, 1, 0, b"\0\x50"), [0, 255, 0, 255]),
            (png(4, 1, 2, 0, b"\0\x1b"), [0, 85, 170, 255]),
            (png(2, 1, 4, 0, b"\0\x1f"), [17, 255]),
            (png(3, 1, 8, 0, b"\0\x00\x07\xff"), [0, 7, 255]),
            (png(2, 1, 8, 4, b"\0\x64\xff\x64\x00"), [100, 255]),
            (png(4, 1, 16, 0, b"\0\x00\xff\x12\x34\x12\xff\xff\x00"), [0, 0x12, 0x12, 0xFF]),
            (png(2, 1, 16, 4, b"\0\x12\x34\xff\xff\x12\x34\x00\x00"), [0x12, 255]),
            (png(2, 1, 16, 2, b"\0\x12\xff\x34\xff\x56\xff\xab\0\xcd\0\xef\0"), [[18, 52, 86], [171, 205, 239]]),
            (png(1, 1, 16, 6, b"\0\x12\xff\x34\xff\x56\xff\0\0"), [[255, 255, 255]]),
        ],
        ids=["1 bit", "2 bit", "4 bit", "grey", "grey+alpha", "grey 16", "grey+alpha 16", "RGB 16", "RGBA 16"],
    )
    def test_grey_and_depths(self, data: bytes, expected: list[int] | list[list[int]]) -> None:
        row = np.array(expected)
        assert pixels(data)[0].tolist() == (row if row.ndim == 2 else row[:, None].repeat(3, axis=1)).tolist()

    @pytest.mark.parametrize(
        ("depth", "colour", "rows", "key", "expected"),
        [
            (1, 0, b"\0\x40", (1,), [0, 255]),
            (8, 0, b"\0\x07\x09", (7,), [255, 9]),
            (8, 2, b"\0\x07\x08\x09\x09\x09\x09", (7, 8, 9), [255, 9]),
            (2, 0, b"\0\x60", (1,), [255, 170]),
            (4, 0, b"\0\x12", (1,), [255, 34]),
            (4, 0, b"\0\x12", (0xF1,), [255, 34]),
            (8, 0, b"\0\x07\x09", (0x107,), [255, 9]),
            (8, 2, b"\0\x07\x08\x09\x09\x09\x09", (7, 8, 0x109), [255, 9]),
            (16, 0, b"\0\x12\x34\x12\x35", (0x1234,), [255, 0x12]),
            (16, 2, b"\0" + b"\x12\x34" * 3 + b"\x34\x34" * 3, (0x1234,) * 3, [0x12, 0x34]),
        ],
        ids=["1", "8", "RGB 8", "2", "4", "4 high bits", "8 high bits", "RGB 8 high bits", "16", "RGB 16 ignored"],
    )
    def test_colour_key(self, depth: int, colour: int, rows: bytes, key: tuple[int, ...], expected: list[int]) -> None:
        data = png(2, 1, depth, colour, rows, png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
        assert pixels(data)[0, :, 0].tolist() == expected

    def test_palette_with_and_without_transparency(self) -> None:
        palette = png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
        rows = b"\0\x00\x01\x02"
        half = png_chunk(b"tRNS", bytes([0, 51]))  # the third colour is opaque
        assert pixels(png(3, 1, 8, 3, rows, palette))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
        assert pixels(png(3, 1, 8, 3, rows, palette, half))[0].tolist() == [[255] * 3, [212, 214, 216], [70, 80, 90]]

    def test_gif_with_a_transparent_colour(self) -> None:
        image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
        image.putpalette([200, 0, 0, 0, 200, 0])
        assert pixels(encode(image, "GIF", transparency=0)).tolist() == [
            [[255, 255, 255], [0, 200, 0]],
            [[0, 200, 0], [255, 255, 255]],
        ]


class TestFrames:
    @pytest.mark.parametrize("name", sorted(ANIMATED))
    def test_an_animation_is_its_first_frame(self, name: str) -> None:
        decoded = decode(ANIMATED[name])
        assert decoded.facts.animated
        assert decoded.facts.format == name
        assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(PICTURE)).max() <= 20

    def test_a_png_s_default_image_is_not_shown_where_it_is_no_frame(self) -> None:
        data = encode(PICTURE, "PNG", save_all=True, append_images=[SECOND, SECOND.rotate(90)], default_image=True)
        assert decode(data).facts.animated
        assert np.array_equal(pixels(data), np.asarray(SECOND))

    def test_a_multi_picture_jpeg_is_one_photograph(self) -> None:
        decoded = decode(encode(PICTURE, "MPO", save_all=True, append_images=[SECOND]))
        assert (decoded.facts.format, decoded.facts.animated) == ("JPEG", False)
        assert np.array_equal(np.asarray(decoded.image), pixels(ONE_FRAME["JPEG"]))

    def test_a_jpeg_with_a_broken_index_of_images_is_a_jpeg(self) -> None:
        plain = ONE_FRAME["JPEG"]
        broken = plain[:2] + b"\xff\xe2\x00\x10MPF\0II*\0\xff\xff\0\0\0\0" + plain[2:]
        assert np.array_equal(pixels(broken), pixels(plain))


class TestCeilings:
    def test_bytes(self) -> None:
        data = ONE_FRAME["PNG"]
        decode(data, Limits(max_bytes=len(data)))
        with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes, the ceiling is {len(data) - 1}"):
            decode(data, Limits(max_bytes=len(data) - 1))

    @pytest.mark.parametrize("name", FORMATS)
    def test_pixels(self, name: str) -> None:
        decode(ONE_FRAME[name], Limits(max_pixels=48 * 40))
        with pytest.raises(TooManyPixels, match="48 x 40 pixels, the ceiling is 1919"):
            decode(ONE_FRAME[name], Limits(max_pixels=48 * 40 - 1))

    @pytest.mark.parametrize("side", [9_000, 12_000, 100_000])
    def test_pixels_that_only_the_header_promises(self, side: int) -> None:
        with pytest.raises(TooManyPixels):
            decode(png(side, side, 8, 2, b""))

    def test_a_gif_frame_larger_than_its_screen(self) -> None:
        data = bytearray(ONE_FRAME["GIF"])
        data[6:10] = struct.pack("<HH", 1, 1)
        decode(bytes(data))
        with pytest.raises(TooManyPixels):
            decode(bytes(data), Limits(max_pixels=48 * 40 - 1))

    def test_none_above_pillow_s_own(self) -> None:
        assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS_CEILING
        for ceiling in (0, MAX_PIXELS_CEILING + 1):
            with pytest.raises(ValueError, match="max_pixels must lie in"):
                Limits(max_pixels=ceiling)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_decoding_and_cutting_hold_no_more_memory_than_they_say(self) -> None:
        """Measures the peak of resident memory, in a process of its own for each file."""
        big = gradient(1600, 1600)
        clear = big.copy()
        clear.putalpha(128)
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 6
        files = {
            "turned JPEG": encode(big, "JPEG", exif=turned),
            "CMYK JPEG": encode(big.convert("CMYK"), "JPEG"),
            "progressive CMYK JPEG": encode(big.convert("CMYK"), "JPEG", progressive=True),
            "16 bit": encode(Image.fromarray(np.full((1600, 1600), 4660, np.uint16)), "PNG"),
            "LA": encode(clear.convert("LA"), "PNG"),
            "turned RGBA": encode(clear, "PNG", exif=turned),
            "AVIF": encode(clear, "AVIF", subsampling="4:4:4", speed=10, exif=turned),
            "WebP": encode(clear, "WEBP", method=0, exif=turned),
        }
        script = """
import sys
from bundle.manifest import Crop, Preprocessing, Resize, View
from bundle.preprocess import EncodedImage, Limits, make_views

def peak(reset=False):
    if reset:
        open("/proc/self/clear_refs", "w").write("5")
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

recipes = [
    [],
    [View(resize=Resize(mode="shorter", size=256), crop=Crop(mode="centre", size=224))],
    [View(resize=Resize(mode="shorter", size=1800, kernel="bicubic"), crop=Crop(mode="centre", size=224))],
    [View(crop=Crop(mode="grid", size=224, stride=112, max=100))],
    *(
        [View(crop=Crop(mode="centre", size=2000), on_small=policy)]
        for policy in ("upscale", "reflect", "zero_pad", "tile")
    ),
    [View(alpha="drop", crop=Crop(mode="ten", size=224))],
    [View(jpeg=95, crop=Crop(mode="centre", size=224))],
    *(
        [View(resize=Resize(mode="exact", size=size, kernel="bicubic", antialias=False, library=library))]
        for library in ("torchvision", "torch", "opencv")
        for size in (256, 1800)
    ),
]
data = sys.stdin.buffer.read()
make_views(EncodedImage(data, Limits()).decode(), Preprocessing(views=[View(resize=Resize(mode="exact", size=16))]))
for recipe in recipes:
    preprocessings = [Preprocessing(views=recipe)] if recipe else []
    image = EncodedImage(data, Limits())
    before = peak(reset=True)
    decoded = image.decode(opaque=any(preprocessing.drops_alpha for preprocessing in preprocessings))
    views = [make_views(decoded, preprocessing) for preprocessing in preprocessings]
    print((peak() - before) / image.peak_bytes(preprocessings))
    del image, decoded, views
"""
        for name, data in files.items():
            done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
            shares = [float(share) for share in done.stdout.split()]
            assert len(shares) == 16
            assert all(share < 1.05 for share in shares), (name, shares)
            assert max(shares) > 0.4, (name, shares)

    def test_what_views_take_is_known_before(self) -> None:
        line = EncodedImage(encode(Image.new("RGB", (400_000, 1)), "PNG"), Limits())
        recipe = View(resize=Resize(mode="shorter", size=256), crop=Crop(mode="centre", size=256))
        with pytest.raises(TooManyPixels, match="400000 x 1 would become 102400000 x 256"):
            line.peak_bytes([Preprocessing(views=(recipe,))])


class TestDamage:
    WHOLE: ClassVar = {
        **ONE_FRAME,
        **{f"animated {name}": data for name, data in ANIMATED.items()},
        "progressive JPEG": encode(PICTURE, "JPEG", progressive=True),
        "CMYK JPEG": encode(PICTURE.convert("CMYK"), "JPEG"),
        "lossless WEBP": encode(PICTURE, "WEBP", lossless=True),
        "palette BMP": encode(PICTURE.quantize(16), "BMP"),
        "MPO": encode(PICTURE, "MPO", save_all=True, append_images=[SECOND]),
    }

    @pytest.mark.parametrize("name", sorted(WHOLE))
    def test_a_truncated_file_gives_the_whole_image_or_none(self, name: str) -> None:
        data = self.WHOLE[name]
        whole, errors = pixels(data), set()
        for end in [*range(1, 64), *range(64, len(data), max(1, len(data) // 150))]:
            try:
                found = decode(data[:end])
            except (BrokenImage, UnsupportedFormat) as error:
                errors.add(type(error))
            else:
                assert np.array_equal(np.asarray(found.image), whole), end
        assert UnsupportedFormat in errors
        assert len(errors) == 2 or name == "animated AVIF"  # of which Pillow says nothing but that it is none

    @settings(max_examples=400, deadline=None)
    @given(name=st.sampled_from(sorted(WHOLE)), change=st.data())
    def test_a_changed_file_is_an_image_or_an_image_s_fault(self, name: str, change: st.DataObject) -> None:
        data = bytearray(self.WHOLE[name])
        for _ in range(change.draw(st.integers(1, 4))):
            # Headers decide most, and lie at the beginning.
            start = change.draw(st.integers(0, 60) | st.integers(0, len(data) - 1))
            removed = change.draw(st.integers(0, 4))
            data[start : start + removed] = change.draw(st.binary(max_size=4))
        try:
            decoded = decode(bytes(data), Limits(max_pixels=100_000))
        except ImageError:
            return
        assert decoded.image.size == (decoded.facts.width, decoded.facts.height)
        assert decoded.image.mode == "RGB"
        assert 1 <= decoded.orientation <= 8


class TestResize:
    def test_exact_forgets_the_shape_and_shorter_keeps_it(self) -> None:
        image = noise(60, 40)
        exact = views(image, View(resize=Resize(mode="exact", size=16, kernel="lanczos")))
        assert np.array_equal(exact[0], np.asarray(image.resize((16, 16), Image.Resampling.LANCZOS)))
        centre = Crop(mode="centre", size=16)
        shorter = views(image, View(resize=Resize(mode="shorter", size=16, kernel="box"), crop=centre))
        assert np.array_equal(shorter[0], np.asarray(image.resize((24, 16), Image.Resampling.BOX))[:, 4:20])

    @pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(61, 37), (16, 90), (9, 9)])
    def test_without_antialias_it_samples_single_points(
        self, size: tuple[int, int], kernel: Literal["bilinear", "bicubic"]
    ) -> None:
        """Compares with plain loops for ``align_corners=False``, for enlarging too."""

        def weight(distance: float) -> float:
            d = abs(distance)
            if kernel == "bilinear":
                return max(0.0, 1 - d)
            return d**3 - 2 * d**2 + 1 if d <= 1 else 4 - 8 * d + 5 * d**2 - d**3 if d < 2 else 0.0  # Keys, a = -1

        def taps(target: int, length: int) -> list[tuple[int, float]]:
            centre = (target + 0.5) * length / 16 - 0.5
            first = math.floor(centre) - 1
            return [(min(max(i, 0), length - 1), weight(i - centre)) for i in range(first, first + 4)]

        image = noise(*size)
        source = np.asarray(image).astype(float)
        found = views(image, View(resize=Resize(mode="exact", size=16, kernel=kernel, antialias=False)))[0]
        for row in range(16):
            for column in range(16):
                value = sum(
                    source[y, x] * down * across
                    for y, down in taps(row, size[1])
                    for x, across in taps(column, size[0])
                )
                assert np.abs(found[row, column] - np.clip(value, 0, 255)).max() <= 1

    def test_antialias_is_another_picture(self) -> None:
        exact = Resize(mode="exact", size=16)
        with_, without = (View(resize=exact.model_copy(update={"antialias": on})) for on in (True, False))
        assert not np.array_equal(views(noise(64, 64), with_), views(noise(64, 64), without))

    def test_none_keeps_pixels_as_stored(self) -> None:
        image = noise(16, 16)
        assert np.array_equal(views(image, View(crop=Crop(mode="centre", size=16)))[0], np.asarray(image))

    def test_an_elongated_image_does_not_grow_without_bound(self) -> None:
        line = Image.new("RGB", (400_000, 1))
        recipe = View(resize=Resize(mode="shorter", size=256), crop=Crop(mode="centre", size=256))
        with pytest.raises(TooManyPixels, match="400000 x 1 would become 102400000 x 256"):
            views(line, recipe)
        assert views(line, View(resize=Resize(mode="exact", size=16))).shape == (1, 16, 16, 3)


class TestCrop:
    # Each pixel of a 40 x 30 image knows where it is.
    WHERE = Image.fromarray(np.stack([*np.mgrid[:30, :40], np.zeros((30, 40))], axis=-1).astype(np.uint8))

    def corners(self, crop: Crop) -> list[tuple[int, int]]:
        cut = views(self.WHERE, View(crop=crop))
        for view in cut:
            assert np.array_equal(view[-1, -1, :2] - view[0, 0, :2], [7, 7])
        return [(int(view[0, 0, 0]), int(view[0, 0, 1])) for view in cut]

    def test_centre(self) -> None:
        assert self.corners(Crop(mode="centre", size=8)) == [(11, 16)]

    def test_five(self) -> None:
        assert self.corners(Crop(mode="five", size=8)) == [(11, 16), (0, 0), (0, 32), (22, 0), (22, 32)]

    def test_grid(self) -> None:
        whole = [(y, x) for y in (0, 10, 20) for x in (0, 10, 20, 30)]
        assert self.corners(Crop(mode="grid", size=8, stride=10, max=12)) == whole
        assert self.corners(Crop(mode="grid", size=8, stride=10, max=3)) == [whole[2], whole[6], whole[10]]
        assert self.corners(Crop(mode="grid", size=8, stride=10, max=1)) == [whole[6]]

    def test_views_follow_each_other(self) -> None:
        centre, five = (View(crop=Crop.model_validate({"mode": mode, "size": 8})) for mode in ("centre", "five"))
        both = views(self.WHERE, centre, five)
        assert np.array_equal(both, np.concatenate([views(self.WHERE, centre), views(self.WHERE, five)]))


class TestTooSmall:
    @pytest.mark.parametrize("size", [(12, 40), (40, 12), (5, 5), (1, 1), (1, 40)])
    def test_each_policy(self, size: tuple[int, int]) -> None:
        image = noise(*size)
        crop = Crop(mode="centre", size=16)
        source = np.asarray(image)
        across, down = max(0, 16 - size[0]), max(0, 16 - size[1])

        def mirrored(position: int, length: int) -> int:
            """Indices that bounce between the ends without repeating them."""
            period = max(1, 2 * (length - 1))
            inside = position % period
            return min(inside, period - inside) if length > 1 else 0

        padded = {"zero_pad": np.zeros((size[1] + down, size[0] + across, 3), np.uint8)}
        padded["reflect"] = padded["zero_pad"].copy()
        for y in range(size[1] + down):
            for x in range(size[0] + across):
                row, column = y - down // 2, x - across // 2
                if 0 <= row < size[1] and 0 <= column < size[0]:
                    padded["zero_pad"][y, x] = source[row, column]
                padded["reflect"][y, x] = source[mirrored(row, size[1]), mirrored(column, size[0])]
        for policy, whole in padded.items():
            top, left = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
            found = views(image, View(crop=crop, on_small=policy))
            assert np.array_equal(found[0], whole[top : top + 16, left : left + 16]), policy

        assert views(image, View(crop=crop)).shape == (0, 16, 16, 3)
        scale = 16 / min(size)
        upscaled = np.asarray(image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR))
        top, left = (upscaled.shape[0] - 16) // 2, (upscaled.shape[1] - 16) // 2
        assert np.array_equal(
            views(image, View(crop=crop, on_small="upscale"))[0], upscaled[top : top + 16, left : left + 16]
        )

    def test_large_enough_views_stay_when_others_have_none(self) -> None:
        large_enough = View(resize=Resize(mode="exact", size=16))
        assert len(views(noise(12, 12), View(crop=Crop(mode="five", size=16)), large_enough)) == 1

    @pytest.mark.parametrize("policy", ["zero_pad", "reflect", "upscale"])
    def test_an_elongated_image_does_not_grow_without_bound(
        self, policy: Literal["zero_pad", "reflect", "upscale"]
    ) -> None:
        with pytest.raises(TooManyPixels, match="400000 x 1 would become"):
            views(Image.new("RGB", (400_000, 1)), View(crop=Crop(mode="centre", size=1024), on_small=policy))


class TestIdentity:
    RECIPE = Preprocessing(
        views=(
            View(resize=Resize(mode="shorter", size=24, kernel="bicubic"), crop=Crop(mode="five", size=16)),
            View(resize=Resize(mode="exact", size=16, antialias=False)),
        )
    )

    def test_the_same_from_many_threads(self) -> None:
        files = [*ONE_FRAME.values(), *ANIMATED.values()] * 8

        def digest(data: bytes) -> str:
            return pixels_digest(make_views(decode(data), self.RECIPE))

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(digest, files)) == [digest(data) for data in files]

    @pytest.mark.parametrize(
        "change",
        [lambda v: v[:1], lambda v: v.reshape(2, 32, 8, 3), lambda v: v ^ np.uint8(1)],
        ids=["fewer", "shape", "values"],
    )
    def test_the_digest_sees_pixels_and_shape(self, change: Callable[[Pixels], Pixels]) -> None:
        found = np.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3).astype(np.uint8)
        assert pixels_digest(change(found)) != pixels_digest(found)
        assert pixels_digest(np.asfortranarray(found)) == pixels_digest(found)

    def test_the_decoder_names_the_policy(self) -> None:
        assert decoder_version().endswith(f"+policy-{DECODING_POLICY}")
        assert decoding_policy("pillow-13.0.0+avif-1.4.2+policy-7") == 7
        assert decoding_policy("pillow-13.0.0+avif-1.4.2") == 1

    def test_the_decoder_names_every_library(self) -> None:
        assert decoder_version().split("+")[0].startswith("pillow-")
        for library in ("libjpeg_turbo-", "zlib_ng-", "webp-", "avif-"):
            assert library in decoder_version()

    def test_the_caller_learns_what_decoding_takes_before_it(self) -> None:
        data = png(7000, 7000, 8, 2, b"")
        assert EncodedImage(data, Limits()).peak_bytes(()) == 7000 * (7000 * 13 + 24) + 3 * len(data)
