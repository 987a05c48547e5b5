"""The one function between bytes and an encoder's input, the same in training, ingest and query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.errors import InvalidRequest
from services.images.decode import Limits, decode, inspect, rejecting

Pixels = npt.NDArray[np.uint8]
Positive = Annotated[float, Field(gt=0)]
# Left, top, right and bottom, in pixels.
Area = tuple[float, float, float, float]
Channel = Annotated[int, Field(ge=0, le=255)]

MIN_CROP = 8

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in shares of its upright width and height."""

    x: float
    y: float
    width: float
    height: float

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of this size: every pixel that the part touches."""
        width, height = size
        left, top = math.floor(self.x * width), math.floor(self.y * height)
        right, bottom = math.ceil((self.x + self.width) * width), math.ceil((self.y + self.height) * height)
        return left, top, min(right, width), min(bottom, height)


@dataclass(frozen=True)
class Box:
    """A rectangle on a picture, in shares of its upright width and height; it may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float


class Preprocessing(BaseModel):
    """How a picture becomes an encoder's input; stored beside the weights.

    `mean` and `std` apply to values / 255, on the device that encodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    size: int = Field(ge=1, le=4096, description="side of the square input, in pixels")
    fit: Literal["stretch", "crop", "pad"] = Field(description="stretched, cut to its middle, or framed")
    resample: Literal["bilinear", "bicubic", "lanczos", "box"]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    crop_share: float = Field(1.0, gt=0, le=1, description="share of the sides that `stretch` and `crop` keep")
    margin: int = Field(0, ge=0, description="pixels of background on every side, around what `fit` gives")
    background: tuple[Channel, Channel, Channel] = Field(
        (255, 255, 255), description="red, green and blue of the frame"
    )

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.inner_size < 1:
            raise ValueError(f"a margin of {self.margin} leaves nothing of {self.size} pixels")
        if self.crop_share != 1 and self.fit == "pad":
            raise ValueError("crop_share has no meaning where the whole picture is shown, as by 'pad'")
        return self

    @property
    def inner_size(self) -> int:
        """Side of the square within the margins, in pixels."""
        return self.size - 2 * self.margin


def preprocess(data: bytes, spec: Preprocessing, limits: Limits, crop: Crop | None = None) -> Pixels:
    """Decode a picture, or a part of it, to the encoder's input: uint8, (size, size, 3), RGB.

    Raises:
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
        InvalidRequest: the part has less than MIN_CROP pixels in width or height.
    """
    at_least = 2 * math.ceil(spec.inner_size / spec.crop_share)
    if crop is None:
        return preprocess_image(decode(data, limits, at_least=at_least), spec)
    info = inspect(data, limits)
    left, top, right, bottom = crop.box((info.width, info.height))
    if right - left < MIN_CROP or bottom - top < MIN_CROP:
        raise InvalidRequest(
            f"the crop has {right - left} × {bottom - top} pixels; {MIN_CROP} × {MIN_CROP} are the least",
            code="crop_too_small",
        )
    # The whole may be decoded smaller only as far as the part keeps the pixels that a whole picture would.
    image = decode(data, limits, at_least=math.ceil(at_least / min(crop.width, crop.height)))
    return preprocess_image(image.crop(crop.box(image.size)), spec)


def preprocess_image(image: Image.Image, spec: Preprocessing) -> Pixels:
    """Fit and resample a decoded RGB picture: uint8, (size, size, 3).

    Raises:
        ImageRejected: there is not enough memory.
    """
    area, fitted = _fit(image.size, spec)
    with rejecting():
        return np.array(_framed(image.resize(fitted, _RESAMPLING[spec.resample], box=area), spec), dtype=np.uint8)


def covered(size: tuple[int, int], spec: Preprocessing, crop: Crop | None = None) -> Box:
    """What of an upright picture of this size, or of a part of it, lies under the encoder's whole input.

    Less than the picture where that is cut, and more where it is framed.
    """
    left, top, right, bottom = (0, 0, *size) if crop is None else crop.box(size)
    area, fitted = _fit((right - left, bottom - top), spec)

    def along(axis: int, start: int) -> tuple[float, float]:
        # Of the picture, what is shown, and of that, what one pixel of the input is.
        shown = (area[axis + 2] - area[axis]) / size[axis]
        before = _before(fitted[axis], spec)
        return (start + area[axis]) / size[axis] - shown * before / fitted[axis], shown * spec.size / fitted[axis]

    (x, width), (y, height) = along(0, left), along(1, top)
    return Box(x, y, width, height)


def _fit(size: tuple[int, int], spec: Preprocessing) -> tuple[Area, tuple[int, int]]:
    """What is shown of a picture of this size, in its pixels; and the size in which it is shown."""
    inner = spec.inner_size
    match spec.fit:
        case "stretch":
            return _middle(size, size, spec.crop_share), (inner, inner)
        case "crop":
            short = min(size)
            return _middle(size, (short, short), spec.crop_share), (inner, inner)
        case "pad":
            width, height = (max(1, round(length * (inner / max(size)))) for length in size)
            return (0.0, 0.0, float(size[0]), float(size[1])), (width, height)


def _middle(size: tuple[int, int], area: tuple[int, int], share: float) -> Area:
    width, height = area[0] * share, area[1] * share
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _framed(image: Image.Image, spec: Preprocessing) -> Image.Image:
    if image.size == (spec.size, spec.size):
        return image
    square = Image.new("RGB", (spec.size, spec.size), spec.background)
    square.paste(image, (_before(image.width, spec), _before(image.height, spec)))
    return square


def _before(length: int, spec: Preprocessing) -> int:
    """Pixels of the frame before so many of the picture."""
    return (spec.size - length) // 2
