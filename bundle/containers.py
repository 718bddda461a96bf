"""What a file holds, read without decoding: its format, and the picture that viewers show of it.

Texts, profiles, checksums of what is no pixel and the like never decide whether an image is judged, so Pillow does not
get to see them. A file whose parts are in such disorder that one viewer shows this and another that is broken. A JPEG's
segments are read in ``bundle/jpeg.py``.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from bundle.colour import MAX_PROFILE_BYTES, code_points_alter, gamma_alters, profile_alters
from bundle.errors import BrokenImage, UnsupportedFormat

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_LEAD_BYTES: Final = 64
"""Bytes that may precede a PNG's signature: a newline or a byte order mark that a script has printed first."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_ANCILLARY: Final = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"cICP", b"iCCP", b"gAMA", b"cHRM"})
"""Those that are read, beside all that are critical."""
_PNG_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT"})
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""By colour type; how many samples a pixel has is in ``_PNG_SAMPLES``."""
_PNG_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top and the steps to the right and down of an interlaced image's passes."""
_MOST_CHUNKS: Final = 2**16
_INFLATED_AT_A_TIME: Final = 2**16
_MOST_PROFILES: Final = 8
_ALPHA: Final = 0x10
"""The bit that says that there is transparency, in VP8X and VP8L alike."""
_FOREIGN: Final = (  # offset, magic bytes, format
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\0\0\2\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"gimp xcf", "XCF"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\x8aMNG\r\n", "MNG"),
    (0, b"\x8bJNG\r\n", "JNG"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"<", "SVG or HTML"),
    *((0, b"P%d" % kind, "PNM") for kind in range(1, 8)),
)
_BRANDS: Final = {  # of ISO base media files, beside AVIF's
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1", b"mif2", b"1pic"), "HEIF"),
    b"jxl ": "JPEG XL",
    b"crx ": "Canon CR3",
    **dict.fromkeys((b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V "), "MP4"),
    b"qt  ": "QuickTime",
}
_BMP_HEADERS: Final = [struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)]


@dataclass(frozen=True, slots=True)
class Still:
    """The picture that viewers show first.

    Attributes:
        data: a file that holds it, for Pillow.
        canvas: width and height of what that file or the picture covers; None if Pillow has to say.
        crop: (left, top, right, bottom) of what is shown of the picture; None if it is all.
        covered: (left, top, right, bottom) of the part of ``canvas`` that the picture covers; None if it is all.
        exif: the EXIF block; None if Pillow has to say.
        animated: whether the file holds more than that picture; None if Pillow has to say.
        colours: how many colours its palette has; None if Pillow has to say, or if there is none.
        opaque: the file says that nothing of the picture is transparent, but ``data`` gives its alpha.
        ambiguous: viewers may show other pixels than those of ``data``; see ``bundle/colour.py``.
    """

    data: bytes
    canvas: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    covered: tuple[int, int, int, int] | None = None
    exif: bytes | None = None
    animated: bool | None = None
    colours: int | None = None
    opaque: bool = False
    ambiguous: bool = False


def sniff(data: bytes) -> str | None:
    """Pillow's name for the format, by the first bytes; None if they are those of no format that we know.

    Raises:
        UnsupportedFormat: a format that is not judged; the message names it.
    """
    brands = _brands(data)
    foreign = next((name for at, magic, name in _FOREIGN if data.startswith(magic, at)), None)
    if brands and {b"avif", b"avis"}.isdisjoint(brands):
        foreign = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "ISO media")
    if foreign:
        raise UnsupportedFormat(f"not an image of {', '.join(FORMATS)}, but {foreign}: convert it to JPEG or PNG")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if brands:
        return "AVIF"
    return "PNG" if _PNG in data[: MAX_LEAD_BYTES + len(_PNG)] else None


def unsupported(what: str) -> UnsupportedFormat:
    """The error for an image that is whole and of a kind that is not judged."""
    return UnsupportedFormat(f"{what} is not supported: convert it to JPEG or PNG")


def read_still(data: bytes, name: str) -> Still:
    """The picture that viewers show first of a file in format ``name``.

    Raises:
        BrokenImage: there is none.
        UnsupportedFormat: of a kind that Pillow cannot read.
    """
    try:
        match name:
            case "PNG":
                return _png(data)
            case "WEBP":
                return _webp(data)
            case "AVIF":
                return _avif(data)
            case "GIF":
                _check_gif(data)
            case "BMP":
                _check_bmp(data)
    except (LookupError, ValueError, ArithmeticError, struct.error) as error:
        raise BrokenImage(f"damaged {name}: {error}") from error
    return Still(data)


def _brands(data: bytes) -> tuple[bytes, ...]:
    """Major and compatible brands of an ISO base media file; the most telling first."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(len(data), int.from_bytes(data[:4]), 4096)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    return tuple(sorted(brands, key=lambda brand: brand in (b"mif1", b"msf1")))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Of a PNG; ``body`` is shorter than declared where the file ends."""

    kind: bytes
    body: memoryview
    crc: bytes

    @property
    def intact(self) -> bool:
        return self.crc == zlib.crc32(self.body, zlib.crc32(self.kind)).to_bytes(4)

    @property
    def is_damaged(self) -> bool:
        """Whether the checksum is there and wrong; the file may end before it."""
        return len(self.crc) == 4 and not self.intact


def _png(data: bytes) -> Still:
    """The still image, or the first frame of an animation, with nothing beside what its pixels need."""
    chunks = list(_png_chunks(data))
    first = next((at for at, chunk in enumerate(chunks) if chunk.kind == b"IDAT"), None)
    if first is None:
        raise BrokenImage("truncated or damaged PNG: no pixels")
    head, tail = chunks[:first], chunks[first:]
    header = bytes(head[0].body) if head else b""
    if not head or head[0].kind != b"IHDR" or not head[0].intact or len(header) != 13 or any(header[10:12]):
        raise BrokenImage("damaged PNG header")
    if header[8] not in _PNG_DEPTHS.get(header[9], ()):
        raise BrokenImage(f"damaged PNG header: no {header[8]} bits in colour type {header[9]}")
    palette = _png_palette(head, header)
    exif = next((bytes(chunk.body) for chunk in head if chunk.kind == b"eXIf" and chunk.intact), b"")
    pixels = [chunk for chunk in tail if chunk.kind == b"IDAT"]
    if any(chunk.is_damaged for chunk in pixels):
        raise BrokenImage("damaged PNG data: a wrong checksum")
    width, height = struct.unpack(">II", header[:8])
    box = None
    bodies = [chunk.body for chunk in pixels]
    frames = _png_frames(head)
    animated = frames > 1
    if frames and not _default_is_frame(head, width, height):
        # The default image is no frame: viewers that know animations never show it.
        box, bodies = _first_frame(tail, width, height)
        header = struct.pack(">II", box[2] - box[0], box[3] - box[1]) + header[8:]
        animated = True
    transparency, key = _png_transparency(head, header)
    written = [
        _PNG,
        _png_chunk(b"IHDR", header),
        *([_png_chunk(b"PLTE", palette.ljust(3 * 256, b"\0"))] if palette else []),
        *([_png_chunk(b"tRNS", transparency)] if transparency else []),
        *(_png_chunk(b"IDAT", body) for body in bodies),
        _png_chunk(b"IEND", b""),
    ]
    return Still(
        b"".join(written),
        (width, height),
        covered=box,
        exif=b"" if exif.startswith(b"Exif") else exif,  # a header that has no place in a PNG
        animated=animated,
        colours=len(palette) // 3 or None,
        ambiguous=key or _png_colours_alter(head),
    )


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    """All chunks that may decide pixels, up to the end or to an animation's second frame.

    Raises:
        BrokenImage: pixels in two places, or a chunk that every viewer has to know and that we do not.
    """
    at = data.find(_PNG, 0, MAX_LEAD_BYTES + len(_PNG)) + len(_PNG)
    view, taken = memoryview(data), 0
    seen, before, frames = False, b"", 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND" or not kind.isalpha():
            return
        critical = kind[:1].isupper()
        if critical and (kind not in _PNG_CRITICAL or (kind == b"IHDR" and before)):
            raise BrokenImage(f"damaged PNG: {kind.decode()} where viewers expect none")
        if kind == b"IDAT" and seen and before != b"IDAT":
            raise BrokenImage("damaged PNG: pixels in two places")
        seen, before, frames = seen or kind == b"IDAT", kind, frames + (kind == b"fcTL")
        if seen and kind == b"fcTL" and frames == 2:
            return
        if critical or kind in _PNG_ANCILLARY:
            taken += 1
            if taken > _MOST_CHUNKS:
                raise unsupported(f"a PNG in more than {_MOST_CHUNKS} parts")
            yield _Chunk(kind, view[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length])
        at += 12 + length


def _png_frames(head: list[_Chunk]) -> int:
    """How many frames the animation has; 0 for a still image."""
    controls = [at for at, chunk in enumerate(head) if chunk.kind == b"acTL" and chunk.intact and len(chunk.body) == 8]
    if not controls:
        return 0
    if len(controls) > 1 or any(chunk.kind == b"fcTL" for chunk in head[: controls[0]]):
        raise BrokenImage("damaged PNG: the parts of its animation are in disorder")
    frames = int.from_bytes(head[controls[0]].body[:4])
    return frames if frames <= 2**31 else 0


def _default_is_frame(head: list[_Chunk], width: int, height: int) -> bool:
    """Whether the default image is the animation's first frame, which then covers all of the image."""
    controls = [chunk for chunk in head if chunk.kind == b"fcTL"]
    if len(controls) > 1 or (controls and _frame_box(controls[0], width, height) != (0, 0, width, height)):
        raise BrokenImage("damaged PNG: an animation whose first frame is not its default image")
    return bool(controls)


def _png_colours_alter(head: list[_Chunk]) -> bool:
    """Whether viewers that apply any of the file's colour information may show another picture."""
    found = {chunk.kind: bytes(chunk.body) for chunk in reversed(head) if chunk.intact}
    points, packed, gamma, corners = (found.get(kind, b"") for kind in (b"cICP", b"iCCP", b"gAMA", b"cHRM"))
    if len(points) == 4 and (points[2] != 0 or code_points_alter(points[0], points[1])):
        return True
    if packed and profile_alters(_png_profile(packed)):
        return True
    if len(gamma) != 4 or not any(gamma):
        return False
    numbers = struct.unpack(">8I", corners) if len(corners) == 32 else ()
    primaries = tuple(number / 100_000 for number in numbers) or None
    return gamma_alters(int.from_bytes(gamma) / 100_000, primaries)


def _png_profile(packed: bytes) -> bytes:
    """What iCCP holds; empty if that cannot be unpacked."""
    _, _, rest = packed.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(rest[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""


def require_every_row(png: bytes) -> None:
    """Check that a PNG's compressed data hold all of its rows; Pillow takes an early end for a black rest.

    Args:
        png: a file as ``read_still`` gives it.

    Raises:
        BrokenImage: they do not.
    """
    chunks = list(_png_chunks(png))
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0].body)
    inflater = zlib.decompressobj()
    left = _png_bytes(width, height, depth * _PNG_SAMPLES[colour], interlaced=bool(interlaced))
    for chunk in chunks:
        rest = bytes(chunk.body) if chunk.kind == b"IDAT" else b""
        while rest and left > 0 and not inflater.eof:
            left -= len(inflater.decompress(rest, _INFLATED_AT_A_TIME))
            rest = inflater.unconsumed_tail
    if left > 0:
        raise BrokenImage("truncated PNG data: the compressed rows end early")


def _png_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of all rows, each with the number of its filter."""
    total = 0
    for left, top, across, down in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _png_chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    return b"".join([struct.pack(">I", len(body)), kind, body, zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)])


def _png_palette(head: list[_Chunk], header: bytes) -> bytes:
    """The colours; empty if the image has no palette."""
    if header[9] != 3:
        return b""
    found = [chunk for chunk in head if chunk.kind == b"PLTE"]
    if len(found) != 1 or not found[0].intact or not 3 <= len(found[0].body) <= 3 * 256 or len(found[0].body) % 3:
        raise BrokenImage("missing or damaged PNG palette")
    return bytes(found[0].body)


def _png_transparency(head: list[_Chunk], header: bytes) -> tuple[bytes, bool]:
    """The tRNS, for Pillow, empty if it does not fit the image, as libpng ignores it then; whether it is left out here.

    Pillow compares colour keys with samples that it has scaled to 8 bits, so the key is scaled as well, and those of
    16-bit colours cannot be told.
    """
    depth, colour = header[8:10]
    kinds = [chunk.kind for chunk in head if chunk.kind != b"tRNS" or chunk.intact]
    if kinds.count(b"tRNS") > 1:
        raise BrokenImage("damaged PNG: two transparencies")
    if b"tRNS" not in kinds:
        return b"", False
    body = next(bytes(chunk.body) for chunk in head if chunk.kind == b"tRNS" and chunk.intact)
    if colour == 3 and b"PLTE" in kinds[: kinds.index(b"tRNS")]:
        palette = next(chunk for chunk in head if chunk.kind == b"PLTE")
        return (body if len(body) <= min(len(palette.body) // 3, 1 << depth) else b""), False
    if len(body) != {0: 2, 2: 6}.get(colour):
        return b"", False
    if (depth, colour) == (16, 2):
        return b"", True
    mask = (1 << depth) - 1
    scale = 1 if depth > 8 else 255 // mask
    keys = struct.unpack(f">{len(body) // 2}H", body)
    return struct.pack(f">{len(keys)}H", *((key & mask) * scale for key in keys)), False


def _first_frame(tail: list[_Chunk], width: int, height: int) -> tuple[tuple[int, int, int, int], list[memoryview]]:
    """Where an animation's first frame lies, and its data, where the default image is no frame."""
    at = next((at for at, chunk in enumerate(tail) if chunk.kind == b"fcTL"), len(tail))
    later = itertools.takewhile(lambda chunk: chunk.kind != b"fcTL", tail[at + 1 :])
    found = [chunk for chunk in later if chunk.kind == b"fdAT"]
    if not found or any(chunk.kind == b"fdAT" for chunk in tail[:at]):
        raise BrokenImage("truncated or damaged PNG: an animation without a frame")
    for number, chunk in enumerate(found, start=1):
        if bytes(chunk.body[:4]) != number.to_bytes(4) or chunk.is_damaged:
            raise BrokenImage("damaged PNG: the parts of its animation are damaged or in disorder")
    return _frame_box(tail[at], width, height), [chunk.body[4:] for chunk in found]


def _frame_box(control: _Chunk, width: int, height: int) -> tuple[int, int, int, int]:
    """Where an animation's first frame lies."""
    if not control.intact or len(control.body) != 26:
        raise BrokenImage("truncated or damaged PNG: an animation without a frame")
    number, across, down, left, top, *_, disposal, blending = struct.unpack(">IIIIIHHBB", control.body)
    if number or disposal > 2 or blending > 1:
        raise BrokenImage("damaged PNG: the parts of its animation are damaged or in disorder")
    if not across or not down or left + across > width or top + down > height:
        raise BrokenImage("damaged PNG: a frame outside of its image")
    return left, top, left + across, top + down


def _check_gif(data: bytes) -> None:
    """Raise ``BrokenImage`` for blocks before the first image that viewers take differently."""
    at, palette = 13, data[10] & 0x80
    at += 3 << (data[10] & 7) + 1 if palette else 0
    controls = 0
    while data[at] == 0x21:
        label, start = data[at + 1], at + 2
        at = start
        while data[at]:
            at += 1 + data[at]
        at += 1
        if label == 0xF9:
            controls += 1
            if at - start != 6 or controls > 1:
                raise BrokenImage("damaged GIF: no one graphic control for its first image")
    if data[at] != 0x2C:
        raise BrokenImage("damaged GIF: no image where one is expected")
    if not palette and not data[at + 9] & 0x80:
        raise BrokenImage("damaged GIF: no palette")


def _webp(data: bytes) -> Still:
    """Size, first picture and transparency.

    libwebp takes memory for the whole canvas when a file is opened, so all is read here that is to be known before.
    An animation's canvas is transparent where its first frame does not cover it. Whether there is alpha is said in up
    to three places, which may contradict each other, and viewers believe different ones.
    """
    chunks = list(_riff_chunks(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))))
    kind, start, _ = chunks[0]
    flags = data[start] if kind == b"VP8X" else 0
    frames = [chunk for chunk in chunks if chunk[0] == b"ANMF"]
    parts = list(_riff_chunks(data, frames[0][1] + 16, frames[0][2])) if frames else chunks
    picture, at, _ = next((part for part in parts if part[0] in (b"VP8 ", b"VP8L")), (b"", 0, 0))
    if not picture:
        raise BrokenImage("truncated or damaged WEBP: no picture")
    size = _webp_size(data, picture, at)
    canvas = _two_sizes(data, start + 4) if kind == b"VP8X" else size
    covered = None
    if frames:
        left, top = (2 * int.from_bytes(data[frames[0][1] + i : frames[0][1] + i + 3], "little") for i in (0, 3))
        covered = (left, top, left + size[0], top + size[1])
        if size != _two_sizes(data, frames[0][1] + 6):
            raise BrokenImage("damaged WEBP: a frame of another size than its picture")
    marked = bytearray(data)
    if picture == b"VP8L":
        marked[at + 4] |= _ALPHA
    if kind == b"VP8X" and (picture == b"VP8L" or any(part[0] == b"ALPH" for part in parts)):
        marked[start] |= _ALPHA
    named = {kind: data[start:end] for kind, start, end in reversed(chunks)}
    return Still(
        bytes(marked),
        canvas,
        covered=covered,
        exif=named.get(b"EXIF", b"") if flags & 0x08 else b"",
        animated=len(frames) > 1,
        opaque=marked != data,
        ambiguous=flags & 0x20 > 0 and profile_alters(named.get(b"ICCP", b"")),
    )


def _riff_chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of each chunk."""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, at + 8, min(end, at + 8 + length)
        at += 8 + length + length % 2
    raise unsupported(f"a WebP in more than {_MOST_CHUNKS} parts")


def _webp_size(data: bytes, kind: bytes, at: int) -> tuple[int, int]:
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, at + 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    across, down = struct.unpack_from("<HH", data, at + 6)
    return across & 0x3FFF, down & 0x3FFF


def _two_sizes(data: bytes, at: int) -> tuple[int, int]:
    across, down = (1 + int.from_bytes(data[i : i + 3], "little") for i in (at, at + 3))
    return across, down


def _avif(data: bytes) -> Still:
    """The clean aperture of the primary image. EXIF's turn does not count in AVIF: its own properties say it.

    Pillow refuses a file whose EXIF block is damaged, so the block is renamed.
    """
    ambiguous = _avif_colours_alter(data)
    try:
        start, end = next((start, end) for kind, start, end in _boxes(data, 0, len(data)) if kind == b"meta")
        data = _without_exif(data, start, end)
    except (StopIteration, LookupError, struct.error):
        return Still(data, ambiguous=ambiguous)
    try:
        properties = _primary_properties(data, start + 4, end)
        canvas = struct.unpack(">II", properties[b"ispe"][4:12])
        crop = _clean_aperture(properties.get(b"clap", b""), *canvas)
        return Still(data, canvas, crop=crop, ambiguous=ambiguous)
    except (StopIteration, LookupError, struct.error):  # libavif will say what is wrong with it
        return Still(data, ambiguous=ambiguous)


def _avif_colours_alter(data: bytes) -> bool:
    """Whether any of the file's colour boxes (``colr``) makes another picture, whatever it belongs to."""
    points = {struct.unpack(">HH", found) for found in re.findall(rb"colrnclx(.{4})", data, re.DOTALL)}
    starts = [found.start() for found in itertools.islice(re.finditer(rb"colr(?:prof|rICC)", data), _MOST_PROFILES + 1)]
    lengths = [int.from_bytes(data[max(0, start - 4) : start]) for start in starts]
    profiles = {data[start + 8 : start - 4 + length] for start, length in zip(starts, lengths, strict=True)}
    return (
        any(code_points_alter(*each) for each in points)
        or len(starts) > _MOST_PROFILES
        or any(profile_alters(profile) for profile in profiles)
    )


def _without_exif(data: bytes, start: int, end: int) -> bytes:
    """The file with another name for the items of type EXIF that the body of its ``meta`` box lists (``infe``)."""
    renamed = bytearray(data)
    for kind, begin, stop in _boxes(data, start + 4, end):
        if kind == b"iinf":
            head = 6 if data[begin] == 0 else 8  # version and flags, and how many there are
            for entry, at, _ in _boxes(data, begin + head, stop):
                name = at + (8 if data[at] == 2 else 10)  # version and flags, the item's number, its protection
                if entry == b"infe" and data[at] >= 2 and data[name : name + 4] == b"Exif":
                    renamed[name : name + 4] = b"skip"
    return bytes(renamed)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the body of each box of an ISO base media file."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, start + 8), 16
        stop = end if length == 0 else start + length
        if stop < start + head or stop > end:
            return
        yield kind, start + head, stop
        start = stop


def _primary_properties(data: bytes, start: int, end: int) -> dict[bytes, bytes]:
    """Properties of the primary item in the body of a ``meta`` box, by type (ISO/IEC 23008-12)."""
    meta = {kind: place for kind, *place in _boxes(data, start, end)}
    at, _ = meta[b"pitm"]
    primary = struct.unpack_from(">I" if data[at] else ">H", data, at + 4)[0]
    boxes = {kind: place for kind, *place in _boxes(data, *meta[b"iprp"])}
    found = [(kind, data[start:end]) for kind, start, end in _boxes(data, *boxes[b"ipco"])]
    places = [place for kind, *place in _boxes(data, *meta[b"iprp"]) if kind == b"ipma"]
    numbers = [number for at, _ in places for number in _associated(data, at, primary)]
    return dict(found[number - 1] for number in reversed(numbers) if 0 < number <= len(found))


def _associated(data: bytes, at: int, wanted: int) -> Iterator[int]:
    """The numbers of an item's properties in the body of an ``ipma`` box."""
    version, wide = data[at], data[at + 3] & 1
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    for _ in range(min(count, len(data))):
        item, several = struct.unpack_from(">IB" if version else ">HB", data, at)
        at += 5 if version else 3
        indices = struct.unpack_from(f">{several}{'H' if wide else 'B'}", data, at)
        at += several * (2 if wide else 1)
        if item == wanted:
            yield from (index & (0x7FFF if wide else 0x7F) for index in indices)


def _clean_aperture(clap: bytes, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The crop; None where there is none or where it is none of whole pixels inside the image, as in libavif."""
    if len(clap) < 32 or 0 in (numbers := struct.unpack(">IIIIiIiI", clap[:32]))[1::2]:
        return None
    across, down, right, below = (Fraction(*numbers[at : at + 2]) for at in range(0, 8, 2))
    left, top = (width - across) / 2 + right, (height - down) / 2 + below
    edges = (left, top, left + across, top + down)
    if any(edge.denominator != 1 for edge in edges) or not (0 <= left < edges[2] <= width):
        return None
    if not 0 <= top < edges[3] <= height:
        return None
    return int(left), int(top), int(edges[2]), int(edges[3])


def _check_bmp(data: bytes) -> None:
    """Raise ``UnsupportedFormat`` for bit fields that Pillow cannot read, and for a JPEG or PNG in a BMP."""
    if len(data) < 66 or data[14:18] == struct.pack("<I", 12):
        return
    bits, compression = struct.unpack_from("<HI", data, 28)
    if compression in (4, 5):
        raise unsupported(f"{'JPEG' if compression == 4 else 'PNG'} inside a BMP")
    if compression in (3, 6) and bits == 16:
        alpha = data[66:70] if compression == 6 or data[14] >= 56 else b""
        masks = [int.from_bytes(mask, "little") for mask in (alpha, data[54:58], data[58:62], data[62:66])]
        layout = "".join(str(mask.bit_count()) for mask in masks if mask)
        if layout not in ("555", "565"):
            raise unsupported(f"BMP of 16 bits in fields of {layout}")
