"""Pictures to show: small WebP thumbnails and full-size copies, both without metadata."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from services.errors import InvalidRequest
from services.images.decode import Limits, decode, rejecting

SIZES = (128, 256, 512)
MEDIA_TYPE = "image/webp"

_JPEG_LONGEST_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION


def thumbnail(data: bytes, size: int, limits: Limits) -> bytes:
    """Draw a picture as WebP that fits into size × size pixels; smaller pictures keep their size.

    Raises:
        InvalidRequest: `size` is not one of SIZES.
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
    """
    if size not in SIZES:
        raise InvalidRequest(f"The size of a thumbnail is one of {', '.join(map(str, SIZES))}.")
    picture = decode(data, limits, at_least=size)
    with rejecting():
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        return _encode(picture, "WEBP", quality=82, method=4)


def rendition(data: bytes, limits: Limits) -> tuple[bytes, str]:
    """Encode a picture anew at full size, without metadata or location; return bytes and media type.

    It is a JPEG, or a PNG where a side is longer than JPEG allows.

    Raises:
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
    """
    picture = decode(data, limits)
    with rejecting():
        if max(picture.size) > _JPEG_LONGEST_SIDE:
            return _encode(picture, "PNG"), "image/png"
        return _encode(picture, "JPEG", quality=90), "image/jpeg"


def _encode(picture: Image.Image, encoder: str, **options: int) -> bytes:
    target = BytesIO()
    picture.save(target, encoder, **options)
    return target.getvalue()
