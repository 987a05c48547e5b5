"""What a process has read of encoders and vectors, which never change under their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from services import kept_vectors
from services.caching import Recent
from services.catalog.found import LiveIndex
from services.catalog.models import EncoderRow
from services.encoders.manifest import Manifest
from services.errors import NotFound
from services.wiring import Services

VECTOR_BYTES = 32 * 1024 * 1024
# A release may bring a calibration for an encoder that is registered.
_manifests: Recent[str, Manifest] = Recent(64, seconds=60)
# By collection and image: names of collections are random, so no other database's can be met.
_vectors: Recent[tuple[str, int], NDArray[np.float32]] = Recent(VECTOR_BYTES, seconds=3600)


def manifest_of(services: Services, index: LiveIndex) -> Manifest:
    """The manifest of an index's encoder."""
    manifest = _manifests.get(index.encoder_sha256)
    if manifest is None:
        with services.database.reading() as session:
            stored = session.scalars(select(EncoderRow.manifest).where(EncoderRow.sha256 == index.encoder_sha256)).one()
        manifest = Manifest.model_validate(stored)
        _manifests.put(index.encoder_sha256, manifest)
    return manifest


def vectors_of(
    services: Services, index: LiveIndex, image_ids: Sequence[int], *, strong: bool = False, keep: bool = True
) -> dict[int, NDArray[np.float32]]:
    """The unit vectors (d) of those pictures that are embedded.

    Args:
        keep: have the cache keep those that Milvus was asked for, because others will search with them too.

    Raises:
        Unavailable: Milvus does not answer.
    """
    kept = {image_id: _vectors.get((index.collection, image_id)) for image_id in image_ids}
    vectors = {image_id: vector for image_id, vector in kept.items() if vector is not None}
    missing = [image_id for image_id in kept if image_id not in vectors]
    if missing:
        read = _read(services, index.collection, missing, strong, keep)
        met(index, read)
        vectors |= read
    return vectors


def met(index: LiveIndex, vectors: Mapping[int, NDArray[np.float32]]) -> None:
    """Take note of unit vectors (d) that were come by, so that they need not be asked for."""
    for image_id, vector in vectors.items():
        _vectors.put((index.collection, image_id), vector, vector.nbytes)


def _read(
    services: Services, collection: str, image_ids: Sequence[int], strong: bool, keep: bool
) -> dict[int, NDArray[np.float32]]:
    kept = kept_vectors.recalled(services, collection, image_ids)
    missing = [image_id for image_id in image_ids if image_id not in kept]
    if not missing:
        return kept
    try:
        fetched = services.vectors.fetch(collection, missing, strong=strong)
    except NotFound:  # no picture was ever embedded
        return kept
    units = {image_id: (vector / np.linalg.norm(vector)).astype(np.float32) for image_id, vector in fetched.items()}
    if keep:
        kept_vectors.keep_asked(services, collection, units)
    return kept | units
