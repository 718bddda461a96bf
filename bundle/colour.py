"""Whether a file's colour information makes another picture of its numbers in viewers that apply it.

The numbers are judged as stored (``bundle/preprocess.py``). That is right as long as profiles only make colours a bit
richer or duller, as nearly all do. One that inverts, swaps, blackens or brings out what nobody could see in the numbers
shows a picture that was not judged, and then the verdict has to say so.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

MAX_PROFILE_BYTES: Final = 4 * 2**20
"""Larger profiles are not read; those of printers have up to 3 MB."""
_MOST_LUMA: Final = 76
"""Most levels by which the brightness of a colour may change: more than in wide-gamut and linear profiles."""
_CLEAR: Final = 96
"""A channel that leads by so many levels has to lead afterwards, too."""
_MOST_STEP, _MEAN_STEP = 48, 4
"""Levels by which a colour may change, at most and on average, if one channel changes by one."""
_SAMPLES: Final = 4096
_SPACES: Final = {b"RGB ": ("RGB", 3), b"GRAY": ("L", 1), b"CMYK": ("CMYK", 4)}
_CLASSES: Final = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
_SRGB_TO_XYZ: Final = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_ORDINARY_TRANSFERS: Final = frozenset({1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15})
"""Of ITU-T H.273, those near sRGB's; the others are linear, logarithmic or of high dynamic range."""
_ORDINARY_PRIMARIES: Final = frozenset({1, 2, 4, 5, 6, 7, 9, 11, 12, 22})

Samples = npt.NDArray[np.uint8]
Rendering = Callable[[Samples], Samples]


@lru_cache(maxsize=64)
def profile_alters(profile: bytes) -> bool:
    """Whether an ICC profile makes another picture, by any of the tables that viewers take; or cannot be read here.

    What no viewer takes for a profile alters nothing.
    """
    if len(profile) < 132 or profile[36:40] != b"acsp" or profile[12:16] not in _CLASSES:
        return False
    if profile[16:20] not in _SPACES:
        return False
    mode, channels = _SPACES[profile[16:20]]
    if len(profile) > MAX_PROFILE_BYTES:
        return True
    try:
        return any(_alters(rendering, channels) for rendering in _renderings(profile, mode))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return True


def gamma_alters(gamma: float, primaries: tuple[float, ...] | None) -> bool:
    """Whether a PNG's gAMA and cHRM make another picture.

    Args:
        gamma: the exponent of the encoding, about 0.45.
        primaries: x and y of white, red, green and blue; None for sRGB's.
    """
    try:
        matrix = np.linalg.inv(_SRGB_TO_XYZ) @ _to_xyz(primaries) if primaries else np.eye(3)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return True

    def rendering(samples: Samples) -> Samples:
        linear = np.clip((samples / 255) ** (1 / gamma) @ matrix.T, 0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        levels: Samples = np.rint(255 * encoded).astype(np.uint8)
        return levels

    return gamma <= 0 or not np.isfinite(matrix).all() or _alters(rendering, 3)


def code_points_alter(primaries: int, transfer: int) -> bool:
    """Whether code points of ITU-T H.273 (PNG's cICP, AVIF's nclx) make another picture."""
    return transfer not in _ORDINARY_TRANSFERS or primaries not in _ORDINARY_PRIMARIES


def _renderings(profile: bytes, mode: str) -> Iterator[Rendering]:
    """With the tables of both intents that viewers take, and without tables, which some do not read."""
    bare = _without_tables(profile)
    yield _rendering(profile, mode, ImageCms.Intent.PERCEPTUAL)
    if bare != profile:
        yield _rendering(profile, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
        with contextlib.suppress(ImageCms.PyCMSError):  # there is nothing but tables
            yield _rendering(bare, mode, ImageCms.Intent.PERCEPTUAL)


def _rendering(profile: bytes, mode: str, intent: ImageCms.Intent) -> Rendering:
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    srgb, exact = ImageCms.createProfile("sRGB"), ImageCms.Flags.NOOPTIMIZE
    transform = ImageCms.buildTransform(opened, srgb, mode, "RGB", intent, exact)

    def rendering(samples: Samples) -> Samples:
        row = Image.frombytes(mode, (len(samples), 1), samples.tobytes())
        shown = ImageCms.applyTransform(row, transform)
        assert shown is not None  # it is not done in place
        levels: Samples = np.asarray(shown)[0]
        return levels

    return rendering


def _without_tables(profile: bytes) -> bytes:
    """The profile with other names for its colour tables."""
    renamed = bytearray(profile)
    (count,) = struct.unpack_from(">I", profile, 128)
    for at in range(132, min(132 + 12 * count, len(profile) - 11), 12):
        if profile[at : at + 3] in (b"A2B", b"D2B"):
            renamed[at : at + 3] = b"xxx"
    return bytes(renamed)


def _alters(rendering: Rendering, channels: int) -> bool:
    """Whether all greys and colours from everywhere change more than colour management has to change them."""
    drawn = np.arange(_SAMPLES * channels, dtype=np.uint64) * np.uint64(2_654_435_761) >> np.uint64(9)
    samples = (drawn % np.uint64(255)).astype(np.uint8).reshape(_SAMPLES, channels)
    samples[:255] = np.arange(255, dtype=np.uint8)[:, None]
    samples[:255, 3:] = 0
    neighbours = samples.copy()
    neighbours[np.arange(_SAMPLES), np.arange(_SAMPLES) % channels] += 1
    neighbours[:255, :3] = samples[:255, :3] + 1
    plain, shown, beside = _plain(samples), rendering(samples).astype(int), rendering(neighbours).astype(int)
    moved = np.abs(shown - beside).max(axis=1)
    order = np.sort(plain, axis=1)
    clear = order[:, 2] - order[:, 1] > _CLEAR
    return bool(
        np.abs(_luma(shown) - _luma(plain)).max() > _MOST_LUMA
        or (shown.argmax(axis=1) != plain.argmax(axis=1))[clear].any()
        or moved.max() > _MOST_STEP
        or moved.mean() > _MEAN_STEP
    )


def _plain(samples: Samples) -> npt.NDArray[np.int_]:
    """The colours as they are judged."""
    if samples.shape[1] == 4:
        rest = 255 - samples.astype(int)
        return np.asarray(rest[:, :3] * rest[:, 3:] // 255)
    return np.broadcast_to(samples.astype(int), (len(samples), 3))


def _luma(colours: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    return np.asarray(colours @ np.array([0.299, 0.587, 0.114]))


def _to_xyz(chromaticities: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The matrix from linear RGB, white scaled to that of sRGB."""
    white, *corners = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(*[iter(chromaticities)] * 2, strict=True)]
    matrix = np.stack(corners, axis=1)
    scale = (_SRGB_TO_XYZ.sum(axis=1) / white)[:, None]
    return np.asarray(matrix * np.linalg.solve(matrix, white) * scale)
