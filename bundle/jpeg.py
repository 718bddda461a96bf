"""The segments of a JPEG that its pixels need, and whether its data suffice, which Pillow does not tell.

Where data are missing, libjpeg fills the rest with grey and warns, and Pillow drops the warning. So libjpeg never gets
to see the marker behind the data, at which it would begin to fill:

* **One scan** (nearly all files). A few bytes follow its data, as many as libjpeg reads ahead. A decoder that asks for
  more had too few data; one that is done long before their end has met zeros or garbage.
* **Several scans** (progressive). libjpeg gives no pixel before the end marker, so the file is decoded twice, once with
  other bytes behind the data of each scan. They change pixels only where data are missing.
* **Restart markers.** Between two of them libjpeg fills as well, and where they are out of order it guesses. So there
  have to be as many as the image needs, in their order, and the file is decoded twice, once with other bytes before
  each of them.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bundle.containers import unsupported
from bundle.errors import BrokenImage

MAX_SCANS: Final = 100
"""Each scan walks over the whole image; encoders write at most 64."""
SLACK_BYTES: Final = 64
"""Surplus data that are no sign of damage."""

_SCAN_END: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte nor a restart marker
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_AHEAD_BYTES: Final = 8
"""As libjpeg's bit buffer has."""
_AHEAD: Final = b"\xff\x00" * _AHEAD_BYTES
"""Ones, which are no code, so that no pixel can be made of them."""
_OTHER: Final = bytes(5 * byte * byte % 251 for byte in range(1, SLACK_BYTES))
_BETWEEN_BYTES: Final = 16
"""More than libjpeg reads ahead; there may be as many restart markers as blocks."""
_END: Final = b"\xff\xd9"
_SOI, _EOI, _SOS, _DRI, _EXIF, _ICC, _PROGRESSIVE = 0xD8, 0xD9, 0xDA, 0xDD, 0xE1, 0xE2, 0xC2
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Portions(io.BytesIO):
    """A file whose reads end at its stops, so that ``tell`` says which of them the reader had to pass."""

    def __init__(self, data: bytes, stops: tuple[int, ...] = ()) -> None:
        super().__init__(data)
        self._stops = stops

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, and up to the next stop."""
        if size is not None and size >= 0 and (not self._stops or self.tell() + size <= self._stops[0]):
            return super().read(size)  # nearly all reads, of which a header needs dozens
        room = min((stop - self.tell() for stop in self._stops if stop > self.tell()), default=-1)
        sizes = [limit for limit in (size, room) if limit is not None and limit >= 0]
        return super().read(min(sizes, default=-1))


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG without what its pixels do not need.

    Attributes:
        parts: header, data of a scan, header of the next scan, its data and so on; the end marker is left out.
        single: one scan has all pixels, and its coding is sequential.
        exif: the first EXIF block, b"" if there is none.
        profile: the colour profile, b"" if there is none or if parts of it are missing.
    """

    parts: tuple[bytes, ...]
    single: bool
    exif: bytes
    profile: bytes

    def file(self) -> Portions:
        """The file for Pillow."""
        if not self.single:
            return Portions(b"".join([*self.parts, _END]))
        return Portions(b"".join([*self.parts, _AHEAD]), self._stops())

    def altered(self) -> Portions | None:
        """A file with other bytes where data end before a marker; None if ``check_surplus`` is enough."""
        if self.single and not _RESTART.search(self.parts[1]):
            return None
        return Portions(b"".join(_other(part) if at % 2 else part for at, part in enumerate(self.parts)) + _END)

    def check_surplus(self, read_bytes: int) -> None:
        """Raise ``BrokenImage`` if all pixels came out of ``read_bytes`` of ``file()`` and more data followed.

        One byte over and over may follow, with which some cameras pad.
        """
        *padded, last = self._stops()
        if self.single and read_bytes <= last and not (padded and padded[0] < read_bytes <= padded[1]):
            raise BrokenImage("damaged JPEG data: more of them than pixels")

    def _stops(self) -> tuple[int, ...]:
        """Before which all pixels must not be there; where data end with padding, first two between which they may."""
        header, data = self.parts[:2]
        end = len(header) + len(data)
        padding = len(data) - len(data.rstrip(data[-1:]))
        if padding <= SLACK_BYTES:
            return (max(len(header), end - SLACK_BYTES),)
        start = max(len(header), end - padding - SLACK_BYTES)
        return (start, end - padding + len(_AHEAD), end - _AHEAD_BYTES)


def read_jpeg(data: bytes) -> Jpeg:
    """Take a JPEG apart.

    Raises:
        UnsupportedFormat: a kind of JPEG that browsers do not show: lossless, arithmetic-coded, of more than 8 bits.
        BrokenImage: no marker behind the data, or scans are missing.
    """
    parts: list[bytes] = []
    kept = [b"\xff\xd8"]
    noted: dict[int, list[bytes]] = {_EXIF: [], _ICC: [], _DRI: [b""]}
    frame, single = _Frame(0, b""), False
    for marker, segment, scan in _segments(data):
        body = segment[4:]
        if _needed(marker, body):
            kept.append(segment)
        if marker in noted:
            noted[marker].append(body)
        elif marker in _FRAMES:
            _check_kind(marker, body)
            frame = _Frame(marker, body)
        elif marker == _SOS:
            parts += [b"".join(kept), scan]
            kept.clear()
            single = frame.takes_all(body)
            frame.take(body, scan)
            _check_restarts(scan, frame.units(body), int.from_bytes(noted[_DRI][-1][:2]))
            if single or len(parts) > 2 * MAX_SCANS:
                break
    exif = next((body for body in noted[_EXIF] if body.startswith(b"Exif\0") and len(body) > len(b"Exif\0\0")), b"")
    if not parts:  # whatever its header says, Pillow finds no pixels
        return Jpeg((b"".join(kept), b""), single=True, exif=exif, profile=b"")
    if not frame.complete:
        raise BrokenImage(f"truncated JPEG data: scans are missing, or there are more than {MAX_SCANS}")
    return Jpeg(tuple(parts), single=single, exif=exif, profile=_profile(noted[_ICC]))


def _profile(bodies: list[bytes]) -> bytes:
    """The colour profile in segments that each say their number and how many there are; empty if some are missing."""
    parts = {body[12]: body[14:] for body in reversed(bodies) if body.startswith(b"ICC_PROFILE\0") and len(body) > 14}
    counts = {body[13] for body in bodies if body.startswith(b"ICC_PROFILE\0") and len(body) > 14}
    return b"".join(parts[number] for number in sorted(parts)) if counts == {len(parts)} else b""


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, segment and, for a scan, the data behind it, up to the end marker or the end of the file."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # the first one fills
            at += 1
        elif marker < 0xC0 or 0xD0 <= marker < _SOI:  # without a segment
            at += 2
        elif marker in (_SOI, _EOI):
            return
        else:
            segment = data[at : at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))]
            at += len(segment)
            end = _SCAN_END.search(data, at) if marker == _SOS else None
            if marker == _SOS and end is None:
                raise BrokenImage("truncated JPEG data: no marker behind it")
            yield marker, segment, data[at : end.start()] if end else b""
            at = end.start() if end else at


def _other(scan: bytes) -> bytes:
    """The scan with bytes that a decoder takes for data where some are missing: before and behind restart markers."""
    last = _RESTART.findall(scan)[-1:]
    behind = _OTHER + bytes([0xFF, 0xD0 + (last[0][1] + 1) % 8 if last else 0xD0]) + _OTHER
    return _RESTART.sub(lambda marker: _OTHER[:_BETWEEN_BYTES] + marker[0], scan) + behind


def _check_restarts(scan: bytes, units: int, interval: int) -> None:
    """Raise ``BrokenImage`` if restart markers are missing, too many or out of order; one may follow the last data."""
    numbers = bytes(marker[1] - 0xD0 for marker in _RESTART.findall(scan))
    expected = -(-units // interval) - 1 if interval else 0
    if len(numbers) - expected not in (0, 1) or numbers != (bytes(range(8)) * (len(numbers) // 8 + 1))[: len(numbers)]:
        raise BrokenImage("damaged JPEG data: restart markers are missing or out of order")


def _needed(marker: int, body: bytes) -> bool:
    """Whether pixels depend on a segment. libjpeg takes colours from JFIF's and Adobe's, if they are long enough."""
    match marker:
        case 0xE0:
            return body.startswith(b"JFIF\0") and len(body) >= 14
        case 0xEE:
            return body.startswith(b"Adobe") and len(body) >= 12
    return not 0xE0 <= marker <= 0xFE


def _check_kind(marker: int, body: bytes) -> None:
    bits = body[0] if body else 8
    if (marker <= _PROGRESSIVE and bits == 8) or not 2 <= bits <= 16:  # other bits are damage
        return
    hierarchical, lossless, arithmetic = marker & 4 > 0, marker & 3 == 3, marker > 0xC8
    kinds = {"hierarchical": hierarchical, "lossless": lossless, "arithmetic-coded": arithmetic, "JPEG": True}
    raise unsupported(" ".join([f"{bits}-bit", *(kind for kind, applies in kinds.items() if applies)]))


class _Frame:
    """What scans have brought so far: for each component and coefficient, how many of its lowest bits are missing."""

    def __init__(self, marker: int, body: bytes) -> None:
        self._progressive = marker == _PROGRESSIVE
        self._size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
        self._sampling = {number: (each >> 4, each & 15) for number, each in zip(body[6::3], body[7::3], strict=False)}
        self._missing = {number: [16] * 64 for number in body[6::3]}

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not any(map(any, self._missing.values()))

    def takes_all(self, body: bytes) -> bool:
        """Whether the scan with this header has all components, in sequential coding."""
        return not self._progressive and len(body) == 1 + 2 * len(self._missing) + 3

    def units(self, body: bytes) -> int:
        """How many units (MCUs) the scan with this header has; each of one block if it has one component alone."""
        most = [max((each[way] for each in self._sampling.values()), default=0) or 1 for way in (0, 1)]
        if len(body) == 6:
            of_one = self._sampling.get(body[1], (1, 1))
            blocks = [-(-size * one // (8 * all_)) for size, one, all_ in zip(self._size, of_one, most, strict=True)]
        else:
            blocks = [-(-size // (8 * all_)) for size, all_ in zip(self._size, most, strict=True)]
        return blocks[0] * blocks[1]

    def take(self, body: bytes, scan: bytes) -> None:
        """Note what a scan brings, by its header."""
        if len(body) < 4:
            raise BrokenImage("damaged JPEG: a scan without its parameters")
        first, last, low = (body[-3], min(body[-2], 63), body[-1] & 15) if self._progressive else (0, 63, 0)
        if first and scan.endswith(bytes(SLACK_BYTES)):  # zero coefficients are coded in runs, not one by one
            raise BrokenImage("damaged JPEG data: zeros instead of pixels")
        for number in set(body[1:-3:2]) & self._missing.keys():
            self._missing[number][first : last + 1] = [low] * max(0, last + 1 - first)
