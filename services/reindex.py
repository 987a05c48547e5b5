"""A second index beside the live one: started, filled by the ledger loop, made live in one transaction.

While an index is building every upload gets a row in it too (`ledger.open_rows`), so the backfill only has to
reach the images that were there before. Start and switch hold the catalog's lock exclusively and uploads hold
it shared: no upload can miss the new index, and the anti-join before the switch proves that none did.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services import writing
from services.catalog import catalogs, encoders, entries, indexes, jobs, ledger, removal
from services.catalog.database import now
from services.catalog.models import Catalog, IndexRow, Job
from services.catalog.states import EmbeddingState, IndexState
from services.errors import Conflict, NotFound
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

BACKFILL_AT_ONCE = 2000
CLEAR_AT_ONCE = 2000
TASK_SECONDS = 20.0


def start(services: Services, catalog_id: int, encoder_ref: str) -> str:
    """Begin a reindex of a catalog to an encoder; returns the job's id.

    Raises:
        NotFound: no such encoder is registered.
        Conflict: a reindex is running, or the live index has this encoder.
    """
    with services.database.reading() as session:
        _, images = catalogs.sizes(session, catalog_id)
    try:
        with services.database.transaction() as session:
            catalog = catalogs.lock_exclusive(session, catalog_id)
            encoder = encoders.by_ref(session, encoder_ref)
            if catalogs.live_index(session, catalog_id).encoder_id == encoder.id:
                raise Conflict(f"the live index has the encoder {encoder.ref} already", code="reindex_same_encoder")
            job = Job(
                catalog_id=catalog.id, kind=jobs.REINDEX, total=images, result={"encoder": encoder.ref}, listed_at=now()
            )
            session.add(job)
            session.flush()
            indexes.create(session, catalog_id, encoder.id, IndexState.BUILDING, job.id)
            jobs.start(job)
    except IntegrityError as error:
        raise Conflict("a reindex of this catalog is running", code="reindex_running") from error
    services.queue.wake(Task.REINDEX)
    return job.id


def advance(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Move every building index on: backfill, then wait for the ledger, then switch."""
    until = time.monotonic() + seconds
    with services.database.reading() as session:
        building = [index.id for index in indexes.in_states(session, [IndexState.BUILDING])]
    for index_id in building:
        while _backfill(services, index_id):
            services.queue.wake(Task.EMBED)
            if time.monotonic() > until:
                services.queue.wake(Task.REINDEX)
                return
        _activate_if_complete(services, index_id)


def _backfill(services: Services, index_id: int) -> bool:
    with services.database.transaction() as session:
        index = indexes.get(session, index_id)
        if index is None or index.state != IndexState.BUILDING:
            return False
        catalogs.lock_shared(session, index.catalog_id)
        return indexes.backfill(session, index, BACKFILL_AT_ONCE) > 0


def _activate_if_complete(services: Services, index_id: int) -> None:
    with services.database.reading() as session:
        index = indexes.get(session, index_id)
        if index is None or index.state != IndexState.BUILDING or not ledger.is_complete(session, index_id):
            return
        # Looked for without the lock first: it takes long, and almost always finds nothing.
        gap = indexes.missing(session, index)
        written = ledger.counts(session, index_id)[EmbeddingState.INDEXED]
    if gap is not None:
        _backfill_from(services, index_id, gap)
        return
    if written:
        # A search right after the switch must see every vector that Milvus has acknowledged.
        services.vectors.barrier(index.collection)
        writing.seal(services, index.collection, written)
    activate(services, index_id)


def _backfill_from(services: Services, index_id: int, image_id: int) -> None:
    with services.database.transaction() as session:
        index = indexes.get(session, index_id)
        if index is not None:
            index.backfilled_to = image_id - 1


def activate(services: Services, index_id: int) -> bool:
    """Make a complete building index live; False where it is not complete yet.

    The exclusive lock lets uploads in flight finish first. Those leave pending rows, and then this gives up
    until the ledger loop is through with them.
    """
    with services.database.transaction() as session:
        index = indexes.get(session, index_id)
        if index is None:
            return False
        catalog = catalogs.lock_exclusive(session, index.catalog_id)
        session.refresh(index)
        if index.state != IndexState.BUILDING or not ledger.is_complete(session, index_id):
            return False
        gap = indexes.missing(session, index)
        if gap is not None:
            index.backfilled_to = gap - 1
            return False
        _switch_or_fail(session, catalog, index)
        return catalog.live_index_id == index_id


def _switch_or_fail(session: Session, catalog: Catalog, index: IndexRow) -> None:
    assert index.job_id is not None and catalog.live_index_id is not None
    job = jobs.get(session, index.job_id)
    lost = indexes.newly_failed(session, index, catalog.live_index_id)
    counts = ledger.counts(session, index.id)
    indexed, failed = counts[EmbeddingState.INDEXED], counts[EmbeddingState.FAILED]
    job.total = indexed + failed  # uploads since the start included
    job.result = {**job.result, "index": index.id, "indexed": indexed, "failed": failed}
    if lost:
        index.state = IndexState.FAILED
        jobs.fail(job, "reindex_incomplete", f"{lost} searchable pictures failed with the new encoder; nothing changed")
        return
    indexes.switch(session, catalog, index)
    entries.settle(session)
    jobs.finish(job, with_errors=failed > 0)


def drop_retired(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Drop collections and ledger rows of indexes that are retired or failed and that no worker holds rows of.

    What the time does not suffice for is left to the next run.

    Raises:
        Unavailable: Milvus is away; tried again by the next run.
    """
    until = time.monotonic() + seconds
    with services.database.reading() as session:
        cast_off = [
            (index.id, index.collection)
            for index in indexes.cast_off(session)
            if not removal.may_be_written(session, index.id)
        ]
    for index_id, collection in cast_off:
        while True:
            with services.database.transaction() as session:
                if not removal.clear_index(session, index_id, CLEAR_AT_ONCE):
                    break
            if time.monotonic() > until:
                return
        try:
            services.vectors.drop(collection)
        except NotFound:
            logger.info("collection %s was gone already", collection)
        with services.database.transaction() as session:
            index = indexes.get(session, index_id)
            if index is not None:
                indexes.mark_dropped(index)


def progress(session: Session, job: Job) -> dict[EmbeddingState, int]:
    """Rows of a reindex's index by state."""
    index = indexes.of_job(session, job.id)
    return ledger.counts(session, index.id) if index else {}
