"""Images harmed at random, and images to which something is added that is no pixel.

A PNG's checksums are mended half of the time: what they protect would never be read otherwise.
"""

import random
import struct
from collections.abc import Iterator
from itertools import pairwise

from tests.hostile.images import chunk, chunk_places, mended, valid_images
from tests.hostile.mutate import Mutation, mutate

_HARMLESS_SHARE = 0.1
_WORDS = (
    b"\xff\xd8", b"\xff\xd9", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe1", b"Exif\0\0",
    b"\xff\xdd\0\x04\0\x01", b"\xff\xdd\0\x04\0\0", *(b"\xff" + bytes([0xD0 + number]) for number in range(8)),
    b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"gAMA", b"cHRM", b"cICP", b"zTXt", b"eXIf",
    b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF",
    b"GIF89a", b"\x21\xf9\x04", b"\x21\xff", b"\x2c", b"BM",
    b"ftypavif", b"ftypavis", b"meta", b"iloc", b"iprp", b"ipco", b"ipma", b"ispe", b"clap", b"irot", b"imir", b"colr",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\x01", b"\xff\xff",
)  # fmt: skip
_NO_PIXELS = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"sBIT", b"bKGD", b"hIST", b"sPLT", b"prIv")
"""Ancillary chunks of a PNG that decide nothing, whatever they hold."""
_SEGMENTS = (0xE3, 0xE5, 0xEC, 0xED, 0xFE)
"""Segments of a JPEG that decide nothing: of other makers, and comments."""


def mutations(seed: int) -> Iterator[Mutation]:
    """Without end."""
    rng = random.Random(seed)
    valid = valid_images()
    names = list(valid)
    while True:
        name = rng.choice(names)
        if rng.random() < _HARMLESS_SHARE:
            yield Mutation(name, with_no_pixels(rng, name, valid[name]), is_harmless=True)
            continue
        data = bytearray(valid[name])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 10, 30))):
            mutate(rng, data, valid[rng.choice(names)], _WORDS)
        if "png" in name and rng.random() < 0.5:
            data = mended(data)
        yield Mutation(name, bytes(data))


def with_no_pixels(rng: random.Random, name: str, data: bytes) -> bytes:
    """The image with something more in it that no viewer shows."""
    noise = rng.randbytes(rng.choice((0, 1, 4, 8, 13, 26, 32, 200)))
    match name.partition("-")[0]:
        case "png" | "apng":
            places = [at for before, at in pairwise(chunk_places(data)) if data[before + 4 : before + 8] != b"IDAT"]
            added = chunk(rng.choice(_NO_PIXELS), noise)
            return _inserted(data, rng.choice(places), added if rng.random() < 0.5 else added[:-1] + b"\0")
        case "jpeg":
            return _inserted(data, 2, struct.pack(">BBH", 0xFF, rng.choice(_SEGMENTS), len(noise) + 2) + noise)
        case "gif":
            start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
            return _inserted(data, start, b"\x21\xfe" + (bytes([len(noise)]) + noise if noise else b"") + b"\0")
        case "webp":
            added = struct.pack("<4sI", rng.choice((b"prIv", b"XMP ", b"EXIF")), len(noise)) + noise
            added += b"\0" * (len(noise) % 2)
            return b"RIFF" + struct.pack("<I", len(data) - 8 + len(added)) + data[8:] + added
        case "avif":
            return data + struct.pack(">I4s", 8 + len(noise), rng.choice((b"free", b"skip"))) + noise
        case _:
            return data + noise


def _inserted(data: bytes, at: int, added: bytes) -> bytes:
    return data[:at] + added + data[at:]
