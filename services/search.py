"""What looks like this? Milvus ranks, SQL decides what exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.catalog import catalogs, items
from services.catalog.models import Image, IndexRow
from services.encoders.manifest import Manifest
from services.errors import ImageReason, ImageRejected, NotFound
from services.vectors.base import Hit
from services.wiring import Services

# Milvus answers at most this many at a time.
DEEPEST = 16_384
# Of an item with more pictures the oldest ones are searched with.
MOST_QUERIES = 16


@dataclass(frozen=True)
class Match:
    """One look-alike. `score` is the cosine of the two embeddings, in [-1, 1]."""

    rank: int
    score: float
    image: Image


@dataclass(frozen=True)
class Answer:
    """Matches, best first, and what found them."""

    matches: list[Match]
    index: IndexRow
    took_ms: float


def by_image(services: Services, catalog_id: int, data: bytes, *, limit: int, min_score: float) -> Answer:
    """Pictures of the catalog that look like an uploaded one.

    Raises:
        ImageRejected: the bytes are not a picture that can be embedded.
        Overloaded: too many searches are waiting to be encoded.
        Unavailable: the query process or Milvus does not answer.
    """
    began = time.perf_counter()
    index = _live(services, catalog_id)
    manifest = Manifest.model_validate(index.encoder.manifest)
    pixels = services.decoder.preprocess(data, manifest.preprocessing)
    vector = services.query_encoder.encode(index.encoder.sha256, pixels)
    if not vector.any():
        raise ImageRejected(ImageReason.UNSUPPORTED, "the encoder sees nothing in this picture")
    matches = _rank(services, catalog_id, index, vector[None], limit=limit, min_score=min_score, exclude=frozenset())
    return Answer(matches, index, _since(began))


def similar_items(services: Services, catalog_id: int, item_id: str, *, limit: int, min_score: float) -> Answer:
    """Pictures of other items that look like any picture of this item. Needs no encoder: the vectors are there.

    Raises:
        NotFound: the catalog has no such item.
        Unavailable: Milvus does not answer.
    """
    began = time.perf_counter()
    with services.database.reading() as session:
        item = items.get(session, catalog_id, item_id)
        own = items.image_ids_of(session, item.id)
        index = catalogs.live_index(session, catalog_id)
    vectors = _known_vectors(services, index, own[:MOST_QUERIES])
    matches = _rank(services, catalog_id, index, vectors, limit=limit, min_score=min_score, exclude=frozenset(own))
    return Answer(matches, index, _since(began))


def _live(services: Services, catalog_id: int) -> IndexRow:
    with services.database.reading() as session:
        return catalogs.live_index(session, catalog_id)


def _known_vectors(services: Services, index: IndexRow, image_ids: Sequence[int]) -> NDArray[np.float32]:
    try:
        found = services.vectors.fetch(index.collection, image_ids) if image_ids else {}
    except NotFound:  # no picture was ever embedded
        found = {}
    if not found:
        return np.empty((0, index.encoder.dimension), np.float32)
    return np.stack([found[image_id] for image_id in sorted(found)])


def _rank(
    services: Services,
    catalog_id: int,
    index: IndexRow,
    vectors: NDArray[np.float32],
    *,
    limit: int,
    min_score: float,
    exclude: frozenset[int],
) -> list[Match]:
    """The `limit` best living images over all query vectors, widening the search where SQL drops hits."""
    if not len(vectors):
        return []
    depth = limit + min(len(exclude), MOST_QUERIES)
    while True:
        hits, complete = _candidates(services, index, vectors, depth, min_score)
        wanted = [hit for hit in hits if hit.id not in exclude]
        alive = _load(services, catalog_id, [hit.id for hit in wanted])
        living = [hit for hit in wanted if hit.id in alive][:limit]
        if len(living) == limit or complete or depth == DEEPEST:
            return [Match(rank, hit.score, alive[hit.id]) for rank, hit in enumerate(living, start=1)]
        depth = min(DEEPEST, depth * 4)


def _candidates(
    services: Services, index: IndexRow, vectors: NDArray[np.float32], depth: int, min_score: float
) -> tuple[list[Hit], bool]:
    """Best score of each image over all query vectors, best first; whether no further one can reach `min_score`."""
    try:
        found = services.vectors.search(index.collection, vectors, depth)
    except NotFound:  # no picture was ever embedded
        return [], True
    best: dict[int, float] = {}
    for hits in found:
        for hit in hits:
            best[hit.id] = max(hit.score, best.get(hit.id, -1.0))
    key: Callable[[Hit], tuple[float, int]] = lambda hit: (-hit.score, hit.id)  # noqa: E731
    ranked = sorted((Hit(image_id, score) for image_id, score in best.items() if score >= min_score), key=key)
    return ranked, all(len(hits) < depth or hits[-1].score < min_score for hits in found)


def _load(services: Services, catalog_id: int, image_ids: Sequence[int]) -> dict[int, Image]:
    with services.database.reading() as session:
        return items.images_by_id(session, catalog_id, image_ids)


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
