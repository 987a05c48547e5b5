"""What a recipe says: everything that decides what a training gives, apart from the data. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from services.images.preprocess import Preprocessing
from services.training.augmentation import Augmentation

Method = Literal["simclr", "vicreg", "byol", "fastsiam", "dino"]
MetricLoss = Literal["proxy-anchor", "triplet", "multi-similarity", "normalised-softmax"]


@dataclass(frozen=True)
class Optimiser:
    """How weights follow gradients. With a cosine schedule the rate rises over the warm-up and falls to nothing."""

    name: Literal["adam", "adamw", "sgd"]
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up: float = 0.05
    """Share of the steps, of a cosine schedule."""


@dataclass(frozen=True)
class Reconstruction:
    """Learn by drawing the picture again from its code."""

    loss: Literal["mse", "l1"]


@dataclass(frozen=True)
class Contrastive:
    """Learn without labels, by telling views of one picture from those of others."""

    method: Method
    augmentation: Augmentation
    view_size: int
    """Side of the views that are compared, in pixels; smaller than the input saves time."""
    views: int = 2
    temperature: float = 0.5
    """Of SimCLR: what Chen et al. found best for CIFAR-10 in long trainings; lower learns faster at first."""


@dataclass(frozen=True)
class Metric:
    """Learn from labels or item ids: the same label is near, another is far."""

    loss: MetricLoss
    augmentation: Augmentation
    view_sizes: tuple[tuple[float, int], ...]
    """(share of the training, side in pixels): small views first save time. The last share is 1."""
    per_class: int | None = None
    """Pictures of each class in a batch; without it batches are drawn from all."""


Objective = Reconstruction | Contrastive | Metric


@dataclass(frozen=True)
class Whitening:
    """Project the pooled numbers to an embedding in which no direction shouts the others down.

    Attributes:
        dimension: numbers of the embedding.
        views: what changes a picture without making it another; how vectors vary with it is played down.
        labels: how many times more than it does what tells labels apart shall vary; without labels of no effect.
    """

    dimension: int
    views: Augmentation
    labels: float = 10.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training gives, apart from the data."""

    name: str
    summary: str
    architecture: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    objective: Objective
    optimiser: Optimiser
    epochs: int
    batch_size: int
    held_out: float
    """Share of the pictures that are kept for validation."""
    seed: int = 0
    whitening: Whitening | None = None
    keep: Literal["best", "last"] = "best"
    """Which epoch: the one of lowest validation loss, or the last where that loss says nothing of the encoder."""
    mixed_precision: bool = False
    patience: int | None = None
    """Epochs without a better validation after which the training stops."""
