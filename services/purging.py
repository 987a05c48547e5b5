"""The end of deleted pictures: their vectors go, and once Milvus proves that, their rows."""

from __future__ import annotations

import logging
import time

from services import kept_vectors
from services.catalog import removal
from services.errors import NotFound
from services.wiring import Services

logger = logging.getLogger(__name__)

TASK_SECONDS = 20.0
PURGE_AT_ONCE = 1000


def purge(services: Services, seconds: float = TASK_SECONDS) -> int:
    """Delete vectors of deleted images, and their rows once Milvus proves them gone; returns how many.

    What the time does not suffice for is left to the next run.

    Raises:
        Unavailable: Milvus or the database is away; nothing is forgotten that was not proven gone.
    """
    until = time.monotonic() + seconds
    purged = 0
    while time.monotonic() < until:
        with services.database.reading() as session:
            deletion = removal.deletable(session, PURGE_AT_ONCE)
        if deletion is None:
            break
        try:
            services.vectors.delete(deletion.collection, deletion.image_ids)
            left = services.vectors.present(deletion.collection, deletion.image_ids, strong=True)
        except NotFound:
            left = set()  # never written to, or dropped with its index
        if left:
            logger.warning("Milvus still holds %d deleted vectors of %s", len(left), deletion.collection)
            break
        # After Milvus has none, from which a search might have had one kept again.
        kept_vectors.drop(services, deletion.collection, deletion.image_ids)
        with services.database.transaction() as session:
            removal.forget(session, deletion)
        purged += len(deletion.image_ids)
    return purged
