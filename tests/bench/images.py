"""Images to measure with: JPEG of 256 x 256 pixels with the spectrum of photographs, all different, from a seed."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256
_CANVASES, _CANVAS_SIDE = 2, 1024
_EXPONENT = 1.35
"""Amplitudes fall as ``1 / f ** _EXPONENT``; in photographs the exponent is about 1.2, in calm ones more."""
_BRIGHTNESS, _CONTRAST, _COLOUR = 118, 50, 12
_QUALITIES = range(85, 96)
_STRIDE = 104_729
"""A prime, so that every window is met before one comes again, and neighbours in number are far apart."""
_SEGMENT = 65_000


class Images:
    """An endless supply: number ``n`` is the same bytes each time, and no two numbers have the same pixels."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._canvases = [_canvas(np.random.default_rng([seed, number])) for number in range(_CANVASES)]

    def __getitem__(self, number: int) -> bytes:
        """A window of a large canvas, encoded; the windows of two numbers begin at different pixels."""
        places = _CANVAS_SIDE - SIDE
        place = (self._seed + number * _STRIDE) % places**2
        y, x = divmod(place, places)
        canvas = self._canvases[number % _CANVASES]
        quality = _QUALITIES[number % len(_QUALITIES)]
        buffer = io.BytesIO()
        Image.fromarray(canvas[y : y + SIDE, x : x + SIDE]).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    def first(self, count: int) -> Iterator[bytes]:
        """Numbers 0 to ``count - 1``."""
        return (self[number] for number in range(count))


def padded(image: bytes, size: int) -> bytes:
    """The same picture in a file of about ``size`` bytes: comments of zeros behind the two bytes that begin a JPEG."""
    comment = b"\xff\xfe" + (_SEGMENT + 2).to_bytes(2, "big") + bytes(_SEGMENT)
    return image[:2] + comment * round((size - len(image)) / len(comment)) + image[2:]


def _canvas(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """``uint8[1024, 1024, 3]``: noise of a photograph's spectrum, mostly grey as photographs are."""
    frequency = np.hypot(np.fft.fftfreq(_CANVAS_SIDE)[:, None], np.fft.rfftfreq(_CANVAS_SIDE)[None, :])
    frequency[0, 0] = 1
    spectra = np.fft.rfft2(rng.normal(size=(3, _CANVAS_SIDE, _CANVAS_SIDE))) / frequency**_EXPONENT
    spectra[:, 0, 0] = 0
    planes = np.fft.irfft2(spectra, s=(_CANVAS_SIDE, _CANVAS_SIDE))
    light, red, blue = planes / planes.std(axis=(1, 2), keepdims=True)
    grey = _BRIGHTNESS + _CONTRAST * light
    colours = grey + _COLOUR * red, grey - _COLOUR / 2 * (red + blue), grey + _COLOUR * blue
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)
