"""Refreshing: vectors of items that have changed are written again with what filters see of them, not encoded again.

The table of races is in services/catalog/ledger.py.
"""

from __future__ import annotations

import logging
from datetime import timedelta

import numpy as np

from services import writing
from services.catalog import indexes, revisions
from services.catalog.database import now
from services.catalog.ledger import Lease
from services.errors import ConfigurationError, NotFound, Unavailable
from services.vectors.base import Vectors
from services.wiring import Services

logger = logging.getLogger(__name__)

REFRESHED_AT_ONCE = 256


def refresh(services: Services, index_id: int) -> int:
    """Bring some stale rows of an index up to date; returns how many were taken, 0 where nobody has to.

    Raises:
        Unavailable: Milvus or the database is away; the rows are as stale as they were.
    """
    until = timedelta(seconds=services.settings.lease_seconds)
    with services.database.transaction() as session:
        index = indexes.get(session, index_id)
        lease = revisions.claim(session, index_id, limit=REFRESHED_AT_ONCE, lease=until)
    if index is None or lease is None:
        return 0
    try:
        _refresh(services, index.collection, lease)
    except Exception as error:
        if isinstance(error, Unavailable | ConfigurationError):
            _give_back(services, lease)
            raise
        # They stay leased, so that they are tried again, but not in a circle that nothing else gets out of.
        logger.exception("a refresh of index %s failed", index_id)
    except BaseException:
        _give_back(services, lease)
        raise
    return len(lease.claims)


def _refresh(services: Services, collection: str, lease: Lease) -> None:
    described = writing.describe(services, lease.claims)
    rows = {claim.embedding_id for claim in lease.claims}
    absent: set[int] = set()
    try:
        # Other collections know nothing of items that could have changed.
        if services.vectors.filters(collection):
            found = _fetch(services, collection, [claim.image_id for claim in lease.claims])
            there = [claim for claim in lease.claims if claim.image_id in found]
            absent = rows - {claim.embedding_id for claim in there}
            if now() > lease.until:  # others may hold the rows by now
                logger.warning("lease %s ended before its rows were refreshed", lease.token)
                return
            if there:
                vectors = np.stack([found[claim.image_id] for claim in there])
                writing.upsert(services, collection, there, vectors, described)
    except NotFound:  # lost with all its vectors
        absent = rows
    with services.database.transaction() as session:
        revs = {embedding_id: of.rev for embedding_id, of in described.items() if embedding_id not in absent}
        done = revisions.mark(session, lease, revs) | revisions.put_back(session, lease, absent)
    writing.clean_up(services, collection, lease, rows - absent - done)


def _fetch(services: Services, collection: str, ids: list[int]) -> dict[int, Vectors]:
    found = services.vectors.fetch(collection, ids)
    missing = [one for one in ids if one not in found]  # or so new that only a Strong read sees them
    return found | (services.vectors.fetch(collection, missing, strong=True) if missing else {})


def _give_back(services: Services, lease: Lease) -> None:
    with services.database.transaction() as session:
        revisions.give_back(session, lease)
