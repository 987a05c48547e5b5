"""Whitening: a projection that is fitted to what a trained network says of its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from services.datasets.load import Dataset
from services.encoders.pooling import Projection
from services.encoders.torch_encoder import to_input
from services.errors import EncoderError
from services.images.preprocess import Preprocessing
from services.training.recipes import Whitening

# Directions that hold less than this share of the strongest one's variance are noise, and are not blown up.
_FLOOR = 1e-4
# Pictures that the covariance is estimated from, and at once.
_PICTURES = 20_000
_BATCH = 128


class Pooling(Protocol):
    """A network with a vector before the projection."""

    def pooled(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (n, 3, s, s) to (n, pooled_width)."""
        ...


@torch.inference_mode()
def fit_projection(
    encoder: Pooling,
    data: Dataset,
    preprocessing: Preprocessing,
    spec: Whitening,
    *,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Projection:
    """Fit a projection to the pooled vectors of pictures: principal components, scaled towards equal variance.

    Source: Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
    whitening" (2012).

    Raises:
        EncoderError: the pictures vary in fewer directions than the embedding shall have.
    """
    chosen = np.linspace(0, len(data) - 1, min(_PICTURES, len(data))).astype(np.int64)
    vectors = []
    for start in range(0, len(chosen), _BATCH):
        pixels = torch.from_numpy(data.pixels[chosen[start : start + _BATCH]]).to(device)
        vectors.append(encoder.pooled(to_input(pixels, preprocessing)).double().cpu())
        progress(min(start + _BATCH, len(chosen)), len(chosen))
    return whitened(torch.cat(vectors), spec)


def whitened(vectors: Tensor, spec: Whitening) -> Projection:
    """The projection for vectors of shape (n, inputs)."""
    mean = vectors.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((vectors - mean).T))
    variances, directions = variances.flip(0), directions.flip(1)
    usable = int((variances > _FLOOR * variances[0]).sum())
    if usable < spec.dimension:
        raise EncoderError(
            f"the pictures vary in {usable} directions of {vectors.shape[1]}: "
            f"an embedding of {spec.dimension} numbers cannot be made of them; train on more pictures"
        )
    kept = variances[: spec.dimension]
    projection = Projection(vectors.shape[1], spec.dimension)
    projection.mean.copy_(mean)
    projection.matrix.copy_((directions[:, : spec.dimension] * kept.pow(-spec.strength / 2)).T)
    return projection
