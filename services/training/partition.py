"""Which pictures are trained on, and which are held out to judge by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from services.datasets.load import UNLABELLED, Dataset, Unreadable
from services.datasets.split import Positions, split
from services.errors import InvalidRequest
from services.training.recipe import Metric, Recipe, Reconstruction

# So many labels are enough to hold some of them out as a whole.
_MANY_LABELS = 5


def partition(pictures: Dataset, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Pictures to train on and pictures held out, the same for the same seed.

    Pictures without a label are no use to a recipe that learns from labels: they join the unreadable. Where labels
    have so few pictures that those held out would hardly find another of theirs, whole labels are held out.

    Raises:
        InvalidRequest: too few pictures, or too few labels with several.
    """
    if isinstance(recipe.objective, Reconstruction):
        return _parts(pictures, *split(len(pictures), recipe.held_out, recipe.seed))
    if isinstance(recipe.objective, Metric):
        pictures = _labelled(pictures)
        counts = np.bincount(pictures.labels, minlength=len(pictures.classes))
        if (counts > 1).sum() < 2:
            raise InvalidRequest(
                f"{recipe.name} learns from labels: put the pictures into one folder a class or item, "
                f"several into at least two of them (found {(counts > 0).sum()} folders)"
            )
        labels = int((counts > 0).sum())
        if np.median(counts[counts > 0]) * recipe.held_out < 2 and labels >= _MANY_LABELS:
            return _parts(pictures, *_split_labels(pictures, recipe))
        # One picture more than labels: then two of them are of the same label, and one can be looked for.
        return _some(pictures, recipe, labels + 1)
    return _some(pictures, recipe, 2)


def _some(pictures: Dataset, recipe: Recipe, least: int) -> tuple[Dataset, Dataset]:
    """Hold out the share of the recipe, and no fewer pictures than that; as many are trained on."""
    if len(pictures) < 2 * least:
        raise InvalidRequest(f"{recipe.name} needs at least {2 * least} pictures, found {len(pictures)}")
    share = max(recipe.held_out, least / len(pictures))
    return _parts(pictures, *split(len(pictures), share, recipe.seed))


def _parts(pictures: Dataset, trained_on: Positions, held_out: Positions) -> tuple[Dataset, Dataset]:
    return pictures.take(trained_on), pictures.take(held_out)


def _labelled(pictures: Dataset) -> Dataset:
    """The pictures that have a label; the others are listed as left out."""
    without = [
        Unreadable(name, "no label: it lies in no folder")
        for name, label in zip(pictures.names, pictures.labels, strict=True)
        if label == UNLABELLED
    ]
    if not without:
        return pictures
    kept = pictures.take(np.flatnonzero(pictures.labels != UNLABELLED))
    return replace(kept, unreadable=[*pictures.unreadable, *without])


def _split_labels(pictures: Dataset, recipe: Recipe) -> tuple[Positions, Positions]:
    """Hold out the share of the recipe in whole labels, at least one that has two pictures."""
    counts = np.bincount(pictures.labels)
    order = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(counts))
    order = order[np.argsort(counts[order] < 2, kind="stable")]  # those that cannot be searched for come last
    enough = int(np.searchsorted(np.cumsum(counts[order]), recipe.held_out * len(pictures))) + 1
    held = np.isin(pictures.labels, order[: min(enough, len(order) - 2)])
    return np.flatnonzero(~held), np.flatnonzero(held)
