"""Bring any picture to 8-bit sRGB on white, whatever its mode, depth, transparency or colour profile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_WHITE = (255, 255, 255)
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
_BAND_PIXELS = 1024 * 1024


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture as 8-bit sRGB; what is transparent shows white."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bits(image)
    elif image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("RGB")
    image = _to_srgb(image, profile if isinstance(profile, bytes) else None)
    return image if alpha is None else _on_white(image, alpha)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to 0…255.

    16-bit files say how many bits they use. The others do not, so the smallest customary range that
    holds all values is taken: 0…1 (float only), 0…255, 0…65,535, else from the darkest to the lightest.
    """
    if image.mode.startswith("I;16"):
        low, high = 0.0, float(2 ** _bits(image) - 1)
    else:
        extremes = [(float(values.min()), float(values.max())) for _, values in _bands(image)]
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        if low >= 0 and high <= 65535:
            low, high = 0.0, _customary_top(high, image.mode)
    scaled = Image.new("L", image.size)
    for top, values in _bands(image):
        band = (values - low) * (255.0 / ((high - low) or 1.0))
        scaled.paste(Image.fromarray(np.clip(np.rint(band), 0, 255).astype(np.uint8)), (0, top))
    return scaled


def _bands(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Some rows at a time, with the number of the first: all of a large picture as numbers is ten times its bytes."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.nan_to_num(np.asarray(band), posinf=0.0, neginf=0.0).astype(np.float32)


def _customary_top(high: float, mode: str) -> float:
    if mode == "F" and high <= 1:
        return 1.0
    return 255.0 if high <= 255 else 65535.0


def _bits(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] if tags is not None else 16
    return bits if 8 < bits <= 16 else 16


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    transform = _transform(profile, image.mode) if profile or image.mode == "LAB" else None
    if transform is not None:
        managed = ImageCms.applyTransform(image, transform)
        if managed is not None:
            return managed
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None where the profile is sRGB already, damaged, or for another kind of picture."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # A viewer shows such a picture without its profile; so do we.
        return None


def _on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, _WHITE)
    canvas.paste(image, mask=alpha)
    return canvas
