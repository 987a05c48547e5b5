"""What is measured: encoders, their flattened codes, and two baselines that need no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.encoders.base import Encoder
from services.errors import EncoderError
from services.images.preprocess import Pixels, Preprocessing

Codes = npt.NDArray[np.float32]

FLATTENED = ":flattened"

_HISTOGRAM_BINS = (12, 4, 4)


@dataclass(frozen=True)
class Subject:
    """One way of seeing.

    Attributes:
        encode: pictures of shape (n, size, size, 3) into unit rows (n, dimension), zeros where a picture has no
            direction, as `services.encoders.base.Encoder`.
        trained: False for the baselines.
    """

    name: str
    description: str
    preprocessing: Preprocessing
    dimension: int
    encode: Callable[[Pixels], Codes]
    trained: bool = True


@runtime_checkable
class Flattening(Protocol):
    """An encoder that can also give the code which its network pools."""

    def encode_flattened(self, batch: Pixels) -> Codes:
        """Encode pictures into rows of length 1 of the flattened code.

        Raises:
            EncoderError: its network pools nothing.
        """
        ...


def of_encoder(encoder: Encoder) -> Subject:
    """The embedding of an encoder, as workers make it."""
    manifest = encoder.manifest
    description = f"{manifest.architecture}, recipe {manifest.training.recipe}"
    return Subject(manifest.ref, description, manifest.preprocessing, manifest.dimension, encoder.encode)


def of_flattened(encoder: Encoder) -> Subject:
    """The flattened code of an encoder whose embedding is pooled from it.

    Raises:
        EncoderError: it has none.
    """
    manifest = encoder.manifest
    if not isinstance(encoder, Flattening):
        raise EncoderError(f"{manifest.ref} has no flattened code")
    size = manifest.preprocessing.size
    dimension = encoder.encode_flattened(np.zeros((1, size, size, 3), np.uint8)).shape[1]
    description = f"{manifest.architecture}, flattened code before pooling"
    return Subject(manifest.ref + FLATTENED, description, manifest.preprocessing, dimension, encoder.encode_flattened)


def baselines() -> list[Subject]:
    """Raw pixels and a colour histogram."""
    return [_pixels(), _histogram()]


def _pixels() -> Subject:
    """The values of a 32 × 32 picture, in [-1, 1]."""
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(size=32, fit="stretch", resample="bilinear", mean=half, std=half)
    return Subject("pixels", "raw pixels at 32 × 32", preprocessing, 32 * 32 * 3, _encode_pixels, trained=False)


def _histogram() -> Subject:
    """Shares of hue, saturation and value in 12 × 4 × 4 bins.

    Their roots are compared: the cosine of two rows is then the Bhattacharyya coefficient of the distributions.
    """
    preprocessing = Preprocessing(size=96, fit="stretch", resample="box", mean=(0, 0, 0), std=(1, 1, 1))
    bins = int(np.prod(_HISTOGRAM_BINS))
    return Subject("histogram", "HSV colour histogram", preprocessing, bins, _encode_histogram, trained=False)


def _encode_pixels(batch: Pixels) -> Codes:
    return _unit(batch.reshape(len(batch), -1).astype(np.float32) - np.float32(127.5))


def _encode_histogram(batch: Pixels) -> Codes:
    counts = np.empty((len(batch), int(np.prod(_HISTOGRAM_BINS))), np.float32)
    for position, picture in enumerate(batch):
        hsv = np.asarray(Image.fromarray(picture).convert("HSV")).reshape(-1, 3)
        cells = np.ravel_multi_index(tuple((hsv.astype(np.int64) * _HISTOGRAM_BINS // 256).T), _HISTOGRAM_BINS)
        counts[position] = np.bincount(cells, minlength=counts.shape[1])
    return _unit(np.sqrt(counts))


def _unit(rows: Codes) -> Codes:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Codes = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit
