"""The recipes: each a named function that returns one complete configuration. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from services.errors import NotFound
from services.images.preprocess import Preprocessing
from services.training.augmentation import Augmentation
from services.training.recipe import (
    Contrastive,
    Method,
    Metric,
    MetricLoss,
    Optimiser,
    Recipe,
    Reconstruction,
    Whitening,
)


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
        summary="convolutional autoencoder for 32 × 32 pictures (CIFAR-10), code of 1,000 numbers, MSE",
        options={"bottleneck": 1000},
        epochs=15,
    )


def conv_ae_64() -> Recipe:
    """The same with a smaller code: a third of the memory of 200 numbers."""
    return replace(
        conv_ae_200(),
        name="conv-ae-64",
        summary="convolutional autoencoder for 32 × 32 pictures (CIFAR-10), code of 64 numbers, MSE",
        options={"bottleneck": 64},
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


_SIMCLR_COLOURS = Augmentation(
    scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, greyscale=0.2
)
# Colour is much of what makes products look alike: it is varied as light varies it, not away.
_PHOTO_COLOURS = Augmentation(scale=(0.25, 1.0), jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.01)
# The authors of BYOL and DINO blur and solarise as well: both methods learn from what stays the same alone.
_BLURRED = replace(_PHOTO_COLOURS, blur=0.5, blur_sigma=(0.1, 1.0), solarise=0.1)
# Harder than what the network is trained with: how far details carry shows where little of a picture is left.
_CLOSE_UPS = replace(_PHOTO_COLOURS, scale=(0.2, 0.7))
_PHOTO_NETWORK = {
    "stem": 32,
    "stem_stride": 2,
    "widths": [64, 128, 256],
    "blocks": [1, 1, 1],
    "pool": "gem",
    "pooled_stages": 3,
}


def contrastive_cifar() -> Recipe:
    """SimCLR on a residual network for 32 × 32 pictures, with its authors' colours and crops of a fifth and more."""
    return Recipe(
        name="contrastive-cifar",
        summary="SimCLR without labels: ResNet for 32 × 32 pictures, for a GPU",
        architecture="resnet",
        options={"stem": 64, "stem_stride": 1, "widths": [64, 128, 256, 512], "blocks": [2, 2, 2, 2]},
        preprocessing=_centred(32),
        objective=Contrastive("simclr", _SIMCLR_COLOURS, view_size=32),
        optimiser=Optimiser("sgd", 0.12, weight_decay=5e-4, schedule="cosine"),
        epochs=400,
        batch_size=512,
        held_out=0.1,
        keep="last",
        mixed_precision=True,
    )


def contrastive_cifar_small() -> Recipe:
    """The same for a CPU: a network a tenth of the size, whose stem halves the sides at once, and few epochs."""
    return replace(
        contrastive_cifar(),
        name="contrastive-cifar-small",
        summary="SimCLR without labels: a ResNet small enough for a CPU, stages pooled and whitened",
        # Two wide stages that end at 4 by 4 learn more in the same time than three that end at 2 by 2.
        options={"stem": 48, "stem_stride": 2, "widths": [128, 256], "blocks": [1, 1], "pooled_stages": 2},
        objective=Contrastive("simclr", _SIMCLR_COLOURS, view_size=32, temperature=0.2),
        optimiser=Optimiser("adamw", 2e-3, weight_decay=0.01, schedule="cosine"),
        epochs=18,
        batch_size=256,
        whitening=Whitening(256, _SIMCLR_COLOURS, labels=0),
    )


def contrastive_photo() -> Recipe:
    """VICReg for a shop's own unlabelled photographs; colours vary little, so that they are kept."""
    return Recipe(
        name="contrastive-photo",
        summary="VICReg without labels on any photographs, stages pooled and whitened to 256 numbers",
        architecture="resnet",
        options=_PHOTO_NETWORK,
        preprocessing=_centred(96),
        objective=Contrastive("vicreg", _PHOTO_COLOURS, view_size=64),
        optimiser=Optimiser("adamw", 1e-3, weight_decay=0.01, schedule="cosine"),
        epochs=100,
        batch_size=256,
        held_out=0.1,
        whitening=Whitening(256, _CLOSE_UPS, labels=0),
        keep="last",
        mixed_precision=True,
    )


def contrastive_photo_byol() -> Recipe:
    """BYOL, which needs no other pictures to tell one from: for sets in which many are nearly the same."""
    return _contrastive("contrastive-photo-byol", "byol", "BYOL", _BLURRED)


def contrastive_photo_fastsiam() -> Recipe:
    """FastSiam: several views a picture, for small batches and few epochs."""
    return _contrastive("contrastive-photo-fastsiam", "fastsiam", "FastSiam", _PHOTO_COLOURS, views=4)


def contrastive_photo_dino() -> Recipe:
    """DINO: a student learns what its own slow average says."""
    return _contrastive("contrastive-photo-dino", "dino", "DINO", _BLURRED)


def metric_photo() -> Recipe:
    """What ships as the default: a cosine classifier over labelled photographs, stages pooled and whitened."""
    return Recipe(
        name="metric-photo",
        summary="cosine classifier on labelled photographs, stages pooled and whitened to 256 numbers; the default",
        architecture="resnet",
        options=_PHOTO_NETWORK,
        preprocessing=_centred(96),
        objective=Metric("normalised-softmax", _PHOTO_COLOURS, view_sizes=((0.6, 48), (1.0, 64))),
        optimiser=Optimiser("adamw", 2e-3, weight_decay=0.05, schedule="cosine"),
        epochs=20,
        batch_size=128,
        held_out=0.1,
        whitening=Whitening(256, _CLOSE_UPS),
        mixed_precision=True,
    )


def metric_proxy_anchor() -> Recipe:
    """Proxy-Anchor: each label has a proxy, which all pictures of a batch are drawn to or pushed from."""
    return _metric("metric-proxy-anchor", "proxy-anchor", "Proxy-Anchor")


def metric_triplet() -> Recipe:
    """Deep ranking: a picture is nearer to one of its label than to one of another, by a margin."""
    return _metric("metric-triplet", "triplet", "deep ranking by triplets")


def metric_multi_similarity() -> Recipe:
    """Multi-similarity: pairs weigh as much as they are hard, among all pairs of a batch."""
    return _metric("metric-multi-similarity", "multi-similarity", "multi-similarity")


def _contrastive(name: str, method: Method, title: str, augmentation: Augmentation, views: int = 2) -> Recipe:
    return replace(
        contrastive_photo(),
        name=name,
        summary=f"{title} without labels on any photographs, stages pooled and whitened to 256 numbers",
        objective=Contrastive(method, augmentation, view_size=64, views=views),
    )


def _metric(name: str, loss: MetricLoss, title: str) -> Recipe:
    """Items with several pictures each: batches have four pictures of each of some labels."""
    return replace(
        metric_photo(),
        name=name,
        summary=f"{title} on labels or item ids, four pictures of each in a batch",
        objective=Metric(loss, _PHOTO_COLOURS, view_sizes=((0.6, 48), (1.0, 64)), per_class=4),
    )


_ALL = (
    conv_ae_200,
    conv_ae_1000,
    conv_ae_64,
    folder_ae_512,
    vgg_ae_448,
    fashion_ae_2d,
    contrastive_cifar,
    contrastive_cifar_small,
    contrastive_photo,
    contrastive_photo_byol,
    contrastive_photo_fastsiam,
    contrastive_photo_dino,
    metric_photo,
    metric_proxy_anchor,
    metric_triplet,
    metric_multi_similarity,
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
