"""Damaged JPEGs are refused, whole ones are not, however they are coded; on files made here."""

import io
import random
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bundle.errors import BrokenImage, UnsupportedFormat
from bundle.jpeg import MAX_SCANS, SLACK_BYTES, Portions, read_jpeg
from bundle.preprocess import decode

EOI = b"\xff\xd9"


def photograph(side: int = 200) -> Image.Image:
    """Smooth, with some noise, as photographs are."""
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(0).normal(0, 6, (side, side, 3))
    return Image.fromarray((np.stack([x / 2 + 40, y / 2 + 60, (x + y) / 4], axis=-1) + noise).clip(0, 255).astype("u1"))


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(decode(data).image)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


PHOTOGRAPH = photograph()
KINDS = {
    "baseline": encode(PHOTOGRAPH, quality=90),
    "optimised": encode(PHOTOGRAPH, quality=60, optimize=True),
    "4:4:4": encode(PHOTOGRAPH, subsampling=0),
    "grey": encode(PHOTOGRAPH.convert("L")),
    "CMYK": encode(PHOTOGRAPH.convert("CMYK")),
    "restart markers": encode(PHOTOGRAPH, restart_marker_blocks=5),
    "progressive": encode(PHOTOGRAPH, progressive=True),
    "progressive grey": encode(PHOTOGRAPH.convert("L"), progressive=True),
    "progressive CMYK": encode(PHOTOGRAPH.convert("CMYK"), progressive=True),
    "progressive with restart markers": encode(PHOTOGRAPH, progressive=True, restart_marker_rows=1),
    "flat": encode(Image.new("RGB", (300, 300), "white"), optimize=True),
    "flat progressive": encode(Image.new("RGB", (300, 300), "white"), progressive=True),
    "one pixel": encode(Image.new("RGB", (1, 1))),
}
PHOTOGRAPHS = sorted(name for name in KINDS if not name.startswith(("flat", "one")))


def as_pillow_shows(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class TestWhole:
    @pytest.mark.parametrize("name", KINDS)
    def test_pixels_are_those_of_libjpeg(self, name: str) -> None:
        assert np.array_equal(pixels(KINDS[name]), as_pillow_shows(KINDS[name]))

    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("behind", [b"\n", bytes(1000), b"PK\3\4" * 50, KINDS["grey"]], ids=len)
    def test_what_follows_the_end_is_ignored(self, name: str, behind: bytes) -> None:
        assert np.array_equal(pixels(KINDS[name] + behind), as_pillow_shows(KINDS[name]))

    @pytest.mark.parametrize("padding", [b"\0" * 20, b"\0" * 5000, b"\xaa" * 5000, b"\xff" * 300])
    def test_padding_of_cameras(self, padding: bytes) -> None:
        data = KINDS["baseline"]
        assert np.array_equal(pixels(data[:-2] + padding + EOI), as_pillow_shows(data))


class TestDamaged:
    CUTS: ClassVar = [random.Random(7).uniform(0.05, 0.95) for _ in range(25)]

    @staticmethod
    def scans(data: bytes) -> int:
        """Where the data of the first scan begin."""
        at = data.index(b"\xff\xda")
        return at + 2 + int.from_bytes(data[at + 2 : at + 4])

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    def test_cut_and_closed(self, name: str) -> None:
        data = KINDS[name]
        first = self.scans(data)
        for share in self.CUTS:
            cut = first + int(share * (len(data) - first))
            with pytest.raises(BrokenImage):
                decode(data[:cut] + EOI)

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    @pytest.mark.parametrize("fill", [0x00, 0x55])
    def test_cut_and_filled(self, name: str, fill: int) -> None:
        data = KINDS[name]
        first = self.scans(data)
        for share in self.CUTS:
            cut = first + int(share * (len(data) - first))
            with pytest.raises(BrokenImage):
                decode(data[:cut] + bytes([fill]) * (len(data) - cut - 2) + EOI)

    @pytest.mark.parametrize("name", PHOTOGRAPHS)
    def test_what_is_missing_unnoticed_is_less_than_a_row_of_blocks(self, name: str) -> None:
        """At the very end a few bits may be missing, fewer than libjpeg reads ahead."""
        data = KINDS[name]
        whole = as_pillow_shows(data)
        for missing in range(1, 2 * SLACK_BYTES):
            try:
                found = pixels(data[: -2 - missing] + EOI)
            except BrokenImage:
                continue
            assert (found != whole).any(axis=-1).sum() <= 3 * 256, missing

    def test_the_last_scan_alone_is_cut(self) -> None:
        """The scans are all there, so only the pixels tell."""
        for name in ("progressive", "progressive grey", "progressive with restart markers"):
            data = KINDS[name]
            last = data.rindex(b"\xff\xda")
            for cut in range(last + 40, len(data) - 20, 97):
                with pytest.raises(BrokenImage):
                    decode(data[:cut] + EOI)

    def test_a_missing_scan(self) -> None:
        data = KINDS["progressive"]
        with pytest.raises(BrokenImage, match="scans are missing"):
            decode(data[: data.rindex(b"\xff\xda")] + EOI)

    def test_garbage_behind_the_last_pixel(self) -> None:
        data = KINDS["baseline"]
        with pytest.raises(BrokenImage, match="more of them than pixels"):
            decode(data[:-2] + bytes(range(1, 251)) * 4 + EOI)

    @pytest.mark.parametrize("name", KINDS)
    def test_without_an_end(self, name: str) -> None:
        with pytest.raises(BrokenImage, match="no marker behind it"):
            decode(KINDS[name][:-2])

    def test_too_many_scans(self) -> None:
        data = KINDS["progressive grey"]
        scan = data[data.rindex(b"\xff\xda") : -2]
        with pytest.raises(BrokenImage, match="more than 100"):
            decode(data[: data.index(b"\xff\xda")] + scan * (MAX_SCANS + 1) + EOI)

    @pytest.mark.parametrize("body", [b"", b"\1", b"\1\1\0"])
    def test_a_scan_without_parameters(self, body: bytes) -> None:
        data = KINDS["progressive"]
        at = data.index(b"\xff\xda")
        with pytest.raises(BrokenImage):
            decode(data[:at] + segment(0xDA, body) + data[at:])


class TestRestarts:
    """Between two restart markers libjpeg fills what is missing, and guesses where they are out of order."""

    @staticmethod
    def changed(data: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
        """With other intervals and markers, which alternate, in the first scan."""
        first = TestDamaged.scans(data)
        end = re.search(rb"\xff[\x01-\xcf\xd8-\xfe]", data[first:])
        assert end
        parts = re.split(rb"(\xff[\xd0-\xd7])", data[first : first + end.start()])
        return data[:first] + b"".join(change(parts)) + data[first + end.start() :]

    CHANGES: ClassVar[dict[str, Callable[[list[bytes]], list[bytes]]]] = {
        "an empty interval": lambda parts: [*parts[:6], b"", *parts[7:]],
        "all intervals empty": lambda parts: [part if at % 2 else b"" for at, part in enumerate(parts)],
        "half an interval": lambda parts: [*parts[:6], parts[6][: len(parts[6]) // 2], *parts[7:]],
        "markers out of order": lambda parts: [*parts[:3], parts[5], parts[4], parts[3], *parts[6:]],
        "a marker too few": lambda parts: [*parts[:3], *parts[4:]],
        "eight intervals too few": lambda parts: [*parts[:3], *parts[19:]],
        "eight markers too many": lambda parts: [*parts[:3], *parts[3:19:2], *parts[3:]],
    }

    @pytest.mark.parametrize("name", ["restart markers", "progressive with restart markers"])
    @pytest.mark.parametrize("change", CHANGES)
    def test_intervals(self, name: str, change: str) -> None:
        data = self.changed(KINDS[name], lambda parts: parts)
        assert data == KINDS[name]
        with pytest.raises(BrokenImage):
            decode(self.changed(data, self.CHANGES[change]))

    def test_intervals_of_zeros(self) -> None:
        """In a scan of single bits zeros may be data, which all viewers show alike."""
        with pytest.raises(BrokenImage):
            decode(
                self.changed(
                    KINDS["restart markers"], lambda parts: [p if i % 2 else bytes(len(p)) for i, p in enumerate(parts)]
                )
            )

    @pytest.mark.parametrize("interval", [b"", segment(0xDD, b"\0\7"), segment(0xDD, b"\0\0")])
    def test_an_interval_that_is_not_that_of_the_markers(self, interval: bytes) -> None:
        data = KINDS["restart markers"]
        declared = segment(0xDD, b"\0\5")
        assert declared in data
        with pytest.raises(BrokenImage, match="restart markers are missing or out of order"):
            decode(data.replace(declared, interval))

    def test_a_marker_behind_the_last_interval(self) -> None:
        data = KINDS["restart markers"]
        last = re.findall(rb"\xff([\xd0-\xd7])", data[TestDamaged.scans(data) :])[-1][0]
        ended = data[:-2] + bytes([0xFF, 0xD0 + (last + 1) % 8]) + EOI
        assert np.array_equal(pixels(ended), as_pillow_shows(data))

    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("size", [(1, 1), (17, 33), (200, 100)])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_whole_files_of_any_size(self, size: tuple[int, int], subsampling: int, progressive: bool) -> None:
        image = PHOTOGRAPH.crop((0, 0, *size))
        for every in (1, 2, 8, 9):
            data = encode(image, subsampling=subsampling, progressive=progressive, restart_marker_blocks=every)
            assert np.array_equal(pixels(data), as_pillow_shows(data))


class TestSegments:
    @pytest.mark.parametrize(
        ("marker", "body"),
        [
            (0xE0, b"JFI"),
            (0xE0, b"JFIF\0"),
            (0xE0, b"JFXX\0\x10" + bytes(200)),
            (0xE1, b"Exif\0\0"),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><<"),
            (0xE2, b"ICC_PROFILE\0"),
            (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
            (0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed\0\0\0\0\0\2xx"),
            (0xEE, b"Adobe\0"),
            (0xEF, bytes(65_000)),
            (0xFE, b""),
        ],
    )
    @pytest.mark.parametrize("name", ["baseline", "progressive"])
    def test_what_is_no_pixel_decides_nothing(self, name: str, marker: int, body: bytes) -> None:
        data = KINDS[name]
        changed = data[:2] + segment(marker, body) + data[2:]
        assert np.array_equal(pixels(changed), as_pillow_shows(data))

    def test_a_short_jfif_segment_in_place_of_the_whole_one(self) -> None:
        data = KINDS["baseline"]
        assert data[2:4] == b"\xff\xe0"
        short = data[:2] + segment(0xE0, b"JFIF\0") + data[4 + int.from_bytes(data[4:6]) :]
        assert np.array_equal(pixels(short), as_pillow_shows(data))

    def test_segments_that_say_which_colours_the_numbers_are_stay(self) -> None:
        rgb = encode(PHOTOGRAPH, keep_rgb=True)
        assert b"Adobe" in rgb
        assert np.abs(pixels(rgb).astype(int) - np.asarray(PHOTOGRAPH)).max() < 40

    @pytest.mark.parametrize(
        ("marker", "bits", "name"),
        [
            (0xC1, 12, "12-bit JPEG"),
            (0xC3, 16, "16-bit lossless JPEG"),
            (0xC3, 8, "8-bit lossless JPEG"),
            (0xC9, 8, "8-bit arithmetic-coded JPEG"),
            (0xC5, 8, "8-bit hierarchical JPEG"),
        ],
    )
    def test_kinds_that_browsers_do_not_show(self, marker: int, bits: int, name: str) -> None:
        data = bytearray(KINDS["baseline"])
        at = data.index(b"\xff\xc0")
        data[at + 1], data[at + 4] = marker, bits
        with pytest.raises(UnsupportedFormat, match=f"^{name} is not supported: convert it to JPEG or PNG$"):
            decode(bytes(data))

    def test_the_first_exif_block_counts(self) -> None:
        data = KINDS["baseline"]
        blocks = [segment(0xE1, b"Exif\0\0" + letter * 40) for letter in (b"a", b"b")]
        assert read_jpeg(data[:2] + b"".join(blocks) + data[2:]).exif == b"Exif\0\0" + b"a" * 40
        empty = segment(0xE1, b"Exif\0\0")
        assert read_jpeg(data[:2] + empty + blocks[0] + data[2:]).exif == b"Exif\0\0" + b"a" * 40

    def test_a_profile_in_parts_in_any_order(self) -> None:
        data = KINDS["baseline"]
        parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 3]) + bytes([n]) * 5) for n in (3, 1, 2)]
        assert read_jpeg(data[:2] + b"".join(parts) + data[2:]).profile == b"\1" * 5 + b"\2" * 5 + b"\3" * 5
        assert read_jpeg(data[:2] + b"".join(parts[:2]) + data[2:]).profile == b""


def test_portions() -> None:
    file = Portions(bytes(range(20)), (5, 12))
    assert [len(file.read(4)) for _ in range(3)] == [4, 1, 4]
    assert (len(file.read()), file.tell()) == (3, 12)
    assert (len(file.read(-1)), len(file.read())) == (8, 0)
