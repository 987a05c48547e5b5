"""The same picture as it comes back: compressed again, smaller, cut, mirrored, recoloured, turned.

They act on the decoded picture at full size, and what they give is encoded again, so that it reaches an encoder by
the way that any picture takes. Without torch: they run in decoding processes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageEnhance

from services.images.decode import Limits, decode, rejecting
from services.images.preprocess import Pixels, Preprocessing, preprocess

_WHITE = (255, 255, 255)
_ENHANCED_BY = 0.25
_HUE_TURNED_BY = 0.05  # of a whole turn
_ROTATED_BY = 10.0  # degrees


@dataclass(frozen=True)
class Alteration:
    """One way to change a picture; what chance decides comes from the generator."""

    name: str
    title: str
    description: str
    apply: Callable[[Image.Image, np.random.Generator], Image.Image]
    quality: int = 95


def altered(data: bytes, seed: int, specs: Sequence[Preprocessing], limits: Limits) -> list[list[Pixels]]:
    """Each alteration of a picture as input of each preprocessing, in their orders.

    Chance depends on the seed and the picture: the same give the same copies, whatever else is measured.

    Raises:
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
    """
    original = decode(data, limits)
    copies = []
    for number, alteration in enumerate(ALTERATIONS):
        with rejecting():
            copy = alteration.apply(original, np.random.default_rng([seed, number, zlib.crc32(data)]))
            encoded = _jpeg(copy, alteration.quality)
        copies.append([preprocess(encoded, spec, limits) for spec in specs])
    return copies


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    target = BytesIO()
    # High qualities keep colours at full size, so that nothing but the alteration is measured.
    picture.save(target, "JPEG", quality=quality, subsampling="4:2:0" if quality < 90 else "4:4:4")
    return target.getvalue()


def _same(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    return picture


def _halved(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    width, height = picture.size
    return picture.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS)


def _cropped(picture: Image.Image, random: np.random.Generator, side: float) -> Image.Image:
    """Keep a part whose sides are shares of the picture's, at a random place."""
    width, height = (max(1, round(length * side)) for length in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _mirrored(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _recoloured(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(1 + random.uniform(-_ENHANCED_BY, _ENHANCED_BY))
    hue, saturation, value = picture.convert("HSV").split()
    turn = round(256 * random.uniform(-_HUE_TURNED_BY, _HUE_TURNED_BY))
    turned = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _rotated(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    degrees = random.uniform(-_ROTATED_BY, _ROTATED_BY)
    return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_WHITE)


ALTERATIONS: tuple[Alteration, ...] = (
    Alteration("jpeg-30", "re-compressed", "saved as JPEG of quality 30", _same, quality=30),
    Alteration("half", "half size", "resized to half of each side", _halved),
    Alteration(
        "crop-area",
        "crop, 60 % of area",
        "60 % of the area, at a random place",
        lambda picture, random: _cropped(picture, random, math.sqrt(0.6)),
    ),
    Alteration(
        "crop-sides",
        "crop, 60 % of sides",
        "60 % of each side (36 % of the area), at a random place",
        lambda picture, random: _cropped(picture, random, 0.6),
    ),
    Alteration("mirror", "mirrored", "flipped left to right", _mirrored),
    Alteration(
        "colour",
        "recoloured",
        "brightness, contrast and saturation changed by up to 25 %, hue turned by up to 18 degrees",
        _recoloured,
    ),
    Alteration("rotate", "rotated", "turned by up to 10 degrees, corners white", _rotated),
)
