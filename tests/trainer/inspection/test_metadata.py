"""Headers of images made by hand; JPEG's tables against the formula of the standard's Annex K and libjpeg's scaling."""

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bundle.errors import ImageError
from trainer.inspection.metadata import GROUPS, INSPECTED, Metadata, jpeg_quality, read_metadata, tabulate

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))

LUMINANCE = [
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
]
"""ITU-T T.81, table K.1."""


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scaled(quality: int) -> list[int]:
    """The table that ``jpeg_set_quality`` makes."""
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(255, max(1, (step * factor + 50) // 100)) for step in LUMINANCE]


@pytest.mark.parametrize("quality", [1, 5, 10, 24, 25, 50, 75, 76, 89, 95, 99, 100])
def test_the_quality_that_was_written_is_read(quality: int) -> None:
    assert jpeg_quality(Image.open(io.BytesIO(encode(PICTURE, "JPEG", quality=quality)))) == (quality, False)
    grey = encode(PICTURE.convert("L"), "JPEG", quality=quality)
    assert jpeg_quality(Image.open(io.BytesIO(grey))) == (quality, False)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_tables_near_to_libjpegs(quality: int) -> None:
    tables = [scaled(quality), scaled(quality)]
    tables[0][5] += 1
    read = jpeg_quality(Image.open(io.BytesIO(encode(PICTURE.convert("L"), "JPEG", qtables=tables[:1]))))
    assert read == (quality, True)
    exact = encode(PICTURE.convert("L"), "JPEG", qtables=[scaled(quality)])
    assert jpeg_quality(Image.open(io.BytesIO(exact))) == (quality, False)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            encode(PICTURE, "JPEG", subsampling="4:2:2"),
            {"format": "JPEG", "coding": "baseline", "subsampling": "4:2:2"},
        ),
        (
            encode(PICTURE, "JPEG", progressive=True, subsampling="4:4:4"),
            {"coding": "progressive", "subsampling": "4:4:4"},
        ),
        (encode(PICTURE.convert("L"), "JPEG"), {"mode": "L", "subsampling": "none"}),
        (encode(PICTURE.convert("CMYK"), "JPEG"), {"mode": "CMYK"}),
        (encode(PICTURE, "PNG"), {"format": "PNG", "coding": "", "quality": 0, "subsampling": "", "width": 40}),
        (encode(PICTURE.quantize(), "PNG"), {"mode": "P"}),
        (encode(PICTURE, "PNG"), {"bits": 8, "effort": "default", "parts": ()}),
        (encode(PICTURE, "PNG", compress_level=0), {"effort": "fastest"}),
        (encode(PICTURE, "PNG", compress_level=9), {"effort": "best"}),
        (encode(PICTURE.quantize(4), "PNG"), {"mode": "P", "bits": 2}),
        (encode(PICTURE, "JPEG"), {"bits": 8, "effort": "", "parts": ()}),
        (encode(PICTURE, "JPEG", comment=b"words"), {"parts": ("COM",)}),
        (encode(PICTURE, "WEBP"), {"parts": ()}),
        (encode(PICTURE, "WEBP", icc_profile=b"profile"), {"parts": ("ICCP",)}),
        (encode(PICTURE, "WEBP", lossless=True), {"format": "WEBP", "coding": "lossless"}),
        (encode(PICTURE, "WEBP", quality=60), {"coding": "lossy", "height": 24}),
        (encode(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"), {"coding": "lossless"}),
    ],
)
def test_what_headers_say(data: bytes, expected: dict[str, object]) -> None:
    metadata = read_metadata(data)
    assert {name: getattr(metadata, name) for name in expected} == expected
    assert metadata.bytes == len(data)
    assert (metadata.width, metadata.height) == (40, 24)


def test_tags() -> None:
    def tags(data: bytes) -> tuple[bool, bool, bool]:
        metadata = read_metadata(data)
        return metadata.exif, metadata.icc, metadata.other_tags

    exif = Image.Exif()
    exif[0x0110] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a generator")
    for form in ("JPEG", "PNG", "WEBP"):
        assert tags(encode(PICTURE, form)) == (False, False, False)
        assert tags(encode(PICTURE, form, exif=exif)) == (True, False, False)
        assert tags(encode(PICTURE, form, icc_profile=b"profile" * 30)) == (False, True, False)
    assert tags(encode(PICTURE, "PNG", pnginfo=text)) == (False, False, True)
    assert tags(encode(PICTURE, "JPEG", comment=b"words")) == (False, False, True)
    assert tags(encode(PICTURE, "JPEG", dpi=(72, 72))) == (False, False, True)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_what_pillow_does_not_tell_of_a_file() -> None:
    plain, jpeg = encode(PICTURE, "PNG"), encode(PICTURE, "JPEG")
    manifest = chunk(b"caBX", b"claim")
    assert read_metadata(plain[:33] + manifest + plain[33:]).parts == ("caBX",)
    assert read_metadata(plain[:-12] + manifest + plain[-12:]).parts == ("caBX",)  # after the pixels
    assert read_metadata(jpeg[:2] + b"\xff\xff\xeb\x00\x04JP" + jpeg[2:]).parts == ("APP11",)
    samples = np.zeros((24, 40, 3), ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 24, 16, 2, 0, 0, 0))
    deep = read_metadata(plain[:8] + header + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))
    assert (deep.mode, deep.bits, deep.effort) == ("RGB", 16, "best")
    assert len({read_metadata(data).container for data in (plain, jpeg, encode(PICTURE, "PNG", compress_level=9))}) == 3
    assert read_metadata(plain).bare
    assert not read_metadata(encode(PICTURE, "JPEG", dpi=(72, 72))).bare


def test_what_is_no_image() -> None:
    with pytest.raises(ImageError):
        read_metadata(b"words")


def test_the_table_has_a_column_a_word_and_logarithms_of_sizes() -> None:
    one = Metadata("PNG", "RGB", 64, 32, 4096, "", 0, False, "", True, False, False, 8, "default", ())
    other = Metadata("JPEG", "odd", 64, 32, 2048, "baseline", 90, True, "4:2:0", False, False, True, 8, "", ())
    table = tabulate([one, other])
    assert table.values.shape == (2, len(table.group))
    assert table.of("format and coding").tolist() == [
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
    ]
    assert not table.of("mode")[1].any()
    assert table.of("width and height").tolist() == [[64, 32], [64, 32]]
    assert table.of("JPEG quality").tolist() == [[0, 0], [90, 1]]
    assert table.of("EXIF, profile, tags").tolist() == [[1, 0, 0], [0, 0, 1]]
    assert table.of("file size").tolist() == [[12, 4], [11, 3]]
    assert sum(table.of(name).shape[1] for name in GROUPS) == table.values.shape[1]


def test_an_inspection_sees_more_than_the_floor() -> None:
    one = Metadata("PNG", "RGB", 64, 40, 4096, "", 0, False, "", True, False, False, 16, "best", ("caBX", "tIME"))
    two = replace(one, bits=8, width=40, effort="", parts=("tIME",))
    floor, table = tabulate([one, two]), tabulate([one, two], INSPECTED)
    assert floor.values.shape[1] == 11 + 8 + 2 + 2 + 4 + 3 + 2
    assert table.of("format and coding")[:, 11:].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert table.of("mode")[:, 8:].tolist() == [[16], [8]]
    assert table.of("width and height").tolist() == [[64, 40, 1, 1, 1, 0], [40, 40, 1, 0, 1, 0]]
    assert table.of("EXIF, profile, tags")[:, 3:].tolist() == [[1, 1], [1, 0]]  # tIME is the commoner
    for name in ("JPEG quality", "subsampling", "file size"):
        assert (table.of(name) == floor.of(name)).all()
