"""From encoded bytes to ``uint8`` views: the single implementation, at training, calibration, export and serving.

Forensic scores depend on decoder and resampler as much as on weights, so nothing else in Genprint decodes an image
for a model. This is its policy:

================  ======================================================================================
matter            policy
================  ======================================================================================
format            JPEG, PNG, WebP, GIF, BMP, AVIF by content, never by name; TIFF and vector formats are refused
EXIF orientation  applied where the view has ``orient`` (the default); unreadable parts of a damaged block count
                  as absent; XMP's is taken where EXIF has none, as Pillow does
colour profile    ignored: pixels are used as stored, colour management would change them by library version
CMYK, YCCK        Pillow's plain conversion, without profile; inks are read as inverted, which is how Adobe and
                  nearly all others write them, with or without Adobe's marker
alpha             composed over white, as a viewer sees it; hidden colours under alpha 0 have no effect
palette, 1 bit    expanded to RGB (transparency as alpha)
colour key        a PNG's transparent colour counts as alpha at 1 and 8 bits a sample, and is ignored at others
grey              copied into the three channels
16 bit            the high byte, as libpng does for colour; no rescaling by content
animated          the first frame; ``ImageFacts.animated`` says so; a multi-picture JPEG (MPO) is one photograph
size              ceilings on bytes and pixels, checked before anything is decoded
truncated         refused, also when some pixels could be shown; data after the last pixel may be missing
too small         as the view's ``on_small`` says; ``unsure`` gives no view
================  ======================================================================================
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError, features

from bundle.errors import BrokenImage, EmptyImage, ImageTooLarge, TooManyPixels, UnsupportedFormat
from bundle.manifest import Crop, Preprocessing, View

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_PIXELS_CEILING: Final = 89_478_485
"""Pillow's own bomb limit: ``Limits.max_pixels`` may not exceed it."""

_PEAK_BYTES_A_ROW: Final = 24
"""Pillow keeps a pointer for each row of each of its images and pads rows, which counts in images of narrow rows."""

_MAGIC: Final = {
    "JPEG": (0, (b"\xff\xd8\xff",)),
    "PNG": (0, (b"\x89PNG\r\n\x1a\n",)),
    "GIF": (0, (b"GIF87a", b"GIF89a")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
}
"""Format -> the offset of its magic bytes, and the magic bytes."""

Views = npt.NDArray[np.uint8]
"""``uint8[V, size, size, 3]``, RGB; V = 0 where the image is too small."""

_KERNELS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_UPRIGHT: Final = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_PEAK_BYTES_A_PIXEL: Final = {"WEBP": 16, "AVIF": 20}
"""Measured (tests/bundle/test_preprocess.py): these decoders keep canvases of their own. AVIF took 12 with 8 bits a
sample; the rest is room for 10 and 12 bits, which Pillow cannot write and which were not measured."""

# The policy above decides about the oddities that Pillow warns of; but a header that declares too many pixels is an
# error at `open`.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings on bytes and pixels, checked before decoding."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if not 0 < self.max_pixels <= MAX_PIXELS_CEILING:
            raise ValueError(f"max_pixels must lie in 1..{MAX_PIXELS_CEILING}, got {self.max_pixels}")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts from the header; width and height are those of the stored pixels, before orientation."""

    format: str
    width: int
    height: int
    bytes: int
    animated: bool


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """RGB pixels as stored, and the EXIF orientation (1..8) that a view may apply."""

    facts: ImageFacts
    image: Image.Image
    orientation: int

    def upright(self) -> Image.Image:
        """The pixels, turned as EXIF says."""
        return self.image.transpose(_UPRIGHT[self.orientation]) if self.orientation in _UPRIGHT else self.image


def check_encoded_bytes(data: bytes, limits: Limits) -> None:
    """Refuse an image by its length alone.

    Raises:
        EmptyImage, ImageTooLarge: it has no bytes, or more than ``limits.max_bytes``.
    """
    if not data:
        raise EmptyImage("the image has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes, the ceiling is {limits.max_bytes}")


class EncodedImage:
    """An image whose header is read and whose pixels are not decoded yet.

    Before decoding, the caller knows how much memory it will take (``decoded_bytes``) and may wait for it.

    Raises:
        EmptyImage, ImageTooLarge, TooManyPixels, UnsupportedFormat, BrokenImage: see ``bundle.errors``.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        check_encoded_bytes(data, limits)
        try:
            self._image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            if any(data.startswith(words, at) for name, (at, words) in _MAGIC.items() if name in _readable()):
                raise BrokenImage("its header is truncated or contradicts itself") from error
            raise UnsupportedFormat(f"not an image of {', '.join(FORMATS)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise TooManyPixels(f"the header declares over {MAX_PIXELS_CEILING} pixels") from error
        except MemoryError:
            raise  # no fault of the image
        except Exception as error:  # Pillow's plugins raise almost anything on a damaged header
            raise BrokenImage(f"unreadable header: {_one_line(error)}") from error
        width, height = self._image.size
        if width * height > limits.max_pixels:
            raise TooManyPixels(f"{width} x {height} pixels, the ceiling is {limits.max_pixels}")
        if width * height == 0:
            raise BrokenImage(f"{width} x {height} pixels")
        try:
            animated = bool(getattr(self._image, "is_animated", False)) and self._image.format != "MPO"
        except Exception as error:
            raise BrokenImage(f"unreadable frames: {_one_line(error)}") from error
        self.facts = ImageFacts(
            format="JPEG" if self._image.format == "MPO" else str(self._image.format),
            width=width,
            height=height,
            bytes=len(data),
            animated=animated,
        )

    @property
    def decoded_bytes(self) -> int:
        """Most bytes that decoding holds at once, without the encoded bytes; also for an animation."""
        width, height = self.facts.width, self.facts.height
        return width * height * _PEAK_BYTES_A_PIXEL.get(self.facts.format, 12) + height * _PEAK_BYTES_A_ROW

    def decode(self) -> DecodedImage:
        """Decode the first frame to RGB.

        Raises:
            BrokenImage: the pixels are truncated or damaged.
        """
        try:
            self._image.seek(0)
            if self._image.tile and self._image.tile[0].args in ("L;2", "L;4", "RGB;16B"):
                # Pillow compares a colour key with samples that it has scaled to 8 bits, and hits other colours.
                self._image.info.pop("transparency", None)
            self._image.load()
            return DecodedImage(self.facts, _to_rgb(self._image), _orientation(self._image))
        except MemoryError:
            raise  # no fault of the image
        except Exception as error:
            raise BrokenImage(f"damaged {self.facts.format} data: {_one_line(error)}") from error


def decode(data: bytes, limits: Limits | None = None) -> DecodedImage:
    """Read header and pixels in one step; see ``EncodedImage`` for what is raised.

    >>> buffer = io.BytesIO()
    >>> Image.new("L", (6, 4), 255).save(buffer, "PNG")
    >>> decoded = decode(buffer.getvalue())
    >>> decoded.facts.format, decoded.image.size, decoded.image.mode
    ('PNG', (6, 4), 'RGB')
    """
    return EncodedImage(data, limits or Limits()).decode()


def make_views(decoded: DecodedImage, preprocessing: Preprocessing) -> Views:
    """Cut all views of ``preprocessing`` out of one image.

    Returns:
        ``uint8[V, size, size, 3]``; V = 0 where every view found the image too small (``on_small: unsure``).

    Raises:
        TooManyPixels: a very elongated image would grow beyond the ceiling by resizing or padding.

    >>> image = Image.new("RGB", (12, 9), (10, 20, 30))
    >>> decoded = DecodedImage(ImageFacts("PNG", 12, 9, bytes=80, animated=False), image, orientation=1)
    >>> views = make_views(decoded, Preprocessing(views=(View(crop=Crop(mode="five", size=8)),)))
    >>> views.shape, views[0, 0, 0].tolist()
    ((5, 8, 8, 3), [10, 20, 30])
    >>> make_views(decoded, Preprocessing(views=(View(crop=Crop(mode="centre", size=16)),))).shape  # too small
    (0, 16, 16, 3)
    """
    cuts = [cut for view in preprocessing.views for cut in _cut(decoded, view)]
    size = preprocessing.size
    return np.stack(cuts) if cuts else np.empty((0, size, size, 3), np.uint8)


@cache
def decoder_version() -> str:
    """Names and versions of the libraries that turn bytes into pixels; other versions may give other pixels."""
    libraries = ("libjpeg_turbo", "zlib_ng", "webp", "avif")
    versions = [f"{name}-{features.version(name)}" for name in libraries if features.version(name)]
    return "+".join([f"pillow-{PIL.__version__}", *versions])


def pixels_digest(views: Views) -> str:
    """Sha256 (hex) of shape and pixels."""
    return hashlib.sha256(str(views.shape).encode() + np.ascontiguousarray(views).tobytes()).hexdigest()


def _readable() -> set[str]:
    """Allowed formats that this installation of Pillow can read."""
    return set(FORMATS) & Image.OPEN.keys()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _cut(decoded: DecodedImage, view: View) -> list[Views]:
    image = decoded.upright() if view.orient else decoded.image
    resize, crop = view.resize, view.crop
    if resize.mode == "exact":
        assert resize.size is not None  # Resize._complete
        image = _resized(image, (resize.size, resize.size), resize.kernel, antialias=resize.antialias)
    elif resize.mode == "shorter":
        assert resize.size is not None
        image = _resized(image, _scaled(image.size, resize.size), resize.kernel, antialias=resize.antialias)
    if crop.mode == "none":
        return [np.asarray(image)]
    assert crop.size is not None  # Crop._complete
    if min(image.size) < crop.size:
        match view.on_small:
            case "unsure":
                return []
            case "upscale":
                image = _resized(image, _scaled(image.size, crop.size), resize.kernel, antialias=resize.antialias)
            case "zero_pad":
                image = _padded(image, crop.size, "constant")
            case "reflect":
                image = _padded(image, crop.size, "reflect")
    pixels = np.asarray(image)
    return [pixels[y : y + crop.size, x : x + crop.size] for y, x in _corners(image.size, crop)]


def _resized(image: Image.Image, size: tuple[int, int], kernel: str, *, antialias: bool) -> Image.Image:
    _check_growth(image, size)
    if antialias:
        return image.resize(size, _KERNELS[kernel])
    scale_x, scale_y = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (scale_x, 0, 0, 0, scale_y, 0), _KERNELS[kernel])


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    width, height = size
    scale = shorter / min(size)
    return max(shorter, round(width * scale)), max(shorter, round(height * scale))


def _padded(image: Image.Image, side: int, mode: Literal["constant", "reflect"]) -> Image.Image:
    """The image with a border on all sides, so that both sides are at least ``side``; black if ``constant``."""
    across, down = max(0, side - image.width), max(0, side - image.height)
    _check_growth(image, (image.width + across, image.height + down))
    border = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), border, mode=mode))


def _check_growth(image: Image.Image, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS_CEILING:
        raise TooManyPixels(f"{image.width} x {image.height} would become {size[0]} x {size[1]}")


def _corners(size: tuple[int, int], crop: Crop) -> list[tuple[int, int]]:
    """Top left corners (y, x) of the crops."""
    assert crop.size is not None  # Crop._complete
    right, bottom = size[0] - crop.size, size[1] - crop.size
    centre = (bottom // 2, right // 2)
    if crop.mode == "centre":
        return [centre]
    if crop.mode == "five":
        return [centre, (0, 0), (0, right), (bottom, 0), (bottom, right)]
    assert crop.stride is not None  # Crop._complete
    assert crop.max is not None
    rows, columns = range(0, bottom + 1, crop.stride), range(0, right + 1, crop.stride)
    count = len(rows) * len(columns)  # may be millions, so no list of all is made
    chosen = range(count) if count <= crop.max else [(2 * i + 1) * count // (2 * crop.max) for i in range(crop.max)]
    return [(rows[i // len(columns)], columns[i % len(columns)]) for i in chosen]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
