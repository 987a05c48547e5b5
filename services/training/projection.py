"""Whitening: a projection that is fitted to what a trained network says of its pictures.

Source: Mikolajczyk and Matas, "Improving Descriptors for Fast Tree Matching by Optimal Linear Projection" (2007), as
in Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (2018): how vectors vary between views
of the same picture says what to play down. Here how they vary between labels, where there are any, says besides what
to play up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from services.datasets.load import UNLABELLED, Dataset
from services.encoders.normalisation import normalise, to_values
from services.encoders.pooling import Projection
from services.encoders.torch_encoder import largest_batch
from services.errors import EncoderError
from services.images.preprocess import Preprocessing
from services.training.augment import augment
from services.training.recipe import Whitening

# Pictures that variation is estimated from, and of how many of them a view is taken.
_PICTURES = 20_000
_VIEWS = 5_000
# Directions that hold less than this share of the strongest one's variance are no directions.
_FLOOR = 1e-7
# Part of all variation that counts as variation between views: directions that no view tells anything of are
# estimated badly, and would be blown up otherwise.
_SHRINKAGE = 0.5


class Pooling(Protocol):
    """A network with a vector before the projection."""

    def pooled(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (n, 3, s, s) to (n, pooled_width)."""
        ...


class Sample(NamedTuple):
    """What a network says of pictures: (n, inputs), with labels (n,), and of views of the first m: (m, inputs)."""

    vectors: Tensor
    labels: Tensor
    views: Tensor


@torch.inference_mode()
def fit_projection(
    encoder: Pooling,
    data: Dataset,
    preprocessing: Preprocessing,
    spec: Whitening,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Projection:
    """Fit a projection to the pooled vectors of pictures and of varied views of them.

    Raises:
        EncoderError: the pictures vary in fewer directions than the embedding shall have.
    """
    chosen = np.random.default_rng(seed).permutation(len(data))[:_PICTURES]
    generator = torch.Generator(device).manual_seed(seed)
    vectors, views = [], []
    count = largest_batch(preprocessing.size, device)
    for start in range(0, len(chosen), count):
        values = to_values(torch.from_numpy(data.pixels[chosen[start : start + count]]).to(device))
        vectors.append(encoder.pooled(normalise(values, preprocessing)).cpu().double())
        if start < _VIEWS:
            varied = augment(values, spec.views, preprocessing.size, generator)
            views.append(encoder.pooled(normalise(varied, preprocessing)).cpu().double())
        progress(min(start + count, len(chosen)), len(chosen))
    sample = Sample(torch.cat(vectors), torch.from_numpy(data.labels[chosen]), torch.cat(views))
    return whitened(sample, spec)


def whitened(sample: Sample, spec: Whitening) -> Projection:
    """The projection of a sample: variation between views is made equal in all directions, the strongest are kept.

    Raises:
        EncoderError: the vectors vary in fewer directions than the embedding shall have.
    """
    vectors, labels, views = sample
    mean = vectors.mean(dim=0)
    total = torch.cov((vectors - mean).T)
    strengths = torch.linalg.eigvalsh(total)
    usable = int((strengths > _FLOOR * strengths[-1]).sum())
    if usable < spec.dimension:
        raise EncoderError(
            f"the pictures vary in {usable} directions of {vectors.shape[1]}: "
            f"an embedding of {spec.dimension} numbers cannot be made of them; train on more pictures"
        )
    apart = vectors[: len(views)] - views
    between_views = apart.T @ apart
    disturbing = between_views / between_views.trace() + _SHRINKAGE * total / total.trace()
    variances, directions = torch.linalg.eigh(disturbing)
    flat = directions * variances.clamp(min=_FLOOR * variances[-1]).rsqrt()

    telling = total + spec.labels * _between_labels(vectors, labels, mean)
    strength, rotation = torch.linalg.eigh(flat.T @ telling @ flat)
    kept = flat @ rotation[:, -spec.dimension :].flip(1)
    # As strong as if what tells labels apart varied `labels` times more than it does.
    scale = (strength[-spec.dimension :].flip(0) / torch.einsum("id,ij,jd->d", kept, total, kept)).sqrt()
    projection = Projection(vectors.shape[1], spec.dimension)
    projection.mean.copy_(mean)
    projection.matrix.copy_((kept * scale).T)
    return projection


def _between_labels(vectors: Tensor, labels: Tensor, mean: Tensor) -> Tensor:
    """Covariance (inputs, inputs) of the means of labels, weighted by their pictures."""
    known = labels != UNLABELLED
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=vectors.dtype)
    for label in np.unique(labels[known].numpy()):
        members = vectors[labels == int(label)]
        away = members.mean(dim=0) - mean
        covariance += len(members) / len(vectors) * torch.outer(away, away)
    return covariance
