"""Retrieval with known answers: is the original the first that its altered copy finds?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.datasets.source import Picture
from services.errors import ImageRejected
from services.evaluation.alterations import ALTERATIONS, altered
from services.evaluation.embed import ahead, call_on, distinct, piece_size, room
from services.evaluation.metrics import Positions, Vectors, ranks
from services.evaluation.subjects import Subject
from services.images.pool import DecodePool
from services.images.preprocess import Pixels

Copies = list[list[Pixels]]

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
    specs = distinct(subjects)
    codes = [room(len(ALTERATIONS) * len(to_copy), subject.dimension) for subject in subjects]
    step = piece_size(specs, len(ALTERATIONS))
    copied: list[int] = []

    def pieces() -> Iterator[list[tuple[int, Copies | ImageRejected]]]:
        for start in range(0, len(to_copy), step):
            numbered = [(int(position), pictures[position]) for position in to_copy[start : start + step]]
            yield call_on(numbered, pool, altered, seed, specs)

    handled = 0
    for piece in ahead(pieces()):
        made = [(position, copies) for position, copies in piece if not isinstance(copies, ImageRejected)]
        for subject, codes_of_subject in zip(subjects, codes, strict=True):
            place = specs.index(subject.preprocessing)
            for number in range(len(ALTERATIONS)):
                if made:
                    top = number * len(to_copy) + len(copied)
                    pixels = np.stack([copies[number][place] for _, copies in made])
                    codes_of_subject[top : top + len(made)] = subject.encode(pixels)
        copied += [position for position, _ in made]
        handled += len(piece)
        progress(handled, len(to_copy))

    if not copied:
        return Instances(0, len(originals), [[] for _ in subjects])
    answers = np.searchsorted(originals, np.array(copied, np.int64))
    metrics = []
    for every, codes_of_subject in zip(vectors, codes, strict=True):
        gallery = _take(every, originals)
        tops = range(0, len(codes_of_subject), len(to_copy))
        found = [ranks(gallery, codes_of_subject[top : top + len(copied)], answers) for top in tops]
        metrics.append([_figures(altering.name, rank) for altering, rank in zip(ALTERATIONS, found, strict=True)])
    return Instances(len(copied), len(originals), metrics)


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
