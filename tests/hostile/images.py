"""Images that somebody made to break a decoder, and what must become of each. Made here, by code, from nothing.

Every entry is answered by a decoded image or by an ``ImageError``; which of the two, and by which reason, is said
beside it. Reasons are those of ``bundle.errors``.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from tests.bundle.clean_aperture import with_clean_aperture

OK = "ok"
BROKEN, UNSUPPORTED, PIXELS, EMPTY = "broken_image", "unsupported_format", "too_many_pixels", "empty"
SIDE = 48
"""Side of the valid images that are harmed, in pixels."""
FRAMES = 100_000
HUGE = 100_000
"""Its square is 10^10 pixels."""


@dataclass(frozen=True)
class Hostile:
    """One image and what may become of it."""

    name: str
    data: bytes
    outcomes: frozenset[str]


def hostile_images() -> Iterator[Hostile]:
    """All of them; the largest has a few MB."""
    yield from _truncated()
    yield from _bombs()
    yield from _strangers()
    yield from _metadata()
    yield from _animations()
    yield from _unusual()
    yield from _filled()


def valid_images() -> dict[str, bytes]:
    """One small image of each format that is accepted, in more than one kind where that matters."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    smooth = Image.fromarray(np.tile(np.linspace(0, 255, SIDE, dtype=np.uint8)[:, None, None], (1, SIDE, 3)))
    alpha = smooth.convert("RGBA")
    alpha.putalpha(128)
    frames = [noise.rotate(angle) for angle in (90, 180)]
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 7  # turned and mirrored: irot and imir
    gif, avif = encoded(noise.quantize(64), "GIF"), encoded(noise, "AVIF", speed=10)
    return {
        "jpeg": encoded(noise, "JPEG", quality=80),
        "jpeg-progressive": encoded(smooth, "JPEG", progressive=True, optimize=True),
        "jpeg-cmyk": encoded(noise.convert("CMYK"), "JPEG"),
        "jpeg-grey-restart": encoded(noise.convert("L"), "JPEG", restart_marker_blocks=2),
        "png": encoded(noise, "PNG"),
        "png-palette": encoded(smooth.quantize(16), "PNG", transparency=3),
        "png-alpha": encoded(alpha, "PNG"),
        "png-16": encoded(Image.fromarray(rng.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)), "PNG"),
        "png-colours": _inserted(encoded(noise, "PNG"), _colours()),
        "apng": encoded(noise, "PNG", save_all=True, append_images=frames),
        "apng-hidden-default": encoded(noise, "PNG", save_all=True, append_images=frames, default_image=True),
        "webp": encoded(noise, "WEBP", quality=70),
        "webp-alpha": encoded(alpha, "WEBP", quality=70),
        "webp-lossless": encoded(alpha, "WEBP", lossless=True),
        "webp-animated": encoded(noise, "WEBP", save_all=True, append_images=frames),
        "gif": gif,
        "gif-uncovered": gif[:6] + struct.pack("<HH", SIDE + 9, SIDE + 5) + gif[10:],
        "gif-animated": encoded(noise, "GIF", save_all=True, append_images=frames),
        "bmp": encoded(noise, "BMP"),
        "bmp-palette": encoded(smooth.quantize(16), "BMP"),
        "avif": avif,
        "avif-turned": encoded(noise, "AVIF", speed=10, exif=turned),
        "avif-cropped": with_clean_aperture(avif, (16, 1, 20, 1, 3, 1, -2, 1)),
    }


def _colours() -> bytes:
    """Chunks of a PNG that tell in every way that it is sRGB, and one that tells nothing of its pixels."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    corners = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chunks = {
        b"cICP": bytes((1, 13, 0, 1)),
        b"iCCP": b"sRGB\0\0" + zlib.compress(profile),
        b"gAMA": struct.pack(">I", 45455),
        b"cHRM": struct.pack(">8I", *corners),
        b"zTXt": b"Comment\0\0" + zlib.compress(b"made for a test"),
    }
    return b"".join(chunk(kind, body) for kind, body in chunks.items())


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """As a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunk_places(png: bytes | bytearray) -> list[int]:
    """Where each chunk of a PNG begins, as far as they go."""
    places, at = [], len(SIGNATURE)
    while at + 12 <= len(png):
        places.append(at)
        at += 12 + int.from_bytes(png[at : at + 4])
    return places


def mended(png: bytes | bytearray) -> bytearray:
    """A PNG with checksums that are right."""
    whole = bytearray(png)
    for at in chunk_places(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        if end + 4 <= len(png):
            whole[end : end + 4] = zlib.crc32(whole[at + 4 : end]).to_bytes(4)
    return whole


def png(width: int, height: int, depth: int = 8, colour: int = 2, *, data: bytes | None = None) -> bytes:
    """A PNG that says so; without ``data`` its pixels are black, however many there are."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b"\0" * ((1 + (width * samples * depth + 7) // 8) * height) if data is None else data
    palette = chunk(b"PLTE", bytes(3 * 256)) if colour == 3 else b""
    return SIGNATURE + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _entry(name: str, data: bytes, *outcomes: str) -> Hostile:
    return Hostile(name, data, frozenset(outcomes))


def _truncated() -> Iterator[Hostile]:
    """Cut at every marker, chunk and block, before and after, and at every byte of the first few."""
    yield _entry("nothing", b"", EMPTY)
    for name, data in valid_images().items():
        places = set(range(1, min(64, len(data)))) | set(range(64, len(data), max(1, len(data) // 40)))
        places |= {len(data) - 1, len(data) - 2, len(data) - 12}
        if name.startswith("jpeg"):
            places |= {at + step for at in range(len(data) - 1) if data[at] == 0xFF for step in (0, 1, 2, 4)}
        for at in sorted(place for place in places if 0 < place < len(data)):
            # A file whose last marker alone is missing has all of its pixels; an animation all of its first frame.
            yield _entry(f"{name} cut at {at}", data[:at], BROKEN, UNSUPPORTED, OK)


def _bombs() -> Iterator[Hostile]:
    """Headers that promise 10^10 pixels, and small files that hold as many as are allowed."""
    yield _entry("png of 10^10 pixels", png(HUGE, HUGE, data=b""), PIXELS)
    yield _entry("png of 2^31 by 2^31", png(2**31 - 1, 2**31 - 1, data=b""), PIXELS)
    yield _entry("png of 0 by 0", png(0, 0, data=b""), BROKEN, UNSUPPORTED)
    frame = bytes.fromhex("ffd8ffc0001108ffffffff03011100021100031100ffd9")
    yield _entry("jpeg of 65535 by 65535", frame, PIXELS)
    yield _entry("gif of 65535 by 65535", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;", PIXELS, BROKEN)
    size = struct.pack("<I", 16383 | 16383 << 14)
    lossless = b"\x2f" + size + bytes(8)
    webp = b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless
    yield _entry("webp of 16384 by 16384", b"RIFF" + struct.pack("<I", len(webp)) + webp, PIXELS, BROKEN, UNSUPPORTED)
    for width, height in ((HUGE, HUGE), (-HUGE, HUGE), (HUGE, -HUGE), (2**31 - 1, 1)):
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
        yield _entry(f"bmp of {width} by {height}", bmp, PIXELS, BROKEN, UNSUPPORTED)
    yield _entry("png of 49 million black pixels", png(7000, 7000, 1, 0), OK)
    yield _entry("png with twice the data", png(64, 64, data=bytes(2 * 64 * 193)), OK, BROKEN)
    yield _entry("png whose data unpack to 200 MB", png(64, 64, data=bytes(200_000_000)), OK, BROKEN)
    icons = png(SIDE, SIDE)
    yield _entry("png with an APNG header of 2^32 frames", _inserted(icons, chunk(b"acTL", b"\xff" * 8)), BROKEN, OK)


def _strangers() -> Iterator[Hostile]:
    """Other formats, wrong names, and files that are two things at a time."""
    images = valid_images()
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield _entry("svg", svg, UNSUPPORTED)
    yield _entry("svg that names a billion laughs", b"<!DOCTYPE x [<!ENTITY a 'ha'>]><svg>&a;</svg>", UNSUPPORTED)
    yield _entry("html", b"<html><script>alert(1)</script>", UNSUPPORTED)
    yield _entry("zip", b"PK\x03\x04" + bytes(60), UNSUPPORTED)
    yield _entry("pdf", b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>", UNSUPPORTED)
    yield _entry("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n(x) print", UNSUPPORTED)
    yield _entry("zeros", bytes(100_000), UNSUPPORTED)
    yield _entry("text", b"BMW builds cars. " * 100, UNSUPPORTED, BROKEN)
    for form in ("TIFF", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000"):
        yield _entry(form.lower(), encoded(Image.new("RGB", (16, 16)), form), UNSUPPORTED)
    for name in ("jpeg", "png", "gif", "webp"):
        yield _entry(f"{name} and a zip behind it", images[name] + b"PK\x03\x04" + bytes(1000), OK)
        yield _entry(f"{name} behind a line of html", b"<html>" + images[name], UNSUPPORTED)
    yield _entry("png magic, jpeg inside", SIGNATURE + images["jpeg"], BROKEN, UNSUPPORTED)
    yield _entry("jpeg magic, png inside", b"\xff\xd8\xff" + images["png"], BROKEN, UNSUPPORTED)
    yield _entry("webp that holds a gif", b"RIFF\x20\0\0\0WEBP" + images["gif"], BROKEN, UNSUPPORTED)
    yield _entry(
        "gif that begins with a script", b"GIF89a/*" + images["gif"][8:] + b"*/=1;", OK, BROKEN, UNSUPPORTED, PIXELS
    )


def _metadata() -> Iterator[Hostile]:
    """Blocks that are huge, nested, circular or packed."""
    images = valid_images()
    image = Image.new("RGB", (SIDE, SIDE), (200, 10, 10))
    circular = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    lying = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 65535, 0x0112, 3, 2**32 - 1, 2**32 - 1)
    for name, block in (("circular", circular), ("lying", lying), ("filling", b"Exif\0\0" + b"A" * 65_000)):
        yield _entry(f"jpeg with a {name} EXIF block", _with_segment(images["jpeg"], 0xE1, block), OK)
    nested = b"Exif\0\0II*\0" + b"".join(
        struct.pack("<IHHHII", 8 + 18 * n, 1, 0x8769, 4, 1, 8 + 18 * (n + 1))[4 if n else 0 :] + bytes(4)
        for n in range(1000)
    )
    yield _entry("jpeg with EXIF a thousand deep", _with_segment(images["jpeg"], 0xE1, nested[:65_000]), OK)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield _entry("jpeg with 250 parts of a colour profile", encoded(image, "JPEG", icc_profile=profile * 4_000), OK)
    yield _entry(
        "png with a colour profile that unpacks to 100 MB", _packed_text(b"iCCP", b"x\0\0", 100_000_000), OK, BROKEN
    )
    yield _entry("png with a text that unpacks to 100 MB", _packed_text(b"zTXt", b"x\0\0", 100_000_000), OK, BROKEN)
    yield _entry(
        "png with an international text likewise", _packed_text(b"iTXt", b"x\0\1\0\0\0", 100_000_000), OK, BROKEN
    )
    texts = PngImagePlugin.PngInfo()
    for number in range(2_000):
        texts.add_text(f"key{number}", "v" * 1_000)
    yield _entry("png with 2 MB of text", encoded(image, "PNG", pnginfo=texts), OK, BROKEN)
    chunks = chunk(b"prIv", b"") * 100_000
    yield _entry("png with 10^5 chunks", _inserted(images["png"], chunks), OK, BROKEN)
    yield _entry(
        "png with a chunk of 2 GiB",
        _inserted(images["png"], struct.pack(">I4s", 2**31 - 1, b"prIv")),
        BROKEN,
        UNSUPPORTED,
    )
    yield _entry("jpeg with 10^5 comments", _with_segment(images["jpeg"], 0xFE, b"x", times=100_000), OK)
    yield _entry(
        "jpeg with XMP that is no XML", _with_segment(images["jpeg"], 0xE1, b"http://ns.adobe.com/xap/1.0/\0<<<&"), OK
    )
    yield _entry(
        "jpeg with 65000 fill bytes",
        images["jpeg"][:2] + b"\xff" * 65_000 + images["jpeg"][2:],
        OK,
        BROKEN,
        UNSUPPORTED,
    )


def _animations() -> Iterator[Hostile]:
    """A hundred thousand frames: the first one counts."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    yield _entry("gif of 10^5 frames", screen + frame * FRAMES + b";", OK)
    body = zlib.compress(b"\0" * 4)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    control = chunk(b"acTL", struct.pack(">II", FRAMES, 0))
    frames = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)), chunk(b"IDAT", body)]
    for number in range(1, FRAMES):
        place = struct.pack(">I", 2 * number - 1)
        frames.append(chunk(b"fcTL", place + struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 1, 0, 0)))
        frames.append(chunk(b"fdAT", struct.pack(">I", 2 * number) + body))
    yield _entry("apng of 10^5 frames", SIGNATURE + header + control + b"".join(frames) + chunk(b"IEND", b""), OK)
    still = valid_images()["webp-lossless"]
    picture = still[still.index(b"VP8L") :]
    sized = struct.pack("<I", SIDE - 1)[:3]
    one = struct.pack("<I", 16 + len(picture)) + bytes(6) + sized + sized + b"\x01\0\0\0" + picture
    animation = b"VP8X\x0a\0\0\0\x12\0\0\0" + sized + sized + b"ANIM\x06\0\0\0" + bytes(6) + (b"ANMF" + one) * 2_000
    yield _entry(
        "webp of 2,000 frames",
        b"RIFF" + struct.pack("<I", 4 + len(animation)) + b"WEBP" + animation,
        OK,
        BROKEN,
        UNSUPPORTED,
    )


def _unusual() -> Iterator[Hostile]:
    """Legal, and seldom seen."""
    for depth, colour in (
        (1, 0),
        (2, 0),
        (4, 0),
        (16, 0),
        (16, 2),
        (1, 3),
        (2, 3),
        (4, 3),
        (8, 3),
        (8, 4),
        (16, 4),
        (16, 6),
    ):
        yield _entry(f"png of {depth} bits, colour type {colour}", png(33, 17, depth, colour), OK)
    yield _entry(
        "png of 3 bits", png(33, 17, data=b"")[:24] + b"\x03" + png(33, 17, data=b"")[25:], BROKEN, UNSUPPORTED
    )
    for width, height in ((1, 1), (1, 60_000), (60_000, 1), (2, 30_000), (1, 49_000_000)):
        yield _entry(f"png of {width} by {height}", png(width, height, 1, 0), OK)
    yield _entry("jpeg of 1 by 65500", encoded(Image.new("RGB", (1, 65_500)), "JPEG"), OK)
    yield _entry("jpeg of 65500 by 1", encoded(Image.new("RGB", (65_500, 1)), "JPEG"), OK)
    for name, data in valid_images().items():
        yield _entry(f"{name}, as it should be", data, OK)


def _filled() -> Iterator[Hostile]:
    """JPEGs whose missing data libjpeg would fill with grey, chunks that are damaged and no pixels, kinds of JPEG."""
    images = valid_images()
    for name in ("jpeg", "jpeg-progressive", "jpeg-cmyk", "jpeg-grey-restart"):
        data = images[name]
        half = (len(data) + data.index(b"\xff\xda")) // 2
        yield _entry(f"{name} cut in the middle and closed", data[:half] + b"\xff\xd9", BROKEN)
        yield _entry(
            f"{name} with zeros from its middle on", data[:half] + bytes(len(data) - half) + b"\xff\xd9", BROKEN
        )
        yield _entry(f"{name} with a short JFIF segment", _with_segment(data, 0xE0, b"JFI"), OK)
        yield _entry(f"{name} with a lossless frame of 16 bits", _with_segment(data, 0xC3, b"\x10"), UNSUPPORTED)
    scan = images["jpeg-progressive"]
    scan = scan[scan.rindex(b"\xff\xda") : -2]
    yield _entry("jpeg of 10,000 scans", images["jpeg-progressive"][:-2] + scan * 10_000 + b"\xff\xd9", BROKEN)
    yield _entry("png behind a line break", b"\n" + images["png"], OK)
    damaged = struct.pack(">I4s", 4, b"gAMA") + bytes(8)
    yield _entry("png with a damaged gamma", _inserted(images["png"], damaged), OK)


def _inserted(data: bytes, chunks: bytes) -> bytes:
    """Right after a PNG's header."""
    return data[:33] + chunks + data[33:]


def _packed_text(kind: bytes, head: bytes, size: int) -> bytes:
    return _inserted(png(SIDE, SIDE), chunk(kind, head + zlib.compress(bytes(size))))


def _with_segment(jpeg: bytes, marker: int, data: bytes, times: int = 1) -> bytes:
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
    return jpeg[:2] + segment * times + jpeg[2:]
