"""Hits whose truth is known: what queries find, and whether it is of the kind that they look for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.evaluation.metrics import Labels, Positions, Vectors, neighbours

HITS = 50
"""Of each query; pairs in the proportions that a search shows."""

_NO_COSINE = -1.5  # `neighbours` gives -2 for pictures that an encoder gave no direction


class Pairs(NamedTuple):
    """Queries with what they found, a row for each hit.

    Attributes:
        scores: cosines, float32 (n,).
        right: whether the hit is of the kind, (n,).
        queries: number of the query, (n,).
    """

    scores: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.int64]

    def take(self, chosen: npt.NDArray[np.bool_]) -> Pairs:
        """Some of the rows."""
        return Pairs(self.scores[chosen], self.right[chosen], self.queries[chosen])


def pairs_by_label(
    gallery: Vectors, gallery_labels: Labels, queries: Vectors, query_labels: Labels, *, own: Positions | None
) -> Pairs:
    """Hits, right where they have the query's label. Those without a label, -1, cannot be judged: they are left out.

    Args:
        own: (queries,), where the gallery holds each query itself, which is then not found.
    """
    known = np.flatnonzero(gallery_labels >= 0)
    asked = np.flatnonzero(query_labels >= 0)
    places = None if own is None else np.searchsorted(known, own[asked])
    found = neighbours(gallery[known], queries[asked], HITS, own=places)
    return _pairs(
        found.similarities, gallery_labels[known][found.positions] == query_labels[asked, None], queries[asked]
    )


def pairs_of_copies(gallery: Vectors, copies: Vectors, originals: Positions) -> Pairs:
    """Hits of altered copies, right where they are the copy's original.

    Args:
        copies: (alterations, copied, dimension).
        originals: (copied,), positions in the gallery.
    """
    queries = copies.reshape(-1, copies.shape[-1])
    found = neighbours(gallery, queries, HITS)
    return _pairs(found.similarities, found.positions == np.tile(originals, len(copies))[:, None], queries)


def _pairs(similarities: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], queries: Vectors) -> Pairs:
    """Rows of all hits but those of pictures that an encoder gave no direction: they have no cosine."""
    numbers = np.repeat(np.arange(len(queries)), similarities.shape[1])
    cosines = similarities.ravel() > _NO_COSINE
    pairs = Pairs(np.clip(similarities.ravel(), -1, 1), right.ravel(), numbers)
    return pairs.take(cosines & np.asarray(queries.any(axis=1))[numbers])
