"""Figures from vectors and labels, all read off one ranking of the gallery for each query.

Vectors are rows of length 1, float32 or float16, possibly memory maps; similarity is their cosine. Equally
similar pictures rank by their position in the gallery, so that equal vectors give equal figures anywhere. A row of
zeros is a picture that an encoder could give no direction: in the gallery it ranks last, as a query it finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32] | npt.NDArray[np.float16]
Labels = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]

VOTERS = 20
TEMPERATURE = 0.1

# Similarities that are held at a time: half a gigabyte in all, with what is worked out from them.
_BLOCK_NUMBERS = 8 * 1024**2
# Numbers of the gallery that are multiplied at a time, as float32, and the longest piece of one row among them.
_GALLERY_NUMBERS = 16 * 1024**2
_ROW_NUMBERS = 64 * 1024

_NO_DIRECTION = -2.0  # below any cosine
_ITSELF = -np.inf


class Neighbours(NamedTuple):
    """The most similar pictures of the gallery for each query, best first, both (queries, k)."""

    positions: Positions
    similarities: Similarities


@dataclass(frozen=True)
class LabelMetrics:
    """How often what looks alike has the same label. Shares from 0 to 1, means over the queries.

    Attributes:
        knn_1: share of queries whose nearest picture has their label.
        knn_20: share of queries whose label wins the vote of the 20 nearest; see `vote`.
        precision_10: share of the ten nearest that have the query's label.
        recall_1, recall_5, recall_10: share of queries with at least one of their label among the first k.
        mean_average_precision: over the ranking of the whole gallery.
        queries: how many were asked.
        unanswerable: queries left out of all figures because the gallery has no picture of their label.
    """

    knn_1: float
    knn_20: float
    precision_10: float
    recall_1: float
    recall_5: float
    recall_10: float
    mean_average_precision: float
    queries: int
    unanswerable: int


def label_metrics(
    gallery: Vectors,
    gallery_labels: Labels,
    queries: Vectors,
    query_labels: Labels,
    *,
    own: Positions | None = None,
) -> LabelMetrics:
    """Rank the whole gallery for each query and read off all figures.

    Args:
        own: (queries,), where the gallery holds each query itself, which is then not found.

    Raises:
        ValueError: shapes do not fit, a label is negative, or no query has an answer.
    """
    _check_labels(gallery, gallery_labels)
    _check_labels(queries, query_labels)
    classes = int(max(gallery_labels.max(initial=0), query_labels.max(initial=0))) + 1
    answers = np.bincount(gallery_labels, minlength=classes)[query_labels] - int(own is not None)
    if not (answers > 0).any():
        raise ValueError("the gallery has no picture of any query's label")
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    for rows, similarities in _similarities(gallery, queries, own):
        order = _ranking(similarities)
        if own is not None:
            order = order[:, :-1]
        directed = _directed(queries[rows])
        relevant = (gallery_labels[order] == query_labels[rows, None]) & directed[:, None]
        nearest = order[:, :VOTERS]
        voted = vote(gallery_labels[nearest], np.take_along_axis(similarities, nearest, 1), classes)
        figures = {
            "knn_1": relevant[:, 0],
            "knn_20": (voted == query_labels[rows]) & directed,
            "precision_10": relevant[:, :10].mean(axis=1),
            **{f"recall_{k}": relevant[:, :k].any(axis=1) for k in (1, 5, 10)},
            "mean_average_precision": _average_precision(relevant, answers[rows]),
        }
        for name, values in figures.items():
            found.setdefault(name, []).append(values[answers[rows] > 0].astype(np.float64))
    means = {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}
    asked = int((answers > 0).sum())
    return LabelMetrics(**means, queries=asked, unanswerable=len(queries) - asked)


def vote(labels: Labels, similarities: Similarities, classes: int, temperature: float = TEMPERATURE) -> Labels:
    """The label of each row (n, k) with the greatest sum of exp(similarity / temperature); of equals the first.

    Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination (2018), as in
    lightly's benchmarks.
    """
    weights = np.exp(similarities.astype(np.float64) / temperature)
    flat = np.arange(len(labels))[:, None] * classes + labels
    sums = np.bincount(flat.ravel(), weights.ravel(), minlength=len(labels) * classes)
    winners: Labels = sums.reshape(len(labels), classes).argmax(axis=1)
    return winners


def neighbours(gallery: Vectors, queries: Vectors, k: int, *, own: Positions | None = None) -> Neighbours:
    """The k most similar pictures for each query; all of them where the gallery has fewer.

    Args:
        own: (queries,), where the gallery holds each query itself, which is then not found.

    Raises:
        ValueError: the dimensions differ, or the gallery is empty.
    """
    k = min(k, len(gallery) - int(own is not None))
    positions = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), np.float32)
    for rows, similarities in _similarities(gallery, queries, own):
        positions[rows] = _ranking(similarities, k)
        values[rows] = np.take_along_axis(similarities, positions[rows], 1)
    return Neighbours(positions, values)


def ranks(gallery: Vectors, queries: Vectors, answers: Positions) -> Positions:
    """Where each query's one right answer ranks, 1 for the first; last for a query of zeros.

    Args:
        answers: (queries,), positions in the gallery.

    Raises:
        ValueError: the dimensions differ, or the gallery is empty.
    """
    found = np.empty(len(queries), np.int64)
    for rows, similarities in _similarities(gallery, queries, None):
        own = np.take_along_axis(similarities, answers[rows, None], 1)
        earlier = np.arange(len(gallery)) < answers[rows, None]
        before = (similarities > own) | ((similarities == own) & earlier)
        found[rows] = np.where(_directed(queries[rows]), before.sum(axis=1) + 1, len(gallery))
    return found


def _average_precision(relevant: npt.NDArray[np.bool_], answers: Positions) -> npt.NDArray[np.float64]:
    """Mean of the precisions at the ranks of the right answers; 0 where there are none."""
    hits = np.cumsum(relevant, axis=1, dtype=np.int32)
    precisions = np.where(relevant, hits / np.arange(1, relevant.shape[1] + 1), 0.0)
    average: npt.NDArray[np.float64] = precisions.sum(axis=1) / np.maximum(answers, 1)
    return average


def _similarities(gallery: Vectors, queries: Vectors, own: Positions | None) -> Iterator[tuple[slice, Similarities]]:
    """Runs of queries with their cosines to the whole gallery, (run, gallery)."""
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise ValueError(f"a gallery of shape {gallery.shape} does not answer queries of shape {queries.shape}")
    if len(gallery) <= int(own is not None):
        raise ValueError("the gallery is empty")
    directed = _directed(gallery)
    step = max(1, _BLOCK_NUMBERS // len(gallery))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        similarities = _products(gallery, queries[rows])
        similarities[:, ~directed] = _NO_DIRECTION
        if own is not None:
            similarities[np.arange(len(similarities)), own[rows]] = _ITSELF
        yield rows, similarities


def _products(gallery: Vectors, queries: Vectors) -> Similarities:
    """Inner products (queries, gallery), in pieces: codes of 800,000 numbers do not fit in memory as float32."""
    products = np.zeros((len(queries), len(gallery)), np.float32)
    width = min(gallery.shape[1], _ROW_NUMBERS)
    height = _GALLERY_NUMBERS // max(1, width)
    for left in range(0, gallery.shape[1], width):
        columns = slice(left, left + width)
        asked = queries[:, columns].astype(np.float32, copy=False)
        for top in range(0, len(gallery), height):
            rows = slice(top, top + height)
            products[:, rows] += asked @ gallery[rows, columns].astype(np.float32, copy=False).T
    return products


def _ranking(similarities: Similarities, k: int | None = None) -> Positions:
    """Positions by falling similarity, equals by position; the first k of them.

    Similarity and position are packed into one integer each, which numpy sorts four times as fast as it
    argsorts floats stably.
    """
    bits = (np.float32(0) - similarities).view(np.uint32)
    # Floats of IEEE 754 order as their bits do, the negative ones the other way round.
    ascending = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
    keys = (ascending.astype(np.uint64) << np.uint64(32)) | np.arange(similarities.shape[1], dtype=np.uint64)
    if k is not None and k < keys.shape[1]:
        keys.partition(k - 1, axis=1)
        keys = keys[:, :k]
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _directed(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows are not zeros."""
    return np.asarray(vectors.any(axis=1))


def _check_labels(vectors: Vectors, labels: npt.NDArray[Any]) -> None:
    if labels.shape != (len(vectors),):
        raise ValueError(f"{len(vectors)} vectors need as many labels, got {labels.shape}")
    if len(labels) and labels.min() < 0:
        raise ValueError("a label is negative: leave pictures without a label out")
