"""Colour information that makes another picture, made here, against what ordinary profiles do."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from bundle.colour import MAX_PROFILE_BYTES, code_points_alter, gamma_alters, profile_alters
from bundle.preprocess import decode

Curve = Callable[[float], float]
SRGB_COLUMNS = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
ADOBE_COLUMNS = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PROPHOTO_COLUMNS = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))


def profile(curve: Curve, columns: tuple[tuple[float, ...], ...] = SRGB_COLUMNS) -> bytes:
    """A display's, of version 2: three columns to XYZ and one curve of 256 points (ICC.1:2001)."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    points = [min(65535, max(0, round(65535 * curve(level / 255)))) for level in range(256)]
    bodies = {
        **{name: b"XYZ \0\0\0\0" + b"".join(map(number, xyz)) for name, xyz in zip(NAMES, columns, strict=True)},
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(number, (0.9642, 1.0, 0.8249))),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv\0\0\0\0" + struct.pack(">I256H", 256, *points)),
    }
    at = 128 + 4 + 12 * len(bodies)
    table, data = struct.pack(">I", len(bodies)), b""
    for name, body in bodies.items():
        table += struct.pack(">4sII", name, at + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(data), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(number, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + table + data


NAMES = (b"rXYZ", b"gXYZ", b"bXYZ")
INVERTED = profile(lambda x: (1 - x) ** 2.2)
HARMLESS = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "2.2": profile(lambda x: x**2.2),
    "Adobe RGB": profile(lambda x: x**2.2, ADOBE_COLUMNS),
    "ProPhoto": profile(lambda x: x**1.8, PROPHOTO_COLUMNS),
    "linear": profile(lambda x: x),
    "none": b"",
    "garbage": b"garbage" * 40,
    "Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
}
ALTERING = {
    "black": profile(lambda _: 0),
    "white": profile(lambda _: 1),
    "inverted": INVERTED,
    "parity": profile(lambda x: round(255 * x) % 2),
    "parity on top of the picture": profile(lambda x: min(1, max(0, x + 0.2 * (-1) ** round(255 * x))) ** 2.2),
    "red and blue swapped": profile(lambda x: x**2.2, SRGB_COLUMNS[::-1]),
    "much too dark": profile(lambda x: x**6),
    "damaged": INVERTED[:200],
    "huge": INVERTED + bytes(MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_profiles_that_leave_the_picture(name: str) -> None:
    assert not profile_alters(HARMLESS[name])


@pytest.mark.parametrize("name", ALTERING)
def test_profiles_that_make_another_picture(name: str) -> None:
    assert profile_alters(ALTERING[name])


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_image_says_so_and_its_numbers_stay(format_: str) -> None:
    image = Image.fromarray((np.mgrid[:40, :48].sum(axis=0)[..., None] * [2, 1, 2]).astype(np.uint8))

    def encoded(icc_profile: bytes | None) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_, icc_profile=icc_profile)
        return buffer.getvalue()

    plain, harmless, altering = (decode(encoded(each)) for each in (None, HARMLESS["Adobe RGB"], INVERTED))
    assert [each.facts.ambiguous for each in (plain, harmless, altering)] == [False, False, True]
    assert plain.image.tobytes() == harmless.image.tobytes() == altering.image.tobytes()


SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SWAPPED = (*SRGB[:2], *SRGB[6:], *SRGB[4:6], *SRGB[2:4])


@pytest.mark.parametrize(
    ("gamma", "primaries", "alters"),
    [
        (0.45455, None, False),
        (0.45455, SRGB, False),
        (0.45455, P3, False),
        (1 / 1.8, None, False),
        (1.0, None, False),
        (0.01, None, True),
        (0.2, None, True),
        (10.0, None, True),
        (0.45455, SWAPPED, True),
        (0.45455, (0.0,) * 8, True),
        (0.45455, (0.3, 0.3) * 4, True),
    ],
)
def test_gamma(gamma: float, primaries: tuple[float, ...] | None, alters: bool) -> None:
    assert gamma_alters(gamma, primaries) == alters


@pytest.mark.parametrize(
    ("primaries", "transfer", "alters"),
    [(1, 13, False), (12, 13, False), (9, 14, False), (2, 2, False), (9, 16, True), (9, 18, True), (10, 13, True)],
    ids=["sRGB", "Display P3", "BT.2020", "unspecified", "PQ", "HLG", "XYZ"],
)
def test_code_points(primaries: int, transfer: int, alters: bool) -> None:
    assert code_points_alter(primaries, transfer) == alters


def chunk(kind: bytes, body: bytes, *, intact: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not intact))


DARK = chunk(b"gAMA", struct.pack(">I", 1000))


@pytest.mark.parametrize(
    ("before", "behind", "ambiguous"),
    [
        (DARK, b"", True),
        (b"", DARK, False),
        (chunk(b"gAMA", struct.pack(">I", 1000), intact=False), b"", False),
        (chunk(b"gAMA", bytes(4)), b"", False),
        (chunk(b"cICP", bytes([9, 16, 0, 1])), b"", True),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), b"", False),
        (chunk(b"cICP", bytes([1, 13, 1, 1])), b"", True),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(INVERTED)), b"", True),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 * MAX_PROFILE_BYTES))), b"", False),
        (chunk(b"iCCP", b"x\0\0garbage"), b"", False),
    ],
)
def test_chunks_of_a_png(before: bytes, behind: bytes, ambiguous: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (90, 120, 30)).save(buffer, "PNG")
    data = buffer.getvalue()
    decoded = decode(data[:33] + before + data[33:-12] + behind + data[-12:])
    assert decoded.facts.ambiguous == ambiguous
    assert decoded.image.getpixel((0, 0)) == (90, 120, 30)


def test_code_points_of_an_avif() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 30)).save(buffer, "AVIF")
    data = buffer.getvalue()
    at = data.index(b"colrnclx") + 8
    assert not decode(data).facts.ambiguous
    assert decode(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :]).facts.ambiguous
