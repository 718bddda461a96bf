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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

from bundle.colour import profile_alters
from bundle.containers import FORMATS, Still, read_still, require_every_row, sniff, unsupported
from bundle.errors import BrokenImage, EmptyImage, ImageError, ImageTooLarge, TooManyPixels, UnsupportedFormat
from bundle.files import IMAGE_BYTES
from bundle.jpeg import Jpeg, Portions, read_jpeg
from bundle.manifest import Preprocessing, View
from bundle.views import MAX_PIXELS_CEILING, Views, cut, image_bytes, view_bytes

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

DECODING_POLICY: Final = 3
"""Version of the table above. It changes whenever the same bytes give other pixels, with the same libraries."""
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
    """RGB pixels as stored, and the EXIF orientation (1..8) that a view may apply.

    Attributes:
        facts: see there.
        image: over white, where it is transparent.
        orientation: of EXIF.
        opaque: with the colours that it has where it is transparent; None where it is not, or nobody asked.
    """

    facts: ImageFacts
    image: Image.Image
    orientation: int
    opaque: Image.Image | None = None

    def upright(self) -> Image.Image:
        """The pixels, turned as EXIF says."""
        return self._turned(self.image)

    def seen_by(self, view: View) -> Image.Image:
        """The pixels, turned and with or without transparency as the view says."""
        image = self.opaque if self.opaque and view.alpha == "drop" else self.image
        return self._turned(image) if view.orient else image

    def _turned(self, image: Image.Image) -> Image.Image:
        return image.transpose(_UPRIGHT[self.orientation]) if self.orientation in _UPRIGHT else image


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
        decoding = image_bytes(self._coded_size, a_pixel) + (image_bytes(size, 4) if self._still.covered else 0)
        views, cutting, opaque = 0, 0, 0
        for preprocessing in preprocessings:
            held, made = view_bytes(size, preprocessing, turned=self._orientation in _UPRIGHT)
            views += made
            cutting = max(cutting, views + held)
            if preprocessing.drops_alpha and self.facts.format != "JPEG":
                opaque = image_bytes(size, 4)
        # Twice, for the hole that freed pixels leave may be too small for what comes next.
        return max(decoding, 2 * image_bytes(size, 4) + cutting) + opaque + copies * self.facts.bytes

    def decode(self, *, opaque: bool = False) -> DecodedImage:
        """Decode the first frame to RGB; only once, as what the decoder holds is let go.

        Args:
            opaque: keep the colours below transparency too, for views that want them (``Preprocessing.drops_alpha``).

        Raises:
            BrokenImage: the pixels are truncated or damaged.
        """
        try:
            image, covered = self._load()
            shown = self._on_canvas(image, covered, _to_rgb)
            has_below = opaque and image.has_transparency_data and image.mode != "I;16"
            below = self._on_canvas(image, covered, lambda part: part.convert("RGB")) if has_below else None
            if shown is not image:
                image.close()  # its pixels would stay until Python looks for cycles
            return DecodedImage(self.facts, shown, self._orientation, below)
        except (ImageError, MemoryError):  # too little memory is no fault of the image
            raise
        except Exception as error:
            raise BrokenImage(f"damaged {self.facts.format} data: {_one_line(error)}") from error

    def _on_canvas(
        self,
        image: Image.Image,
        covered: tuple[int, int, int, int] | None,
        convert: Callable[[Image.Image], Image.Image],
    ) -> Image.Image:
        """The picture as RGB, on white where it does not cover the canvas."""
        size = (self.facts.width, self.facts.height)
        if not covered or covered == (0, 0, *size):
            return convert(image)
        canvas = Image.new("RGB", size, "white")
        canvas.paste(convert(image if image.size != size else image.crop(covered)), covered[:2])
        return canvas

    def _load(self) -> tuple[Image.Image, Box | None]:
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


def decode(data: bytes, limits: Limits | None = None, *, opaque: bool = False) -> DecodedImage:
    """Read header and pixels in one step; see ``EncodedImage`` for what is raised.

    >>> buffer = io.BytesIO()
    >>> Image.new("L", (6, 4), 255).save(buffer, "PNG")
    >>> decoded = decode(buffer.getvalue())
    >>> decoded.facts.format, decoded.image.size, decoded.image.mode
    ('PNG', (6, 4), 'RGB')
    """
    return EncodedImage(data, limits or Limits()).decode(opaque=opaque)


def make_views(decoded: DecodedImage, preprocessing: Preprocessing) -> Views:
    """Cut all views of ``preprocessing`` out of one image.

    Returns:
        ``uint8[V, size, size, 3]``; V = 0 where every view found the image too small (``on_small: unsure``).

    Raises:
        TooManyPixels: a very elongated image would grow beyond the ceiling by resizing or padding.

    >>> from bundle.manifest import Crop
    >>> image = Image.new("RGB", (12, 9), (10, 20, 30))
    >>> decoded = DecodedImage(ImageFacts("PNG", 12, 9, bytes=80, animated=False), image, orientation=1)
    >>> views = make_views(decoded, Preprocessing(views=(View(crop=Crop(mode="five", size=8)),)))
    >>> views.shape, views[0, 0, 0].tolist()
    ((5, 8, 8, 3), [10, 20, 30])
    >>> make_views(decoded, Preprocessing(views=(View(crop=Crop(mode="centre", size=16)),))).shape  # too small
    (0, 16, 16, 3)
    """
    cuts = [square for view in preprocessing.views for square in cut(decoded.seen_by(view), view)]
    size = preprocessing.size
    return np.stack(cuts) if cuts else np.empty((0, size, size, 3), np.uint8)


def read_views(data: bytes, preprocessing: Preprocessing, limits: Limits | None = None) -> Views:
    """Decode an image and cut its views in one step; see ``EncodedImage`` and ``make_views`` for what is raised."""
    return make_views(decode(data, limits, opaque=preprocessing.drops_alpha), preprocessing)


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
