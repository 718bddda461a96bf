"""What a file holds, read without decoding: its format, and of PNG, WebP, AVIF and BMP the picture that viewers show.

Texts, profiles, checksums of what is no pixel and the like never decide whether an image is judged, so Pillow does not
get to see them. A JPEG's segments are read in ``bundle/jpeg.py``.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from bundle.errors import BrokenImage, UnsupportedFormat

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_LEAD_BYTES: Final = 64
"""Bytes that may precede a PNG's signature: a newline or a byte order mark that a script has printed first."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_KINDS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT"})
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""By colour type; how many samples a pixel has is in ``_PNG_SAMPLES``."""
_PNG_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top and the steps to the right and down of an interlaced image's passes."""
_MOST_PNG_CHUNKS: Final = 2**16
_INFLATED_AT_A_TIME: Final = 2**16
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
    """

    data: bytes
    canvas: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    covered: tuple[int, int, int, int] | None = None
    exif: bytes | None = None
    animated: bool | None = None


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


def _png(data: bytes) -> Still:
    """The still image, or the first frame of an animation, with nothing beside what its pixels need."""
    chunks = list(_png_chunks(data))
    first = next((at for at, chunk in enumerate(chunks) if chunk.kind == b"IDAT"), None)
    if first is None:
        raise BrokenImage("truncated or damaged PNG: no pixels")
    head, tail = chunks[:first], chunks[first:]
    header = bytes(head[0].body) if head else b""
    if not head or head[0].kind != b"IHDR" or not head[0].intact or len(header) != 13:
        raise BrokenImage("damaged PNG header")
    if header[8] not in _PNG_DEPTHS.get(header[9], ()):
        raise BrokenImage(f"damaged PNG header: no {header[8]} bits in colour type {header[9]}")
    palette = _png_palette(head, header)
    exif = next((bytes(chunk.body) for chunk in chunks if chunk.kind == b"eXIf" and chunk.intact), b"")
    control = next((bytes(c.body) for c in head if c.kind == b"acTL" and c.intact and len(c.body) == 8), b"")
    frames = int.from_bytes(control[:4])
    frames = frames if frames <= 2**31 else 0
    pixels = [chunk.body for chunk in itertools.takewhile(lambda chunk: chunk.kind == b"IDAT", tail)]
    width, height = struct.unpack(">II", header[:8])
    box = None
    animated = frames > 1
    if frames and not any(chunk.kind == b"fcTL" for chunk in head):
        # The default image is no frame: viewers that know animations never show it.
        box, pixels = _first_frame(tail, width, height)
        header = struct.pack(">II", box[2] - box[0], box[3] - box[1]) + header[8:]
        animated = True
    transparency = _png_transparency(head, header)
    written = [
        _PNG,
        _png_chunk(b"IHDR", header),
        *([_png_chunk(b"PLTE", palette)] if palette else []),
        *([_png_chunk(b"tRNS", transparency)] if transparency else []),
        *(_png_chunk(b"IDAT", body) for body in pixels),
        _png_chunk(b"IEND", b""),
    ]
    return Still(b"".join(written), (width, height), covered=box, exif=exif, animated=animated)


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    at = data.find(_PNG, 0, MAX_LEAD_BYTES + len(_PNG)) + len(_PNG)
    view, taken = memoryview(data), 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND" or not kind.isalpha():
            return
        if kind in _PNG_KINDS:
            taken += 1
            if taken > _MOST_PNG_CHUNKS:
                raise unsupported(f"a PNG in more than {_MOST_PNG_CHUNKS} parts")
            yield _Chunk(kind, view[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length])
        at += 12 + length


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
    """256 colours, black where the file has none, as in libpng; empty if the image has no palette."""
    if header[9] != 3:
        return b""
    chunk = next((chunk for chunk in head if chunk.kind == b"PLTE"), None)
    if chunk is None or not chunk.intact or not chunk.body or len(chunk.body) % 3:
        raise BrokenImage("missing or damaged PNG palette")
    return bytes(chunk.body).ljust(3 * 256, b"\0")


def _png_transparency(head: list[_Chunk], header: bytes) -> bytes:
    """The first tRNS that fits the image, for Pillow; like libpng we ignore any other.

    Pillow compares colour keys with samples that it has scaled to 8 bits, so the key is scaled as well.
    """
    depth, colour = header[8:10]
    kinds = [chunk.kind for chunk in head]
    for at, chunk in enumerate(head):
        if chunk.kind != b"tRNS" or not chunk.intact:
            continue
        body = bytes(chunk.body)
        if colour == 3 and b"PLTE" in kinds[:at]:
            colours = min(len(head[kinds.index(b"PLTE")].body) // 3, 1 << depth)
            return body if len(body) <= colours else b""
        if len(body) == {0: 2, 2: 6}.get(colour) and (depth, colour) != (16, 2):
            mask = (1 << depth) - 1
            scale = 1 if depth > 8 else 255 // mask
            keys = struct.unpack(f">{len(body) // 2}H", body)
            return struct.pack(f">{len(keys)}H", *((key & mask) * scale for key in keys))
    return b""


def _first_frame(tail: list[_Chunk], width: int, height: int) -> tuple[tuple[int, int, int, int], list[memoryview]]:
    """Where an animation's first frame lies, and its data, where the default image is no frame."""
    at = next((at for at, chunk in enumerate(tail) if chunk.kind == b"fcTL"), len(tail))
    later = itertools.takewhile(lambda chunk: chunk.kind != b"fcTL", tail[at + 1 :])
    pixels = [chunk.body[4:] for chunk in later if chunk.kind == b"fdAT"]
    if not pixels or not tail[at].intact or len(tail[at].body) != 26:
        raise BrokenImage("truncated or damaged PNG: an animation without a frame")
    across, down, left, top = struct.unpack_from(">IIII", tail[at].body, 4)
    if not across or not down or left + across > width or top + down > height:
        raise BrokenImage("damaged PNG: a frame outside of its image")
    return (left, top, left + across, top + down), pixels


def _webp(data: bytes) -> Still:
    """Where an animation's first frame lies on its canvas, which is transparent elsewhere."""
    at = 12
    canvas = None
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + min(length, 16)]
        if kind == b"VP8X" and len(body) >= 10:
            canvas = (1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
        elif kind == b"ANMF" and len(body) >= 12:
            left, top, across, down = (int.from_bytes(body[i : i + 3], "little") for i in (0, 3, 6, 9))
            return Still(data, canvas, covered=(2 * left, 2 * top, 2 * left + across + 1, 2 * top + down + 1))
        elif kind in (b"VP8 ", b"VP8L"):
            break
        at += 8 + length + length % 2
    return Still(data)


def _avif(data: bytes) -> Still:
    """The clean aperture of the primary image. EXIF's turn does not count in AVIF: its own properties say it.

    Pillow refuses a file whose EXIF block is damaged, so the block is renamed.
    """
    try:
        start, end = next((start, end) for kind, start, end in _boxes(data, 0, len(data)) if kind == b"meta")
        data = _without_exif(data, start, end)
    except (StopIteration, LookupError, struct.error):
        return Still(data)
    try:
        properties = _primary_properties(data, start + 4, end)
        canvas = struct.unpack(">II", properties[b"ispe"][4:12])
        return Still(data, canvas, crop=_clean_aperture(properties.get(b"clap", b""), *canvas))
    except (StopIteration, LookupError, struct.error):  # libavif will say what is wrong with it
        return Still(data)


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
