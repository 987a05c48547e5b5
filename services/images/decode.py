"""The decode boundary: bytes from anywhere become an upright RGB picture or one typed error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import pillow_heif
from PIL import ExifTags, Image, ImageFile

from services.errors import ImageReason, ImageRejected
from services.images.colour import to_rgb
from services.images.formats import TIFF, Format, recognise

# Pillow's fixed limit is checked by warning and again inside decoders; ours comes from the settings and is
# checked once, on the declared size, before any pixel is read.
Image.MAX_IMAGE_PIXELS = None
# Oddities in metadata are no news to whoever runs the service. Filtered once here, because
# warnings.catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
# One thread, as for other formats: each core has a decoding process of its own.
pillow_heif.options.DECODE_THREADS = 1
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = (5, 6, 7, 8)
_EXIF_SOURCES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


@dataclass(frozen=True)
class Limits:
    """What one picture may be: bytes of the file, and width × height that it declares."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ImageInfo:
    """What the header says; width and height in pixels, as displayed."""

    format: str
    media_type: str
    width: int
    height: int


def inspect(data: bytes, limits: Limits) -> ImageInfo:
    """Read format and displayed size from the header, without decoding pixels.

    Raises:
        ImageRejected: the file is empty, over a limit, not a picture, or its header is broken.
    """
    with _opened(data, limits) as (file_format, image):
        width, height = image.size
        if _orientation(image, file_format) in _SIDES_SWAPPED:
            width, height = height, width
    return ImageInfo(file_format.name, file_format.media_type, width, height)


def decode(data: bytes, limits: Limits, *, at_least: int | None = None) -> Image.Image:
    """Decode the first frame to 8-bit sRGB, upright, on white, without metadata.

    Args:
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many
            pixels; the result depends on nothing but the bytes and this number.

    Raises:
        ImageRejected: the file is empty, over a limit, not a picture, truncated or broken.
    """
    with _opened(data, limits) as (file_format, image):
        upright = _UPRIGHT.get(_orientation(image, file_format))
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        picture = to_rgb(image)
        if upright is not None:
            picture = picture.transpose(upright)
        if picture is image:
            # The opened file's object remembers more metadata than `info`.
            picture = image.copy()
        picture.info.clear()
        return picture


def verify(data: bytes, limits: Limits) -> ImageInfo:
    """Inspect the header and prove that all pixels decode.

    Raises:
        ImageRejected: as `inspect` and `decode` do.
    """
    info = inspect(data, limits)
    decode(data, limits)
    return info


@contextmanager
def rejecting(label: str = "picture") -> Iterator[None]:
    """Turn whatever a decoder or an encoder raises into ImageRejected."""
    try:
        yield
    except ImageRejected:
        raise
    except MemoryError:
        raise ImageRejected(
            ImageReason.TOO_MANY_PIXELS, f"The {label} needs more memory than one picture may take."
        ) from None
    except Exception as error:
        # Pillow's decoders raise almost any built-in error on damaged files: none of them may pass this line.
        if isinstance(error, NotImplementedError) or str(error).startswith("Unsupported"):
            reason, detail = ImageReason.UNSUPPORTED, f"The {label} is of a variant that is not supported."
        else:
            reason, detail = ImageReason.BROKEN, f"The {label} is damaged and cannot be read."
        raise ImageRejected(reason, detail) from error


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[tuple[Format, ImageFile.ImageFile]]:
    if not data:
        raise ImageRejected(ImageReason.EMPTY, "The file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageRejected(
            ImageReason.TOO_MANY_BYTES,
            f"The file has {len(data):,} bytes; {limits.max_bytes:,} are allowed.",
        )
    file_format = recognise(data)
    with rejecting(f"{file_format.label} file"), Image.open(BytesIO(data), formats=[file_format.decoder]) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise ImageRejected(
                ImageReason.TOO_MANY_PIXELS,
                f"The picture has {width:,} × {height:,} pixels; {limits.max_pixels:,} in all are allowed.",
            )
        yield file_format, image


def _orientation(image: ImageFile.ImageFile, file_format: Format) -> int:
    """EXIF orientation that is still to be applied, 1 to 8.

    TIFF and HEIC files are turned as they are opened. For the others only what precedes the pixels counts, as in
    browsers, so that `inspect` and `decode` agree; asking a PNG for EXIF that is not there would decode it.
    """
    if file_format is TIFF or not any(source in image.info for source in _EXIF_SOURCES):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  damaged metadata raises as widely as damaged pixels, and spoils none of them
        return 1
    return orientation if orientation in _UPRIGHT else 1
