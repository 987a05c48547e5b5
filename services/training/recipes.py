"""Recipes: each a named function that returns one complete configuration. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from services.errors import NotFound
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
    """Project the pooled numbers to an embedding in which no direction shouts the others down."""

    dimension: int
    strength: float = 1.0
    """1 gives every direction the same variance, 0 only rotates to principal components."""


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


def _centred(size: int, *, fit: Literal["stretch", "crop", "pad"] = "stretch", **more: Any) -> Preprocessing:
    """Square pictures with values in [-1, 1]."""
    half = (0.5, 0.5, 0.5)
    return Preprocessing(size=size, fit=fit, resample="bilinear", mean=half, std=half, **more)


def conv_ae_200() -> Recipe:
    """The convolutional autoencoder of the Paperspace article: 32 × 32 pictures, codes of 200 numbers."""
    return Recipe(
        name="conv-ae-200",
        summary="convolutional autoencoder for 32 × 32 pictures (CIFAR-10), code of 200 numbers, MSE",
        architecture="conv-ae",
        options={"bottleneck": 200},
        preprocessing=_centred(32),
        objective=Reconstruction("mse"),
        optimiser=Optimiser("adam", 1e-3),
        epochs=10,
        batch_size=64,
        held_out=0.1,
    )


def conv_ae_1000() -> Recipe:
    """The same with codes of 1,000 numbers, for 15 epochs; the article looks at it after 10 as well."""
    return replace(
        conv_ae_200(),
        name="conv-ae-1000",
        summary="the same with a code of 1,000 numbers",
        options={"bottleneck": 1000},
        epochs=15,
    )


def conv_ae_64() -> Recipe:
    """The same with a smaller code: a third of the memory of 200 numbers."""
    return replace(
        conv_ae_200(), name="conv-ae-64", summary="the same with a code of 64 numbers", options={"bottleneck": 64}
    )


def folder_ae_512() -> Recipe:
    """The autoencoder for any folder of photographs: five stages, a code of 65,536 numbers, pooled to 256."""
    return Recipe(
        name="folder-ae-512",
        summary="autoencoder for a folder of photographs at 512 × 512, code of 65,536 numbers, MSE",
        architecture="folder-ae",
        options={"pool": "avg"},
        preprocessing=_centred(512),
        objective=Reconstruction("mse"),
        optimiser=Optimiser("adam", 1e-3),
        epochs=30,
        batch_size=32,
        held_out=0.25,
        patience=5,
    )


def vgg_ae_448() -> Recipe:
    """The autoencoder with seven VGG-like convolutions: a code of 802,816 numbers, pooled to 256."""
    return Recipe(
        name="vgg-ae-448",
        summary="VGG-like autoencoder for a small folder at 448 × 448, code of 802,816 numbers, L1",
        architecture="vgg-ae",
        options={"pool": "avg"},
        # Preprocessing to (x - 127.5) / 127.5, as in the article, is what _centred does.
        preprocessing=_centred(448),
        objective=Reconstruction("l1"),
        optimiser=Optimiser("adam", 1e-4),
        epochs=200,
        batch_size=13,
        held_out=0.1,
        mixed_precision=True,
        patience=20,
    )


def fashion_ae_2d() -> Recipe:
    """The autoencoder of Fashion-MNIST with a latent plane: 28 × 28 in a black frame to 32 × 32, grey."""
    return Recipe(
        name="fashion-ae-2d",
        summary="autoencoder of Fashion-MNIST with a latent plane to look at, MSE",
        architecture="fashion-ae",
        options={"latent": 2},
        preprocessing=_centred(32, margin=2, background=(0, 0, 0)),
        objective=Reconstruction("mse"),
        optimiser=Optimiser("adamw", 1e-3, weight_decay=1e-5),
        epochs=25,
        batch_size=64,
        held_out=0.1,
        mixed_precision=True,
    )


def contrastive_cifar() -> Recipe:
    """Self-supervised SimCLR on a small residual network for 32 × 32 pictures."""
    return Recipe(
        name="contrastive-cifar",
        summary="SimCLR without labels, small ResNet for 32 × 32 pictures",
        architecture="resnet",
        options={"stem": 32, "stem_stride": 1, "widths": [32, 64, 128, 256], "blocks": [1, 1, 1, 1]},
        preprocessing=_centred(32),
        objective=Contrastive("simclr", Augmentation(), view_size=32),
        optimiser=Optimiser("adamw", 2e-3, weight_decay=0.01, schedule="cosine"),
        epochs=200,
        batch_size=512,
        held_out=0.1,
        keep="last",
        mixed_precision=True,
    )


def metric_photo() -> Recipe:
    """What ships as the default: a cosine classifier over labelled photographs, stages pooled and whitened."""
    return Recipe(
        name="metric-photo",
        summary="cosine classifier on labelled photographs, stages pooled and whitened to 256 numbers",
        architecture="resnet",
        options={
            "stem": 32,
            "stem_stride": 2,
            "widths": [64, 128, 256],
            "blocks": [1, 1, 1],
            "pool": "gem",
            "pooled_stages": 3,
        },
        preprocessing=_centred(96),
        objective=Metric(
            "normalised-softmax",
            # Colour is much of what makes products look alike: it is varied as light varies it, not away.
            Augmentation(scale=(0.25, 1.0), jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.01),
            view_sizes=((0.6, 48), (1.0, 64)),
        ),
        optimiser=Optimiser("adamw", 2e-3, weight_decay=0.05, schedule="cosine"),
        epochs=20,
        batch_size=128,
        held_out=0.1,
        whitening=Whitening(256),
        mixed_precision=True,
    )


_ALL = (
    conv_ae_200,
    conv_ae_1000,
    conv_ae_64,
    folder_ae_512,
    vgg_ae_448,
    fashion_ae_2d,
    contrastive_cifar,
    metric_photo,
)
RECIPES: dict[str, Callable[[], Recipe]] = {recipe().name: recipe for recipe in _ALL}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        NotFound: there is none; the message names those that exist.
    """
    if name not in RECIPES:
        raise NotFound(f"no recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]()
