"""Reads any image file people have into upright 8-bit RGB, or refuses that one image with a reason.

Nothing here changes Pillow's global state or Python's warning filters, so images can be read from several threads.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from crossgraft.errors import InputError

try:
    import simplejpeg
except ImportError:  # an extra; Pillow reads the same pixels
    simplejpeg = None

ImageSource = str | Path | bytes | Image.Image

# More pixels than this are refused by the header alone: 100 megapixels are 400 MB once decoded, 16-bit grey 1.3 GB.
MAX_PIXELS = 100_000_000

# Only these decoders are tried. Pillow has more, some of which start other programs (EPS) or read no photographs.
# "JPEG" reads MPO, the several-picture JPEG of many phones and cameras, too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

# What to look for in a folder of images; `read_image` itself goes by the content, not by the name. HEIC cannot be read,
# but phones write it: listed among the skipped, with what to do, it is not overlooked.
_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp gif bmp tif tiff pbm pgm ppm pnm avif jp2 j2k heic heif"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

_EXIF_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(InputError):  # noqa: N818  (it names the image's state, as its users say it)
    """One image that cannot be used: `reason` says why in a few words, `source` which one (path or "image bytes")."""

    def __init__(self, reason: str, source: str) -> None:
        super().__init__(reason, source)  # both in `args`: the error must survive the way back from a worker process
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class Draft(NamedTuple):
    """A quickly read image, upright: `pixels` (h, w, 3) uint8 of an image of `height` x `width`.

    Both sides are `divisor` (1, 2, 4 or 8) times smaller than the image's, rounded up.
    """

    pixels: np.ndarray
    height: int
    width: int
    divisor: int


def read_image(source: ImageSource) -> Image.Image:
    """Read an image as upright RGB with 8 bits a channel.

    EXIF orientation is applied, transparency is laid over white, 16-bit and float grey is scaled (not clipped), an
    animation gives its first frame. Colour profiles are not applied (the processors of the encoders do not either).

    Args:
        source: a path, an encoded image's bytes, or a Pillow image (which is returned itself if it is upright RGB).

    Raises:
        UnreadableImage: missing, empty, not an image, truncated or damaged, or more than `MAX_PIXELS` pixels.
    """
    with _opened(source) as (image, _):
        image.load()
        # The orientation after loading: PNG may hold EXIF behind the pixels, TIFF is turned by loading.
        return _turned(_rgb(image), _orientation(image))


def read_draft(source: ImageSource, at_least: int) -> Draft:
    """Read an image as `read_image` does, but fast and perhaps smaller.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (scaled inverse DCT) as long as both of its sides keep `at_least`
    pixels; simplejpeg decodes it where it is installed. All other images are read in full.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with _opened(source) as (image, file):
        width, height = image.size
        divisor = 1
        pixels: np.ndarray | None = None
        if file is not None and image.format in ("JPEG", "MPO"):
            divisor = next((d for d in (8, 4, 2) if min(width, height) // d >= at_least), 1)
            if simplejpeg is not None and image.mode in ("L", "RGB"):
                pixels = _simplejpeg(file, height, width, divisor)
            if pixels is None and divisor > 1:
                image.draft(image.mode, (width // divisor, height // divisor))
        if pixels is None:
            image.load()
        orientation = _orientation(image)
        if pixels is None or orientation != 1:
            pixels = np.array(_turned(_rgb(image) if pixels is None else Image.fromarray(pixels), orientation))
        if orientation >= 5:
            height, width = width, height
        return Draft(pixels, height, width, divisor)


@contextmanager
def _opened(source: ImageSource) -> Iterator[tuple[Image.Image, IO[bytes] | None]]:
    """An image whose header is read and whose size is allowed, and its file; errors in the body name the source."""
    name = "image bytes" if isinstance(source, bytes) else "image"
    try:
        if isinstance(source, Image.Image):
            yield source, None
            return
        if not isinstance(source, bytes):
            name = str(source)
        with _file(source, name) as file:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(_too_large(f"{image.width} x {image.height} pixels"), name)
            yield image, file
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(_too_large("far too many pixels"), name) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(_unidentified(source), name) from error
    except Exception as error:  # decoders meet damaged bytes with nearly any exception
        raise UnreadableImage(f"truncated or damaged ({str(error) or type(error).__name__})", name) from error


def _file(source: str | Path | bytes, name: str) -> IO[bytes]:
    """Open a source for reading, refusing what is no ordinary file with something in it."""
    if isinstance(source, bytes):
        if not source:
            raise UnreadableImage("empty (0 bytes)", name)
        return io.BytesIO(source)
    try:
        path = Path(source)
        if path.is_dir():
            raise UnreadableImage("is a folder, not an image file", name)
        status = path.stat()
        if not path.is_file():  # opening a pipe would wait for ever
            raise UnreadableImage("is not a regular file", name)
        if status.st_size == 0:
            raise UnreadableImage("empty (0 bytes)", name)
        return path.open("rb")
    except FileNotFoundError:
        raise UnreadableImage("no such file", name) from None
    except OSError as error:
        raise UnreadableImage(f"cannot be opened ({os.strerror(error.errno or 0)})", name) from error


def _too_large(size: str) -> str:
    return f"{size}: more than {MAX_PIXELS // 1_000_000} megapixels are refused (decompression bomb?); scale it down"


def _unidentified(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            start = file.read(12)
    else:
        start = source[:12] if isinstance(source, bytes) else b""
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return "a HEIC image, which cannot be read here; convert it to JPEG"
    return f"not an image, or damaged at its start (expected one of {', '.join(FORMATS)})"


def _simplejpeg(file: IO[bytes], height: int, width: int, divisor: int) -> np.ndarray | None:
    """Decode a JPEG -> (h, w, 3) uint8, or None where simplejpeg objects: then Pillow has the last word."""
    file.seek(0)
    try:
        return simplejpeg.decode_jpeg(
            file.read(),
            min_height=-(-height // divisor),
            min_width=-(-width // divisor),
            min_factor=divisor,
        )
    except ValueError:
        return None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # damaged metadata of a sound image is no reason to refuse it
        return 1
    return orientation if orientation in _TO_UPRIGHT else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    turned = image.transpose(_TO_UPRIGHT[orientation])
    turned.info = {}  # it holds the orientation, by which the result would be turned again if it were read again
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_grey(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Modes I;16*, I (16 bits in most files) and F (0 to 1) -> RGB; values outside that range stretch the scale."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("not all pixel values are finite")
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if values.min() < low or values.max() > high:
        low, high = values.min(), values.max()
    values -= low
    values *= 255 / (high - low)
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8)).convert("RGB")
