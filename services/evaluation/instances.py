"""Retrieval with known answers: is the original the first that its altered copy finds?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.datasets.source import Picture
from services.evaluation.alterations import ALTERATIONS
from services.evaluation.copies import embed_copies
from services.evaluation.embed import room
from services.evaluation.metrics import Positions, Vectors, ranks
from services.evaluation.subjects import Subject
from services.images.pool import DecodePool

_TAKEN_TOGETHER = 64


@dataclass(frozen=True)
class InstanceMetrics:
    """How well an encoder sees through one alteration.

    Attributes:
        alteration: its name in ALTERATIONS.
        recall_1: share of the copies that find their original first.
        mean_reciprocal_rank: mean of 1 / rank of the original.
    """

    alteration: str
    recall_1: float
    mean_reciprocal_rank: float


@dataclass(frozen=True)
class Instances:
    """Figures of each subject for each alteration; how many pictures were copied, and found among how many."""

    copied: int
    originals: int
    metrics: list[list[InstanceMetrics]]


def draw(total: int, copyable: int, copied: int, originals: int, seed: int) -> tuple[Positions, Positions]:
    """Choose the originals among `total` pictures, and those of them that are copied among the first `copyable`.

    Args:
        copied: at most so many are copied.
        originals: at most so many in all; those that are copied are among them in any case.

    Returns:
        Positions of the originals and of the copied, both sorted.
    """
    random = np.random.default_rng(seed)
    to_copy = np.sort(random.choice(copyable, min(copyable, copied), replace=False))
    rest = np.setdiff1d(np.arange(total), to_copy)
    others = random.choice(rest, max(0, min(len(rest), originals - len(to_copy))), replace=False)
    return np.sort(np.concatenate([to_copy, others])), to_copy


def measure_instances(
    pictures: Sequence[Picture],
    vectors: Sequence[Vectors],
    subjects: Sequence[Subject],
    *,
    drawn: tuple[Positions, Positions],
    pool: DecodePool,
    seed: int,
    progress: Callable[[int, int], None],
) -> Instances:
    """Alter pictures, encode what comes of it, and look for the originals.

    A picture that cannot be altered within the limits of the pool is not counted.

    Args:
        vectors: for each subject those of the pictures (pictures, dimension).
        drawn: positions of the originals and of those that are copied; see `draw`.
        progress: called with the pictures handled so far and their total.

    Raises:
        ConfigurationError: there is not enough room for the vectors.
        Unavailable: no decoding process can be started.
    """
    originals, to_copy = drawn
    copies = embed_copies(pictures, to_copy, subjects, pool=pool, seed=seed, progress=progress)
    copied = len(copies.originals)
    if not copied:
        return Instances(0, len(originals), [[] for _ in subjects])
    answers = np.searchsorted(originals, copies.originals)
    metrics = []
    for every, codes_of_subject in zip(vectors, copies.vectors, strict=True):
        gallery = _take(every, originals)
        found = [ranks(gallery, codes, answers) for codes in codes_of_subject]
        metrics.append([_figures(altering.name, rank) for altering, rank in zip(ALTERATIONS, found, strict=True)])
    return Instances(copied, len(originals), metrics)


def _figures(alteration: str, ranking: Positions) -> InstanceMetrics:
    return InstanceMetrics(alteration, float((ranking == 1).mean()), float((1 / ranking).mean()))


def _take(vectors: Vectors, positions: Positions) -> Vectors:
    """Rows of vectors, in pieces: they may not fit in memory."""
    if len(positions) == len(vectors):
        return vectors
    taken = room(len(positions), vectors.shape[1])
    for start in range(0, len(positions), _TAKEN_TOGETHER):
        rows = slice(start, start + _TAKEN_TOGETHER)
        taken[rows] = vectors[positions[rows]]
    return taken
