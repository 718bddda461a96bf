"""AVIF files of which a part is to be shown, which Pillow does not write."""

import struct


def _boxes(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Where each box of an ISO base media file lies, by its type."""
    found = {}
    while start < end:
        length, kind = struct.unpack_from(">I4s", data, start)
        found[kind] = (start, start + length)
        start += length
    return found


def with_clean_aperture(data: bytes, aperture: tuple[int, ...]) -> bytes:
    """An AVIF of Pillow's with one property more on its one item."""
    clap = struct.pack(">I4sIIIIiIiI", 40, b"clap", *aperture)
    meta_start, meta_end = _boxes(data, 0, len(data))[b"meta"]
    inside = _boxes(data, meta_start + 12, meta_end)
    start, end = inside[b"iprp"]
    parts = _boxes(data, start + 8, end)
    container, association = (bytearray(data[slice(*parts[kind])]) for kind in (b"ipco", b"ipma"))
    position = len(_boxes(bytes(container), 8, len(container))) + 1
    container += clap
    assert association[12:18] == b"\0\0\0\1\0\1"  # one item, number 1
    association[18] += 1
    association.append(0x80 | position)
    for box in (container, association):
        box[:4] = struct.pack(">I", len(box))
    properties = struct.pack(">I4s", 8 + len(container) + len(association), b"iprp") + container + association
    grown = len(properties) - (end - start)
    meta = bytearray(data[meta_start:start] + properties + data[end:meta_end])
    meta[:4] = struct.pack(">I", len(meta))
    at = meta.index(b"iloc")
    for offset in range(at, at + 64):  # the item's place in the file moves
        if struct.unpack_from(">I", meta, offset)[0] == meta_end + 8:
            struct.pack_into(">I", meta, offset, meta_end + 8 + grown)
            break
    return data[:meta_start] + bytes(meta) + data[meta_end:]
