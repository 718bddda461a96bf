"""From encoded bytes to ``uint8`` views: the single implementation, at training, calibration, export and serving.

Forensic scores depend on decoder and resampler as much as on weights, so nothing else in Genprint decodes an image
for a model. What people see is what is judged: where viewers differ, it is what Chrome and Firefox show. This is the
policy, version 3 (``DECODING_POLICY``):

================  ======================================================================================
matter            policy
================  ======================================================================================
format            JPEG, PNG, WebP, GIF, BMP, AVIF by content, never by name; others are refused by their names;
                  so are lossless, arithmetic-coded and 12-bit JPEG, and 16-bit BMP of other fields than 555 and 565
not pixels        texts, comments, profiles, previews, unknown chunks and segments are dropped before decoding,
                  whatever is wrong with them; up to 64 bytes may precede a PNG's signature
EXIF orientation  applied where the view has ``orient`` (the default), if it is one number of 16 bits; unreadable
                  parts of a damaged block count as absent; XMP's is ignored, and a PNG's behind its pixels; an AVIF
                  is turned by its own properties, never by EXIF
clean aperture    an AVIF's is cut out, if it consists of whole pixels inside the image; otherwise ignored
colour profile    ignored: pixels are used as stored, colour management would change them by library version; one
                  that makes another picture (``bundle/colour.py``), like a PNG's gamma and HDR, is said:
                  ``ImageFacts.ambiguous``
CMYK, YCCK        Pillow's plain conversion, without profile; inks are read as inverted, which is how Adobe and
                  nearly all others write them, with or without Adobe's marker
alpha             composed over white, as a viewer sees it; hidden colours under alpha 0 have no effect; a BMP whose
                  alpha is 0 everywhere is opaque
palette, 1 bit    expanded to RGB (transparency as alpha); a PNG with colours that its palette lacks is refused
transparency      a PNG's that does not fit the image, such as one longer than the palette, is ignored; a WebP that is
                  transparent and says that it is not is refused
colour key        a PNG's transparent colour counts as alpha, but is ignored in colour images of 16 bits a sample, and
                  said: ``ImageFacts.ambiguous``
grey              copied into the three channels
16 bit            the high byte, as libpng does for colour; no rescaling by content
animated          the first frame; ``ImageFacts.animated`` says so; a PNG's default image that is no frame of its
                  animation is not shown; a multi-picture JPEG (MPO) is one photograph
uncovered         where the first frame leaves the canvas uncovered, it is transparent
disorder          refused, where one viewer shows this and another that: a PNG whose pixels have wrong checksums or
                  lie in two places, unknown critical chunks, animations whose parts are damaged or out of order, GIF
                  blocks that no image follows, two graphic controls or no palette, a WebP frame of another size than
                  its picture, JPEG restart markers that are missing or out of order
size              ceilings on bytes and pixels, checked before anything is decoded
truncated         refused, also when some pixels could be shown; data after the last pixel may be missing, except
                  the marker behind a JPEG's; so are a JPEG in which libjpeg would fill in what is missing
                  (``bundle/jpeg.py``), and a PNG whose compressed rows end early
too small         as the view's ``on_small`` says; ``unsure`` gives no view
================  ======================================================================================
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import PIL
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

from bundle.colour import profile_alters
from bundle.containers import FORMATS, Still, read_still, require_every_row, sniff, unsupported
from bundle.errors import BrokenImage, EmptyImage, ImageError, ImageTooLarge, TooManyPixels, UnsupportedFormat
from bundle.files import IMAGE_BYTES
from bundle.jpeg import Jpeg, Portions, read_jpeg
from bundle.manifest import Crop, Preprocessing, View

DECODING_POLICY: Final = 3
"""Version of the table above. It changes whenever the same bytes give other pixels, with the same libraries."""
MAX_PIXELS_CEILING: Final = 89_478_485
"""Pillow's own bomb limit: ``Limits.max_pixels`` may not exceed it."""

_PEAK_BYTES_A_ROW: Final = 24
"""Pillow keeps a pointer for each row of each of its images and pads rows, which counts in images of narrow rows."""

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

_PEAK_BYTES_A_PIXEL: Final = {"JPEG": 13, "PNG": 13, "WEBP": 17, "GIF": 11, "BMP": 9, "AVIF": 20}
"""Measured (tests/bundle/test_preprocess.py). WebP's and AVIF's decoders keep canvases of their own. AVIF took 13 with
8 bits a sample; the rest is room for 10 and 12 bits, which Pillow cannot write and which were not measured."""
_ONE_SCAN_BYTES_A_PIXEL: Final = 9
"""In most JPEGs, of which libjpeg holds a few rows and not all coefficients."""

# The policy above decides about the oddities that Pillow warns of; but a header that declares too many pixels is an
# error at `open`.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings on bytes and pixels, checked before decoding."""

    max_bytes: int = IMAGE_BYTES
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if not 0 < self.max_pixels <= MAX_PIXELS_CEILING:
            raise ValueError(f"max_pixels must lie in 1..{MAX_PIXELS_CEILING}, got {self.max_pixels}")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts from the header; width and height are those of the stored pixels, before orientation.

    ``ambiguous``: viewers may show another picture than the one that is judged, by colour information or by a colour
    key that is not applied here.
    """

    format: str
    width: int
    height: int
    bytes: int
    animated: bool
    ambiguous: bool = False


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

    Before decoding, the caller knows how much memory it will take (``peak_bytes``) and may wait for it.

    Raises:
        EmptyImage, ImageTooLarge, TooManyPixels, UnsupportedFormat, BrokenImage: see ``bundle.errors``.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        check_encoded_bytes(data, limits)
        name = sniff(data)
        if name not in FORMATS:
            raise UnsupportedFormat(f"not an image of {', '.join(FORMATS)}")
        self._jpeg = read_jpeg(data) if name == "JPEG" else None
        self._still = _still_of(self._jpeg) if self._jpeg else read_still(data, name)
        if self._still.canvas:
            _check_pixels(self._still.canvas, limits)
        self._file = self._jpeg.file() if self._jpeg else Portions(self._still.data)
        # libwebp takes the memory for its canvases when it opens a file, before anybody could reserve it.
        self._image = None if name == "WEBP" else _open(self._file, name)
        size = self._still.canvas if self._image is None else self._image.size
        assert size is not None  # a WebP's is known
        _check_pixels(size, limits)
        self._coded_size = width, height = size
        if self._still.crop:
            left, top, right, bottom = self._still.crop
            width, height = right - left, bottom - top
        elif self._still.canvas and name == "PNG":
            width, height = self._still.canvas
        try:
            animated = self._still.animated
            animated = bool(getattr(self._image, "is_animated", False)) if animated is None else animated
        except MemoryError:
            raise
        except Exception as error:
            raise BrokenImage(f"unreadable frames: {_one_line(error)}") from error
        exif = self._still.exif
        if exif is None:
            exif = self._image.info.get("exif", b"") if self._image else b""
        self._orientation = _orientation(exif)
        self.facts = ImageFacts(
            name, width, height, bytes=len(data), animated=animated, ambiguous=self._still.ambiguous
        )

    def peak_bytes(self, preprocessings: Iterable[Preprocessing]) -> int:
        """Most bytes held at once by decoding and by cutting views, one preprocessing after the other.

        The encoded bytes do not count, copies of them do. Views count, since the caller keeps them.

        Raises:
            TooManyPixels: see ``make_views``.
        """
        one_scan = self._jpeg is not None and self._jpeg.single
        a_pixel = _ONE_SCAN_BYTES_A_PIXEL if one_scan else _PEAK_BYTES_A_PIXEL[self.facts.format]
        copies = 0 if self.facts.format in ("GIF", "BMP") else 3
        size = (self.facts.width, self.facts.height)
        decoding = _bytes(self._coded_size, a_pixel) + (_bytes(size, 4) if self._still.covered else 0)
        views, cutting = 0, 0
        for preprocessing in preprocessings:
            held, made = _view_bytes(size, preprocessing, turned=self._orientation in _UPRIGHT)
            views += made
            cutting = max(cutting, views + held)
        # Twice, for the hole that freed pixels leave may be too small for what comes next.
        return max(decoding, 2 * _bytes(size, 4) + cutting) + copies * self.facts.bytes

    def decode(self) -> DecodedImage:
        """Decode the first frame to RGB; only once, as what the decoder holds is let go.

        Raises:
            BrokenImage: the pixels are truncated or damaged.
        """
        try:
            image, covered = self._load()
            size = (self.facts.width, self.facts.height)
            if covered and covered != (0, 0, *size):
                shown = Image.new("RGB", size, "white")
                shown.paste(_to_rgb(image if image.size != size else image.crop(covered)), covered[:2])
            else:
                shown = _to_rgb(image)
            if shown is not image:
                image.close()  # its pixels would stay until Python looks for cycles
            return DecodedImage(self.facts, shown, self._orientation)
        except (ImageError, MemoryError):  # too little memory is no fault of the image
            raise
        except Exception as error:
            raise BrokenImage(f"damaged {self.facts.format} data: {_one_line(error)}") from error

    def _load(self) -> tuple[Image.Image, tuple[int, int, int, int] | None]:
        """The pixels as Pillow gives them, and which part of the canvas they cover; None for all of it."""
        image = self._image or _open(self._file, self.facts.format)
        del self._image
        if image.size != self._coded_size:
            raise BrokenImage("its header contradicts itself")
        image.seek(0)
        covered = image.tile[0].extents if self.facts.format == "GIF" else self._still.covered
        if self._jpeg:
            altered = self._jpeg.altered()
            expected = _digest(_open(altered, "JPEG")) if altered else None
            image.load()
            self._jpeg.check_surplus(self._file.tell())
            if expected and _digest(image) != expected:
                raise BrokenImage("truncated JPEG data: what libjpeg fills in depends on what follows")
        image.load()
        if self.facts.format == "PNG" and _ends_blank(image):
            require_every_row(self._still.data)
        if self._still.colours and image.histogram()[self._still.colours :] != [0] * (256 - self._still.colours):
            raise BrokenImage("damaged PNG data: colours that its palette lacks")
        if self.facts.format not in ("WEBP", "AVIF"):
            return image, covered
        image.fp = None
        copy = image.crop(self._still.crop) if self._still.crop else image.copy()
        image.close()  # and with it the decoder's own pixels
        alpha = copy.getchannel("A").crop(covered) if self._still.opaque else None
        if alpha and alpha.getextrema() != (255, 255):
            raise BrokenImage("damaged WEBP: transparency in a picture that says it has none")
        return copy, covered


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
    """What turns bytes into pixels: names and versions of the libraries, and the version of the policy above.

    Another one may give other pixels.
    """
    libraries = ("libjpeg_turbo", "zlib_ng", "webp", "avif")
    versions = [f"{name}-{features.version(name)}" for name in libraries if features.version(name)]
    return "+".join([f"pillow-{PIL.__version__}", *versions, f"policy-{DECODING_POLICY}"])


def decoding_policy(version: str) -> int:
    """The version of the policy in what ``decoder_version`` gave; before there were any it was 1.

    >>> decoding_policy(decoder_version()) == DECODING_POLICY, decoding_policy("pillow-13.0.0+webp-1.6.0")
    (True, 1)
    """
    _, _, policy = version.rpartition("+policy-")
    return int(policy) if policy.isdecimal() else 1


def pixels_digest(views: Views) -> str:
    """Sha256 (hex) of shape and pixels."""
    return hashlib.sha256(str(views.shape).encode() + np.ascontiguousarray(views).tobytes()).hexdigest()


def _open(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
    """Read the header, with the one plugin for that format."""
    try:
        return Image.open(file, formats=[name])
    except UnidentifiedImageError as error:
        if name not in Image.OPEN:
            raise UnsupportedFormat(f"this installation of Pillow cannot read {name}") from error
        raise BrokenImage("its header is truncated or contradicts itself") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"the header declares over {MAX_PIXELS_CEILING} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on a damaged header
        if str(error).startswith("Unsupported BMP"):
            raise unsupported(f"BMP of this kind ({_one_line(error)})") from error
        raise BrokenImage(f"unreadable header: {_one_line(error)}") from error


def _ends_blank(image: Image.Image) -> bool:
    """Whether rows of a PNG may never have been decoded: the last one is as the memory was before, or it has passes."""
    bottom = image.crop((0, image.height - 1, image.width, image.height))
    return bottom.getbbox(alpha_only=False) is None or bool(image.info.get("interlace"))


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"{width} x {height} pixels, the ceiling is {limits.max_pixels}")
    if width * height == 0:
        raise BrokenImage(f"{width} x {height} pixels")


def _digest(image: Image.Image) -> bytes:
    """Sha256 of the pixels, taken in stripes to save memory."""
    digest = hashlib.sha256()
    for top in range(0, image.height, 64):
        digest.update(image.crop((0, top, image.width, min(top + 64, image.height))).tobytes())
    return digest.digest()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "I;16":
        samples = np.asarray(image)
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency")] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _still_of(jpeg: Jpeg) -> Still:
    return Still(b"", exif=jpeg.exif, animated=False, ambiguous=profile_alters(jpeg.profile))


def _orientation(block: bytes) -> int:
    """As browsers read it: of the first directory the first such entry, if it is one number of 16 bits."""
    block = block[6:] if block.startswith(b"Exif\0") else block
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", block, 4)
            (count,) = struct.unpack_from(f"{order}H", block, start)
            for at in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, several, value = struct.unpack_from(f"{order}HHIH", block, at)
                if tag == ExifTags.Base.Orientation:
                    return value if (kind, several) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:  # a damaged block says nothing about the pixels
        pass
    return 1


def _cut(decoded: DecodedImage, view: View) -> list[Views]:
    image = decoded.upright() if view.orient else decoded.image
    resize, crop = view.resize, view.crop
    resized, grown = _sizes(image.size, view)
    if resize.mode != "none":
        image = _resized(image, resized, resize.kernel, antialias=resize.antialias)
    if crop.mode == "none":
        return [np.asarray(image)]
    if grown is None:
        return []
    if grown != resized:
        left, top = (grown[0] - resized[0]) // 2, (grown[1] - resized[1]) // 2
        match view.on_small:
            case "upscale":
                image = _resized(image, grown, resize.kernel, antialias=resize.antialias)
            case "zero_pad":
                image = image.crop((-left, -top, grown[0] - left, grown[1] - top))  # black outside
            case "reflect":
                border = ((top, grown[1] - resized[1] - top), (left, grown[0] - resized[0] - left), (0, 0))
                image = Image.fromarray(np.pad(np.asarray(image), border, mode="reflect"))
    size = crop.size
    assert size is not None  # Crop._complete
    return [np.asarray(image.crop((x, y, x + size, y + size))) for y, x in _corners(image.size, crop)]


def _sizes(size: tuple[int, int], view: View) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Width and height after resizing, and after what ``on_small`` says; None for no view.

    Raises:
        TooManyPixels: beyond the ceiling.
    """
    resize, crop = view.resize, view.crop
    resized = size
    if resize.mode != "none":
        assert resize.size is not None  # Resize._complete
        resized = (resize.size, resize.size) if resize.mode == "exact" else _scaled(size, resize.size)
        _check_growth(size, resized)
    if crop.size is None or min(resized) >= crop.size:
        return resized, resized
    match view.on_small:
        case "unsure":
            return resized, None
        case "upscale":
            grown = _scaled(resized, crop.size)
        case _:
            grown = (max(resized[0], crop.size), max(resized[1], crop.size))
    _check_growth(resized, grown)
    return resized, grown


def _resized(image: Image.Image, size: tuple[int, int], kernel: str, *, antialias: bool) -> Image.Image:
    if antialias:
        return image.resize(size, _KERNELS[kernel])
    scale_x, scale_y = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (scale_x, 0, 0, 0, scale_y, 0), _KERNELS[kernel])


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    width, height = size
    scale = shorter / min(size)
    return max(shorter, round(width * scale)), max(shorter, round(height * scale))


def _view_bytes(size: tuple[int, int], preprocessing: Preprocessing, *, turned: bool) -> tuple[int, int]:
    """Most bytes held beside the image while the views are cut, without the views; and those of the views."""
    held, count = 0, 0
    for view in preprocessing.views:
        upright = size[::-1] if turned and view.orient else size
        resized, grown = _sizes(upright, view)
        stages = [_bytes(upright, 4) if turned and view.orient else 0]
        if view.resize.mode != "none":
            stages.append(_bytes((resized[0], upright[1]), 4) + _bytes(resized, 4))  # one direction after the other
        if grown and grown != resized:
            # NumPy's reflection is a copy of the image, the result and its copies as bytes and as an image.
            stages.append(_bytes(resized, 6) + _bytes(grown, 10) if view.on_small == "reflect" else _bytes(grown, 8))
        held = max(held, sum(stages))
        count += len(_corners(grown, view.crop)) if grown and view.crop.size else bool(grown)
    return held, 2 * 3 * preprocessing.size**2 * (count + 1)


def _bytes(size: tuple[int, int], a_pixel: int) -> int:
    return size[0] * size[1] * a_pixel + size[1] * _PEAK_BYTES_A_ROW


def _check_growth(before: tuple[int, int], after: tuple[int, int]) -> None:
    if after[0] * after[1] > MAX_PIXELS_CEILING:
        raise TooManyPixels(f"{before[0]} x {before[1]} would become {after[0]} x {after[1]}")


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
