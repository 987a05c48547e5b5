"""Writing vectors with what filters see of their items, and what becomes of rows that were lost meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from services import kept_vectors
from services.catalog import ledger, revisions
from services.catalog.ledger import Claim, Lease
from services.catalog.revisions import Described
from services.errors import NotFound, Unavailable
from services.facets import facets_of
from services.vectors.base import Vectors
from services.vectors.conditions import Facets
from services.wiring import Services

logger = logging.getLogger(__name__)

# Fewer new vectors are searched exactly as they are.
SEALED_FROM = 1_000


def describe(services: Services, claims: Sequence[Claim]) -> dict[int, Described]:
    """What filters are to see of each, by embedding id; read this just before a write."""
    with services.database.reading() as session:
        return revisions.described(session, [claim.embedding_id for claim in claims])


def upsert(
    services: Services,
    collection: str,
    claims: Sequence[Claim],
    vectors: Vectors,
    described: Mapping[int, Described],
) -> None:
    """Write vectors (n, d), each under the id of its image and with the facets of its item.

    Raises:
        NotFound: there is no such collection.
        Unavailable: Milvus is away; what was written is not known.
    """
    facets = None
    if services.vectors.filters(collection):
        # An image without an item was deleted; its vector goes again at once.
        items = [described.get(claim.embedding_id) for claim in claims]
        facets = [facets_of(of.item) if of else Facets() for of in items]
    ids = [claim.image_id for claim in claims]
    services.vectors.upsert(collection, ids, vectors, facets)
    kept_vectors.keep_written(services, collection, ids, vectors)


def clean_up(services: Services, collection: str, lease: Lease, lost: Collection[int]) -> None:
    """Heal rows whose vectors were written under a lease that no longer held them, given by embedding ids."""
    if not lost:
        return
    with services.database.transaction() as session:
        abandoned = ledger.lost(session, lease, lost)
    if abandoned:
        services.vectors.delete(collection, abandoned)
        kept_vectors.drop(services, collection, abandoned)


def seal(services: Services, collection: str, written: int) -> None:
    """Have searches find new vectors as well as old ones, soon, where many were written."""
    if written < SEALED_FROM:
        return
    try:
        services.vectors.seal(collection)
    except (NotFound, Unavailable) as error:  # Milvus seals what has rested for some minutes by itself
        logger.info("%s will be sealed later: %s", collection, error)
