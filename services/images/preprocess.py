"""The one function between bytes and an encoder's input, the same in training, ingest and query."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from services.images.decode import Limits, decode, rejecting

Pixels = npt.NDArray[np.uint8]
Positive = Annotated[float, Field(gt=0)]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_WHITE = (255, 255, 255)


class Preprocessing(BaseModel):
    """How a picture becomes an encoder's input; stored beside the weights.

    `mean` and `std` apply to values / 255, on the device that encodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    size: int = Field(ge=1, le=4096, description="side of the square input, in pixels")
    fit: Literal["stretch", "crop", "pad"] = Field(description="stretched, cut to its middle, or framed in white")
    resample: Literal["bilinear", "bicubic", "lanczos", "box"]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


def preprocess(data: bytes, spec: Preprocessing, limits: Limits) -> Pixels:
    """Decode a picture to the encoder's input: uint8, (size, size, 3), RGB.

    Raises:
        ImageRejected: the bytes are not a picture that can be decoded within the limits.
    """
    return preprocess_image(decode(data, limits, at_least=2 * spec.size), spec)


def preprocess_image(image: Image.Image, spec: Preprocessing) -> Pixels:
    """Fit and resample a decoded RGB picture: uint8, (size, size, 3).

    Raises:
        ImageRejected: there is not enough memory.
    """
    side, resample = (spec.size, spec.size), _RESAMPLING[spec.resample]
    with rejecting():
        match spec.fit:
            case "stretch":
                square = image.resize(side, resample)
            case "crop":
                square = image.resize(side, resample, box=_middle(image.size))
            case "pad":
                square = _framed(image, spec.size, resample)
        return np.array(square, dtype=np.uint8)


def _middle(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def _framed(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side), _WHITE)
    square.paste(image.resize((width, height), resample), ((side - width) // 2, (side - height) // 2))
    return square
