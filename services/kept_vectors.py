"""Vectors of pictures, kept in the cache: to search with a picture of the catalog, Milvus need not be asked for its
vector first.

A vector never changes under the name of its collection and the id of its picture. Workers keep what they have just
written, so that even a picture that nobody asked about is found there, while less than half of the cache's memory is
taken, by whatever it is: rankings and pages of searches need room too. Searches keep what they were to search with and
had to fetch, not what they only compare with other hits. A Redis that is a cache alone drops what was used least when
its memory is full; one that is the queue too drops nothing before its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.caching import Recent, forget, memory_used, recall_many, remember_many
from services.wiring import Services

Vector = NDArray[np.float32]

WRITTEN_SECONDS: Final = 7 * 24 * 3600
ASKED_SECONDS: Final = 3600
WORKERS_SHARE: Final = 0.5
KEPT_AT_ONCE: Final = 1000

# Caches whose memory was looked at a moment ago, and whether workers may write to them.
_room: Recent[int, bool] = Recent(16, seconds=1)


def recalled(services: Services, collection: str, image_ids: Sequence[int]) -> dict[int, Vector]:
    """Those unit vectors (d) that are kept, by picture."""
    vectors: dict[int, Vector] = {}
    for start in range(0, len(image_ids), KEPT_AT_ONCE):
        some = image_ids[start : start + KEPT_AT_ONCE]
        vectors |= unpacked(some, recall_many(services, names(collection, some)))
    return vectors


def names(collection: str, image_ids: Sequence[int]) -> list[str]:
    """Under what the vectors of pictures are kept."""
    return [f"v:{collection}:{image_id}" for image_id in image_ids]


def unpacked(image_ids: Sequence[int], kept: Sequence[bytes | None]) -> dict[int, Vector]:
    """Unit vectors (d) by picture, of what is kept under their names."""
    return {
        image_id: np.frombuffer(data, np.float32)
        for image_id, data in zip(image_ids, kept, strict=True)
        if data is not None
    }


def keep_asked(services: Services, collection: str, vectors: Mapping[int, Vector]) -> None:
    """Keep unit vectors (d) of pictures that were searched with."""
    _keep(services, collection, vectors, ASKED_SECONDS)


def keep_written(services: Services, collection: str, image_ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
    """Keep what was just written, vectors (n, d) of any length above 0, while there is room for it."""
    if len(image_ids) and _has_room(services):
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        _keep(services, collection, dict(zip(image_ids, unit, strict=True)), WRITTEN_SECONDS)


def drop(services: Services, collection: str, image_ids: Sequence[int]) -> None:
    """Drop the vectors of deleted pictures."""
    for start in range(0, len(image_ids), KEPT_AT_ONCE):
        forget(services, names(collection, image_ids[start : start + KEPT_AT_ONCE]))


def _keep(services: Services, collection: str, vectors: Mapping[int, Vector], seconds: int) -> None:
    ids = list(vectors)
    for start in range(0, len(ids), KEPT_AT_ONCE):
        some = ids[start : start + KEPT_AT_ONCE]
        packed = [vectors[image_id].tobytes() for image_id in some]
        remember_many(services, dict(zip(names(collection, some), packed, strict=True)), seconds)


def _has_room(services: Services) -> bool:
    known = _room.get(id(services.cache))
    if known is None:
        used = memory_used(services)
        known = used is not None and used < WORKERS_SHARE
        _room.put(id(services.cache), known)
    return known
