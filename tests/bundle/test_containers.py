"""Files in which viewers see one picture and a naive decoder another, made here; and formats told by their names."""

import io
import itertools
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bundle.errors import BrokenImage, TooManyPixels, UnsupportedFormat
from bundle.preprocess import EncodedImage, Limits, decode
from tests.bundle.clean_aperture import with_clean_aperture

RED, BLUE, WHITE = (200, 0, 0), (0, 0, 200), (255, 255, 255)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(decode(data).image)


def chunk(kind: bytes, body: bytes, *, intact: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not intact))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixel_data = chunk(b"IDAT", zlib.compress(rows))
    return b"".join([SIGNATURE, header, *chunks, pixel_data, chunk(b"IEND", b"")])


def rows_of(colour: tuple[int, int, int], width: int, height: int) -> bytes:
    return (b"\0" + bytes(colour) * width) * height


GRADIENT = Image.fromarray((np.mgrid[:40, :48].sum(axis=0)[..., None] * [2, 1, 2]).astype(np.uint8))
PNG = encode(GRADIENT, "PNG")


class TestNames:
    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (encode(GRADIENT, "TIFF"), "TIFF"),
            (b"MM\0*" + bytes(40), "TIFF"),
            (b"MM\0+\0\x08\0\0" + bytes(40), "TIFF"),
            (encode(GRADIENT, "JPEG2000"), "JPEG 2000"),
            (b"\xff\x4f\xff\x51" + bytes(40), "JPEG 2000"),
            (b"\xff\x0a" + bytes(40), "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(40), "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf" + bytes(40), "HEIF"),
            (b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(40), "MP4"),
            (b"\0\0\0\x14ftypwhat\0\0\0\0what", "ISO media"),
            (b"8BPS\0\1" + bytes(40), "PSD"),
            (encode(GRADIENT, "ICO"), "ICO"),
            (b"<svg/>", "SVG or HTML"),
            (b"<html>" + PNG, "SVG or HTML"),
            (b"%PDF-1.7", "PDF"),
        ],
    )
    def test_other_formats(self, data: bytes, name: str) -> None:
        with pytest.raises(UnsupportedFormat, match=f"^not an image of .*, but {name}: convert it to JPEG or PNG$"):
            decode(data)

    def test_an_avif_whose_first_brand_is_another(self) -> None:
        data = encode(GRADIENT, "AVIF")
        assert data[8:12] == b"avif"
        assert np.array_equal(pixels(data[:8] + b"mif1" + data[12:]), pixels(data))


class TestPng:
    @pytest.mark.parametrize(
        "extra",
        [
            chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_100_000))),
            chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(1_100_000))),
            chunk(b"gAMA", bytes(4), intact=False),
            chunk(b"gAMA", b""),
            chunk(b"tRNS", b"", intact=False),
            chunk(b"iCCP", b"x\0\7"),
            chunk(b"pHYs", b"xx", intact=False),
            chunk(b"sRGB", b""),
            chunk(b"cHRM", b"x"),
            chunk(b"tEXt", b"exif\0x"),
            chunk(b"eXIf", b"garbage"),
            chunk(b"eXIf", b"MM\0*", intact=False),
            chunk(b"acTL", b"x"),
            chunk(b"acTL", bytes(8)),
            chunk(b"PLTE", b"xx", intact=False),
            chunk(b"prIv", bytes(9)),
        ],
    )
    def test_what_is_no_pixel_decides_nothing(self, extra: bytes) -> None:
        assert np.array_equal(pixels(PNG[:33] + extra + PNG[33:]), np.asarray(GRADIENT))
        if extra[4:8] not in (b"PLTE", b"acTL"):
            assert np.array_equal(pixels(PNG[:-12] + extra + PNG[-12:]), np.asarray(GRADIENT))

    @pytest.mark.parametrize("rows", [0, 1, 10, 39])
    def test_rows_that_end_early_are_not_black(self, rows: int) -> None:
        whole = rows_of(RED, 48, 40)
        data = png(48, 40, 8, 2, whole[: rows * (1 + 3 * 48)])
        with pytest.raises(BrokenImage):
            decode(data)

    def test_a_black_image_is_whole(self) -> None:
        for interlaced in (0, 1):
            sizes = [(6, 5), (6, 5), (12, 5), (12, 10), (24, 10), (24, 20), (48, 20)] if interlaced else [(48, 40)]
            rows = b"".join((b"\0" + bytes(3 * width)) * height for width, height in sizes)
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, 8, 2, 0, 0, interlaced))
            end = chunk(b"IEND", b"")
            assert not pixels(SIGNATURE + header + chunk(b"IDAT", zlib.compress(rows)) + end).any()
            with pytest.raises(BrokenImage):
                decode(SIGNATURE + header + chunk(b"IDAT", zlib.compress(rows[: -10 * (1 + 3 * 48)])) + end)

    @pytest.mark.parametrize(("depth", "colour"), [(0, 0), (0, 2), (3, 0), (16, 3), (8, 1), (1, 6)])
    def test_depths_that_there_are_not(self, depth: int, colour: int) -> None:
        with pytest.raises(BrokenImage, match="header"):
            decode(png(4, 4, depth, colour, bytes(100), chunk(b"tRNS", bytes(6))))

    def test_parts_without_number_take_no_memory(self) -> None:
        assert np.array_equal(pixels(PNG[:33] + chunk(b"prIv", b"") * 100_000 + PNG[33:]), np.asarray(GRADIENT))
        with pytest.raises(UnsupportedFormat, match="65536 parts"):
            decode(PNG[:33] + chunk(b"tRNS", b"") * 70_000 + PNG[33:])

    @pytest.mark.parametrize("lead", [b"\n", b"\r\n", b"\xef\xbb\xbf", b"\0", b"Content-Type: image/png\r\n\r\n"])
    def test_bytes_before_the_signature(self, lead: bytes) -> None:
        assert np.array_equal(pixels(lead + PNG), np.asarray(GRADIENT))

    def test_too_many_bytes_before_the_signature(self) -> None:
        with pytest.raises(UnsupportedFormat):
            decode(b"x" * 65 + PNG)

    def test_an_orientation_counts_before_the_pixels_alone_and_without_a_header(self) -> None:
        """Chrome and Firefox do not look behind them."""
        block = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, 6, 0, 0)
        for body, orientation in ((block, 6), (b"Exif\0\0" + block, 1)):
            assert decode(PNG[:33] + chunk(b"eXIf", body) + PNG[33:]).orientation == orientation
            assert decode(PNG[:-12] + chunk(b"eXIf", body) + PNG[-12:]).orientation == 1

    PIXELS = zlib.compress(rows_of(RED, 48, 40))
    PARTS = (PIXELS[:30], PIXELS[30:])

    @pytest.mark.parametrize(
        "chunks",
        [
            [chunk(b"IDAT", PARTS[0], intact=False), chunk(b"IDAT", PARTS[1])],
            [chunk(b"IDAT", PARTS[0]), chunk(b"IDAT", PARTS[1], intact=False)],
            [chunk(b"IDAT", PARTS[0]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", PARTS[1])],
            [chunk(b"IDAT", PIXELS), chunk(b"prIv", b""), chunk(b"IDAT", zlib.compress(rows_of(BLUE, 48, 40)))],
            [chunk(b"CRIT", b""), chunk(b"IDAT", PIXELS)],
            [chunk(b"IHDR", PNG[16:29]), chunk(b"IDAT", PIXELS)],
        ],
        ids=["first checksum", "last checksum", "text between", "another picture behind", "unknown", "two headers"],
    )
    def test_disorder_that_viewers_show_differently(self, chunks: list[bytes]) -> None:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, 8, 2, 0, 0, 0))
        plain = b"".join([SIGNATURE, header, *(chunk(b"IDAT", part) for part in self.PARTS), chunk(b"IEND", b"")])
        assert (pixels(plain) == RED).all()
        with pytest.raises(BrokenImage, match=r"^damaged PNG"):
            decode(b"".join([SIGNATURE, header, *chunks, chunk(b"IEND", b"")]))

    @pytest.mark.parametrize("method", [b"\1\0\0", b"\0\1\0", b"\0\x40\0", b"\0\0\2"])
    def test_methods_that_there_are_not(self, method: bytes) -> None:
        header = chunk(b"IHDR", PNG[16:26] + method)
        with pytest.raises(BrokenImage):
            decode(SIGNATURE + header + PNG[33:])

    def test_a_colour_key_of_16_bit_colours_is_said(self) -> None:
        data = png(1, 1, 16, 2, bytes(7), chunk(b"tRNS", bytes(6)))
        assert decode(data).facts.ambiguous
        assert not decode(png(1, 1, 16, 2, bytes(7))).facts.ambiguous

    PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    CLEAR = chunk(b"tRNS", b"\0\0")

    @pytest.mark.parametrize(
        ("chunks", "expected"),
        [
            ((PALETTE, CLEAR), [WHITE, WHITE]),
            ((PALETTE, chunk(b"tRNS", b"\0")), [WHITE, (40, 50, 60)]),
            ((PALETTE, chunk(b"tRNS", b"\0\0\0")), [(10, 20, 30), (40, 50, 60)]),
            ((PALETTE, chunk(b"tRNS", bytes(256))), [(10, 20, 30), (40, 50, 60)]),
            ((PALETTE, chunk(b"tRNS", b"\0\0", intact=False)), [(10, 20, 30), (40, 50, 60)]),
            ((CLEAR, PALETTE), [(10, 20, 30), (40, 50, 60)]),
        ],
        ids=[
            "all",
            "first",
            "longer than the palette",
            "much longer",
            "damaged",
            "before the palette",
        ],
    )
    def test_transparency_of_a_palette(self, chunks: tuple[bytes, ...], expected: list[tuple[int, ...]]) -> None:
        assert pixels(png(2, 1, 8, 3, b"\0\0\1", *chunks))[0].tolist() == [list(colour) for colour in expected]

    @pytest.mark.parametrize("length", [0, 1, 3, 6, 256])
    def test_a_colour_key_of_another_length_is_ignored(self, length: int) -> None:
        data = png(2, 1, 8, 0, b"\0\0\x09", chunk(b"tRNS", bytes(length)))
        assert pixels(data)[0, :, 0].tolist() == [0, 9]

    def test_two_transparencies(self) -> None:
        for first in (self.CLEAR, chunk(b"tRNS", bytes(9))):
            with pytest.raises(BrokenImage, match="two transparencies"):
                decode(png(2, 1, 8, 3, b"\0\0\1", self.PALETTE, first, self.CLEAR))

    def test_colours_that_the_palette_lacks(self) -> None:
        """libpng makes them black and warns, others do not make them black."""
        with pytest.raises(BrokenImage, match="colours that its palette lacks"):
            decode(png(2, 1, 8, 3, b"\0\0\2", self.PALETTE))

    @pytest.mark.parametrize(
        "chunks",
        [(), (chunk(b"PLTE", b""),), (chunk(b"PLTE", bytes(6), intact=False),), (PALETTE, PALETTE)],
    )
    def test_without_its_palette(self, chunks: tuple[bytes, ...]) -> None:
        with pytest.raises(BrokenImage, match="palette"):
            decode(png(2, 1, 8, 3, b"\0\0\1", *chunks))


class TestAnimatedPng:
    @staticmethod
    def file(box: tuple[int, int, int, int], frame: bytes, *, frames: int = 1) -> bytes:
        """A red default image of 8 x 6 that is no frame, and a frame at ``box`` (left, top, width, height)."""
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 2, 0, 0, 0))
        left, top, width, height = box
        control = struct.pack(">IIIIIHHBB", 0, width, height, left, top, 1, 1, 0, 0)
        packed = zlib.compress(frame)
        parts = [
            SIGNATURE,
            header,
            chunk(b"acTL", struct.pack(">II", frames, 0)),
            chunk(b"IDAT", zlib.compress(rows_of(RED, 8, 6))),
            chunk(b"fcTL", control),
            chunk(b"fdAT", struct.pack(">I", 1) + packed[:9]),
            chunk(b"fdAT", struct.pack(">I", 2) + packed[9:]),
            chunk(b"IEND", b""),
        ]
        return b"".join(parts)

    def test_a_default_image_that_is_no_frame_is_not_shown(self) -> None:
        data = self.file((0, 0, 8, 6), rows_of(BLUE, 8, 6))
        assert decode(data).facts.animated
        assert (pixels(data) == BLUE).all()

    def test_a_frame_that_covers_a_part(self) -> None:
        data = self.file((3, 1, 4, 2), rows_of(BLUE, 4, 2))
        expected = np.full((6, 8, 3), 255, np.uint8)
        expected[1:3, 3:7] = BLUE
        assert np.array_equal(pixels(data), expected)
        assert (decode(data).facts.width, decode(data).facts.height) == (8, 6)

    @pytest.mark.parametrize("box", [(5, 0, 4, 2), (0, 5, 4, 2), (0, 0, 0, 2)])
    def test_a_frame_outside(self, box: tuple[int, int, int, int]) -> None:
        with pytest.raises(BrokenImage, match="outside of its image"):
            decode(self.file(box, rows_of(BLUE, 4, 2)))

    CONTROL = struct.pack(">IIIIIHHBB", 0, 8, 6, 0, 0, 1, 1, 0, 0)
    NUMBERED = tuple(struct.pack(">I", number) for number in range(4))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (chunk(b"fcTL", CONTROL), chunk(b"fcTL", NUMBERED[3] + CONTROL[4:])),
            (chunk(b"fcTL", CONTROL), chunk(b"fcTL", CONTROL, intact=False)),
            (chunk(b"fcTL", CONTROL), chunk(b"fcTL", CONTROL[:-2] + b"\3\0")),
            (chunk(b"fcTL", CONTROL), chunk(b"fcTL", CONTROL[:-2] + b"\0\2")),
            (chunk(b"fcTL", CONTROL), chunk(b"CRIT", b"") + chunk(b"fcTL", CONTROL)),
            (chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"acTL", bytes(8)) + chunk(b"acTL", NUMBERED[2] * 2)),
            (chunk(b"IDAT", b""), chunk(b"fcTL", CONTROL[:4] + NUMBERED[3] + CONTROL[8:]) + chunk(b"IDAT", b"")),
            (b"\0\0\0\1" + zlib.compress(rows_of(BLUE, 8, 6))[:9], None),
        ],
        ids=["number", "checksum", "disposal", "blending", "unknown", "two", "no whole first frame", "data's number"],
    )
    def test_disorder_that_viewers_show_differently(self, old: bytes, new: bytes | None) -> None:
        data = self.file((0, 0, 8, 6), rows_of(BLUE, 8, 6))
        if old == chunk(b"IDAT", b""):
            old = chunk(b"IDAT", zlib.compress(rows_of(RED, 8, 6)))
            assert new is not None
            new = new[: -len(chunk(b"IDAT", b""))] + old
        if new is None:
            old, new = chunk(b"fdAT", old), chunk(b"fdAT", b"\0\0\0\7" + old[4:])
        assert data.count(old) == 1
        with pytest.raises(BrokenImage):
            decode(data.replace(old, new))

    def test_cut_at_any_place_it_is_the_first_frame_or_none(self) -> None:
        data = self.file((0, 0, 8, 6), rows_of(BLUE, 8, 6))
        found = set()
        for end in range(8, len(data)):
            try:
                found.add(pixels(data[:end]).tobytes())
            except BrokenImage:
                continue
        assert found == {bytes(BLUE) * 48}

    def test_a_count_of_frames_that_is_none_means_a_still_image(self) -> None:
        for frames in (0, 2**31 + 1):
            data = self.file((0, 0, 8, 6), rows_of(BLUE, 8, 6), frames=frames)
            assert (pixels(data) == RED).all()
            assert not decode(data).facts.animated


class TestUncovered:
    EXPECTED = np.full((6, 8, 3), 255, np.uint8)
    EXPECTED[1:5, 2:6] = BLUE

    @pytest.mark.parametrize("transparent", [None, 1])
    def test_gif(self, transparent: int | None) -> None:
        """Canvas that the first frame leaves uncovered is transparent, not of palette entry 0."""
        control = b"" if transparent is None else b"\x21\xf9\x04\x01\0\0" + bytes([transparent, 0])
        data = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0x80, 0, 0) + bytes(RED) + bytes(BLUE) + control
        data += b"\x2c" + struct.pack("<HHHHB", 2, 1, 4, 4, 0)
        codes = [4, 1] * 16 + [5]  # of 3 bits: clear and colour 1 for each pixel, end
        packed = sum(code << 3 * at for at, code in enumerate(codes)).to_bytes(13, "little")
        found = pixels(data + b"\2\x0d" + packed + b"\0;")
        assert np.array_equal(found, self.EXPECTED if transparent is None else np.full((6, 8, 3), 255))

    @pytest.mark.parametrize("alpha", [0x00, 0x10])
    def test_webp(self, alpha: int) -> None:
        """With and without the flag that says that there is transparency."""
        still = encode(Image.new("RGB", (4, 4), BLUE), "WEBP", lossless=True)
        picture = still[still.index(b"VP8L") :]

        def three(value: int) -> bytes:
            return value.to_bytes(3, "little")

        frame = three(2 // 2) + three(0) + three(3) + three(3) + three(100) + b"\0" + picture
        body = b"WEBPVP8X\x0a\0\0\0" + bytes([0x02 | alpha, 0, 0, 0]) + three(7) + three(5)
        body += b"ANIM\6\0\0\0" + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
        found = pixels(b"RIFF" + struct.pack("<I", len(body)) + body)
        assert np.array_equal(found, np.roll(self.EXPECTED, -1, axis=0))


class TestGif:
    SCREEN = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0x80, 0, 0) + bytes(RED) + bytes(BLUE)
    CONTROL = b"\x21\xf9\x04\0\0\0\0\0"
    CODES = sum(code << 3 * at for at, code in enumerate([*[4, 1] * 48, 5])).to_bytes(37, "little")
    IMAGE = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 6, 0) + b"\2\x25" + CODES + b"\0"

    @pytest.mark.parametrize("before", [b"", CONTROL, CONTROL + b"\x21\xfe\3abc\0", b"\x21\x77\1a\0" + CONTROL])
    def test_blocks_in_order(self, before: bytes) -> None:
        assert (pixels(self.SCREEN + before + self.IMAGE + b";") == BLUE).all()

    @pytest.mark.parametrize(
        "before",
        [
            b"\x21\xf9\x04\1\0\0\1\0" + CONTROL,
            CONTROL + b"\x21\xf9\x04\1\0\0\1\0",
            b"\x21\xf9\x05\1\0\0\1\0\0",
            b"\x21\xf9\x04\0\0\0\0\4\1\0\0\1\0",
            b"\1\2\3",
            b"\0",
            b";",
        ],
    )
    def test_disorder_that_viewers_show_differently(self, before: bytes) -> None:
        with pytest.raises(BrokenImage, match="GIF"):
            decode(self.SCREEN + before + self.IMAGE + b";")

    def test_without_a_palette(self) -> None:
        with pytest.raises(BrokenImage, match="no palette"):
            decode(self.SCREEN[:10] + b"\0" + self.SCREEN[11:13] + self.IMAGE + b";")


class TestWebp:
    CLEAR = encode(Image.new("RGBA", (12, 10), (*RED, 90)), "WEBP", lossless=True)
    PICTURE = CLEAR[CLEAR.index(b"VP8L") :]

    @staticmethod
    def file(flags: int, *chunks: bytes) -> bytes:
        body = b"WEBPVP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0, 11, 0, 0, 9, 0, 0]) + b"".join(chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    def test_transparency(self) -> None:
        assert np.array_equal(pixels(self.file(0x10, self.PICTURE)), pixels(self.CLEAR))

    @pytest.mark.parametrize("where", ["file", "picture"])
    def test_transparency_that_is_denied(self, where: str) -> None:
        """Some viewers show the colours under it, and some what is seen through it."""
        hidden = self.PICTURE[:12] + bytes([self.PICTURE[12] & ~0x10]) + self.PICTURE[13:]
        data = self.file(0, self.PICTURE) if where == "file" else self.CLEAR.replace(self.PICTURE, hidden)
        assert data != self.CLEAR
        with pytest.raises(BrokenImage, match="transparency in a picture that says it has none"):
            decode(data)

    def test_a_frame_of_another_size_than_its_picture(self) -> None:
        frame = bytes(6) + b"\x0a\0\0\x09\0\0" + bytes(4) + self.PICTURE
        data = self.file(0x12, b"ANIM\6\0\0\0" + bytes(6), b"ANMF" + struct.pack("<I", len(frame)) + frame)
        with pytest.raises(BrokenImage, match="another size"):
            decode(data)

    @pytest.mark.parametrize("chunks", [(), (b"EXIF\0\0\0\0",), (b"ANMF\0\0\0\0",)])
    def test_without_a_picture(self, chunks: tuple[bytes, ...]) -> None:
        with pytest.raises(BrokenImage):
            decode(self.file(0x02, *chunks))

    def test_parts_without_number_take_no_time(self) -> None:
        with pytest.raises(UnsupportedFormat, match="65536 parts"):
            decode(self.file(0x10, self.PICTURE, b"JUNK\0\0\0\0" * 70_000))

    def test_opening_takes_no_memory_for_pixels(self) -> None:
        """So that it can be reserved first; libwebp takes 8 bytes a pixel when it opens a file."""
        size = struct.pack("<I", 6999 | 6999 << 14)
        data = b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + size + bytes(5)
        image = EncodedImage(b"RIFF" + struct.pack("<I", len(data)) + data, Limits())
        assert image.peak_bytes(()) >= 17 * 7000 * 7000
        with pytest.raises(BrokenImage):
            image.decode()


class TestAvif:
    DATA = encode(GRADIENT, "AVIF", quality=100, subsampling="4:4:4")

    @pytest.mark.parametrize(
        ("aperture", "box"),
        [
            ((16, 1, 20, 1, -16, 1, -10, 1), (0, 0, 16, 20)),
            ((16, 1, 20, 1, 16, 1, 10, 1), (32, 20, 48, 40)),
            ((32, 2, 20, 1, 0, 1, 0, 1), (16, 10, 32, 30)),
            ((15, 1, 20, 1, 1, 2, 0, 1), (17, 10, 32, 30)),
            ((48, 1, 40, 1, 0, 1, 0, 1), (0, 0, 48, 40)),
            ((15, 1, 20, 1, 0, 1, 0, 1), (0, 0, 48, 40)),  # half pixels
            ((50, 1, 20, 1, 0, 1, 0, 1), (0, 0, 48, 40)),
            ((16, 1, 20, 1, 40, 1, 0, 1), (0, 0, 48, 40)),
            ((16, 0, 20, 1, 0, 1, 0, 1), (0, 0, 48, 40)),
            ((0, 1, 0, 1, 0, 1, 0, 1), (0, 0, 48, 40)),
        ],
    )
    def test_the_clean_aperture_is_what_is_shown(self, aperture: tuple[int, ...], box: tuple[int, ...]) -> None:
        decoded = decode(with_clean_aperture(self.DATA, aperture))
        left, top, right, bottom = box
        assert np.array_equal(np.asarray(decoded.image), pixels(self.DATA)[top:bottom, left:right])
        assert (decoded.facts.width, decoded.facts.height) == (right - left, bottom - top)

    @pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\0"])
    def test_a_damaged_exif_block_decides_nothing(self, exif: bytes) -> None:
        turned = Image.Exif()
        turned[0x0112] = 6
        turned[0x010F] = "maker" * 9
        written = encode(GRADIENT, "AVIF", quality=100, subsampling="4:4:4", exif=turned)
        at = written.rindex(b"II*\0") if b"II*\0" in written else written.rindex(b"MM\0*")
        harmed = written[:at] + exif[:8].ljust(8, b"x") + written[at + 8 :]
        assert np.array_equal(pixels(harmed), pixels(self.DATA))
        assert decode(harmed).orientation == 6

    def test_more_pixels_than_libavif_takes(self) -> None:
        sizes = struct.pack(">II", 48, 40)
        data = self.DATA.replace(b"ispe\0\0\0\0" + sizes, b"ispe\0\0\0\0" + struct.pack(">II", 17_000, 17_000))
        assert data != self.DATA
        with pytest.raises(TooManyPixels, match="17000 x 17000 pixels"):
            decode(data)

    def test_the_whole_picture_counts_for_the_ceiling(self) -> None:
        data = with_clean_aperture(self.DATA, (16, 1, 20, 1, 0, 1, 0, 1))
        with pytest.raises(TooManyPixels, match="48 x 40 pixels"):
            decode(data, Limits(max_pixels=1000))


class TestBmp:
    @staticmethod
    def file(bits: int, masks: tuple[int, ...], samples: bytes) -> bytes:
        """Two pixels in one row, with bit masks for red, green, blue and alpha (a header of version 5)."""
        header = struct.pack("<IiiHHIIiiII", 124, 2, 1, 1, bits, 3, len(samples), 0, 0, 0, 0)
        header += struct.pack("<IIII", *masks) + bytes(68)
        return b"BM" + struct.pack("<IHHI", 14 + 124 + len(samples), 0, 0, 14 + 124) + header + samples

    MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)

    def test_alpha_of_0_everywhere_is_none(self) -> None:
        data = self.file(32, self.MASKS, bytes([30, 20, 10, 0, 60, 50, 40, 0]))
        assert pixels(data)[0].tolist() == [[10, 20, 30], [40, 50, 60]]

    def test_alpha_elsewhere_counts(self) -> None:
        data = self.file(32, self.MASKS, bytes([30, 20, 10, 0, 60, 50, 40, 255]))
        assert pixels(data)[0].tolist() == [[255, 255, 255], [40, 50, 60]]

    @pytest.mark.parametrize(
        ("masks", "name"),
        [((0xF00, 0xF0, 0xF, 0xF000), "4444"), ((0xF00, 0xF0, 0xF, 0), "444"), ((7, 56, 192, 0), "332")],
    )
    def test_other_bit_fields(self, masks: tuple[int, ...], name: str) -> None:
        with pytest.raises(UnsupportedFormat, match=f"BMP of 16 bits in fields of {name} is not supported: convert it"):
            decode(self.file(16, masks, bytes(4)))

    def test_555_and_565(self) -> None:
        for masks in ((0x7C00, 0x3E0, 0x1F, 0), (0xF800, 0x7E0, 0x1F, 0)):
            assert pixels(self.file(16, masks, b"\x1f\0\0\0"))[0].tolist() == [[0, 0, 255], [0, 0, 0]]

    @pytest.mark.parametrize(("compression", "name"), [(4, "JPEG"), (5, "PNG")])
    def test_other_formats_inside(self, compression: int, name: str) -> None:
        data = bytearray(self.file(32, self.MASKS, bytes(8)))
        data[30] = compression
        with pytest.raises(UnsupportedFormat, match=f"{name} inside a BMP is not supported"):
            decode(bytes(data))


def test_every_turn_of_small_files_is_an_answer() -> None:
    """Boxes and chunks that say nonsense end in an error of ours, never in another."""
    sources = [PNG, TestAvif.DATA, with_clean_aperture(TestAvif.DATA, (16, 1, 20, 1, 0, 1, 0, 1))]
    sources.append(TestAnimatedPng.file((3, 1, 4, 2), rows_of(BLUE, 4, 2)))
    answers = set()
    for data, value in itertools.product(sources, (0, 0x7F, 0xFF)):
        for at in range(min(len(data), 420)):
            try:
                answers.add(decode(data[:at] + bytes([value]) + data[at + 1 :]).image.mode)
            except (BrokenImage, TooManyPixels, UnsupportedFormat) as error:
                answers.add(error.reason)
    assert answers == {"RGB", "broken_image", "too_many_pixels", "unsupported_format"}
