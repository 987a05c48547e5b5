"""Recipes: each a named function that returns one complete configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.errors import NotFound
from services.images.preprocess import Preprocessing


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training gives, apart from the data."""

    name: str
    bottleneck: int
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    learning_rate: float
    held_out: float
    """Share of the pictures that are kept for validation."""
    seed: int


def conv_ae_200() -> Recipe:
    """The convolutional autoencoder of the Paperspace article: 32 × 32 pictures, codes of 200 numbers."""
    return Recipe(
        name="conv-ae-200",
        bottleneck=200,
        preprocessing=Preprocessing(
            version=1,
            size=32,
            fit="stretch",
            resample="bilinear",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        epochs=10,
        batch_size=64,
        learning_rate=1e-3,
        held_out=0.1,
        seed=0,
    )


def conv_ae_64() -> Recipe:
    """The same with a smaller code: a third of the memory."""
    return replace(conv_ae_200(), name="conv-ae-64", bottleneck=64)


RECIPES: dict[str, Callable[[], Recipe]] = {"conv-ae-200": conv_ae_200, "conv-ae-64": conv_ae_64}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        NotFound: there is none; the message names those that exist.
    """
    if name not in RECIPES:
        raise NotFound(f"no recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]()
