"""Which of the ranked pictures become hits. Pure: positions in, positions out; every vector has length 1."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.vectors.base import Hit

Vectors = NDArray[np.float32]


def best_of(found: Iterable[Sequence[Hit]], min_score: float) -> list[Hit]:
    """The best score of each picture over all query vectors, best first, equal scores by id."""
    best: dict[int, float] = {}
    for hits in found:
        for hit in hits:
            if hit.score >= min_score and hit.score > best.get(hit.id, -2.0):
                best[hit.id] = hit.score
    return sorted((Hit(image_id, score) for image_id, score in best.items()), key=lambda hit: (-hit.score, hit.id))


def first_of_each(keys: Iterable[Hashable]) -> list[int]:
    """Positions at which a key comes for the first time."""
    first: dict[Hashable, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    return list(first.values())


def far_apart(vectors: Vectors, threshold: float, most: int) -> list[int]:
    """Positions of the first `most` vectors (n, d) whose cosine with each one kept before is below a threshold."""
    kept: list[int] = []
    chosen = np.empty((min(most, len(vectors)), vectors.shape[1]), np.float32)
    for position, vector in enumerate(vectors):
        if len(kept) == most:
            break
        if not kept or float((chosen[: len(kept)] @ vector).max()) < threshold:
            chosen[len(kept)] = vector
            kept.append(position)
    return kept


def diversified(scores: Sequence[float], vectors: Vectors, diversity: float, most: int) -> list[int]:
    """Positions of the `most` best by maximal marginal relevance, in that order.

    Each next one maximises (1 - diversity) × score - diversity × its greatest cosine with those before it; of equal
    ones the earlier comes first.

    Carbonell and Goldstein: The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries. SIGIR 1998.

    Args:
        scores: cosines with the query (n).
        vectors: of the pictures (n, d).
    """
    relevance = (1 - diversity) * np.asarray(scores, np.float64)
    left = np.ones(len(relevance), bool)
    nearest = np.zeros(len(relevance))
    order: list[int] = []
    while len(order) < min(most, len(relevance)):
        worth = np.where(left, relevance - diversity * nearest, -np.inf)
        chosen = int(worth.argmax())
        left[chosen] = False
        cosines = (vectors @ vectors[chosen]).astype(np.float64)
        nearest = np.maximum(nearest, cosines) if order else cosines
        order.append(chosen)
    return order
