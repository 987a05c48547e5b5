"""Accepting pictures: bytes to the blob store, rows to the catalog, a wake-up to the workers.

An import is accepted in two steps: the request stores bytes and entries (`start_import`), a worker looks at
the bytes (`accept_entries`). A single upload does both at once (`accept`), so its answer can say what is wrong.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import insert
from sqlalchemy.orm import Session

from services import content
from services.catalog import catalogs, items, jobs, ledger
from services.catalog.database import now
from services.catalog.items import ItemFields, Picture
from services.catalog.models import EmbeddingState, EntryState, Job, JobEntry, JobState
from services.errors import ImageReason, ImageRejected, NotFound, Unavailable
from services.jobs import leave_out
from services.queue import Task
from services.wiring import Services

logger = logging.getLogger(__name__)

ENTRIES_AT_ONCE = 64
JOBS_AT_ONCE = 500
TASK_SECONDS = 20.0


@dataclass(frozen=True)
class Upload:
    """One picture of a request. `ref` is what the client calls it, such as a file name."""

    ref: str
    data: bytes
    item: ItemFields


@dataclass(frozen=True)
class Accepted:
    """What became of a single upload. `created` is False where the item had these bytes before."""

    image_id: int
    job_id: str
    created: bool


def accept(services: Services, catalog_id: int, upload: Upload) -> Accepted:
    """Take one picture in; it is searchable once its job has finished.

    Raises:
        ImageRejected: the bytes are not a picture that can be embedded.
    """
    info = services.decoder.verify(upload.data)
    sha256 = content.store(services, upload.data)
    picture = Picture(sha256, info.format, info.media_type, info.width, info.height, len(upload.data))
    with services.database.transaction() as session:
        catalogs.lock_shared(session, catalog_id)
        ((image_id, created),) = _add(session, catalog_id, [(upload.item, picture)])
        content.claim_orphans(session, [sha256])
        job = Job(catalog_id=catalog_id, kind=jobs.IMPORT, total=1, state=JobState.RUNNING, started_at=now())
        session.add(job)
        session.flush()
        entry = JobEntry(job_id=job.id, ref=upload.ref, item=asdict(upload.item), sha256=sha256, image_id=image_id)
        _set_accepted(session, entry, image_id, created)
        session.add(entry)
        if entry.state is EntryState.UNCHANGED:
            jobs.finish(job, with_errors=False)
    content.ensure_stored(services, {sha256: upload.data})
    services.queue.wake(Task.EMBED)
    return Accepted(image_id, job.id, created)


def start_import(services: Services, catalog_id: int, uploads: Iterable[Upload]) -> str:
    """Store the bytes of many pictures and open a job for them; returns the job's id."""
    uploads = list(uploads)
    hashes = [content.store(services, upload.data) for upload in uploads]
    with services.database.transaction() as session:
        job = Job(catalog_id=catalog_id, kind=jobs.IMPORT, total=len(uploads))
        session.add(job)
        session.flush()
        entries = [
            {"job_id": job.id, "ref": upload.ref, "item": asdict(upload.item), "sha256": sha256}
            for upload, sha256 in zip(uploads, hashes, strict=True)
        ]
        session.execute(insert(JobEntry), entries)
        content.claim_orphans(session, hashes)
    content.ensure_stored(services, dict(zip(hashes, (upload.data for upload in uploads), strict=True)))
    services.queue.wake(Task.IMPORTS)
    return job.id


def accept_pending(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Accept entries of imports until there are none or the time is up; then the next run is in the queue."""
    until = time.monotonic() + seconds
    while accept_entries(services):
        if time.monotonic() > until:
            services.queue.wake(Task.IMPORTS)
            return


def accept_entries(services: Services) -> bool:
    """Look at the next pending entries of the oldest import that has any; False where there are none.

    The pictures are looked at outside of any transaction; an entry that another worker settled meanwhile is left.
    """
    with services.database.reading() as session:
        job = jobs.next_import(session)
        entries = jobs.pending_entries(session, job.id, ENTRIES_AT_ONCE) if job else []
    if job is None:
        return False
    looked = {} if job.state == JobState.CANCELLED else _inspect(services, entries)
    with services.database.transaction() as session:
        # Locked: a cancel comes before these entries are accepted, or after.
        job = jobs.get(session, job.id, lock=True)
        if job.state == JobState.CANCELLED:
            leave_out(session, job.id)
            return True
        jobs.start(job)
        catalogs.lock_shared(session, job.catalog_id)
        _settle_entries(session, job.catalog_id, jobs.still_pending(session, list(looked)), looked)
    services.queue.wake(Task.EMBED)
    services.queue.wake(Task.FINISH)
    return True


def _inspect(services: Services, entries: Sequence[JobEntry]) -> dict[int, Picture | ImageRejected]:
    looked: dict[int, Picture | ImageRejected] = {}
    for piece in content.pieces(services, [entry.sha256 for entry in entries]):
        found = [(entries[position], data) for position, data in piece if data is not None]
        headers = services.decoder.inspect_many([data for _, data in found])
        for (entry, data), info in zip(found, headers, strict=True):
            looked[entry.id] = (
                info
                if isinstance(info, ImageRejected)
                else Picture(entry.sha256, info.format, info.media_type, info.width, info.height, len(data))
            )
    gone = ImageRejected(ImageReason.MISSING, "the stored bytes are gone")
    return {entry.id: looked.get(entry.id, gone) for entry in entries}


def _settle_entries(
    session: Session, catalog_id: int, entries: Sequence[JobEntry], looked: Mapping[int, Picture | ImageRejected]
) -> None:
    good: list[tuple[JobEntry, Picture]] = []
    for entry in entries:
        outcome = looked[entry.id]
        if isinstance(outcome, ImageRejected):
            entry.state, entry.error_code, entry.error_detail = EntryState.FAILED, outcome.code, outcome.detail
            ledger.note_orphans(session, [entry.sha256])
        else:
            good.append((entry, outcome))
    added = _add(session, catalog_id, [(ItemFields(**entry.item), picture) for entry, picture in good])
    for (entry, _), (image_id, created) in zip(good, added, strict=True):
        _set_accepted(session, entry, image_id, created)


def _add(session: Session, catalog_id: int, wanted: Sequence[tuple[ItemFields, Picture]]) -> list[tuple[int, bool]]:
    """Items, images and, for new images, ledger rows; returns for each the image's id and whether it is new."""
    if not wanted:
        return []
    item_pks = items.upsert(session, catalog_id, [fields for fields, _ in wanted])
    added = items.add_images(session, catalog_id, [(item_pks[fields.item_id], picture) for fields, picture in wanted])
    ledger.open_rows(session, [image_id for image_id, created in added if created], catalog_id)
    ledger.retry_failed(session, [image_id for image_id, created in added if not created])
    return added


def _set_accepted(session: Session, entry: JobEntry, image_id: int, created: bool) -> None:
    row = None if created else ledger.live_row(session, image_id)
    searchable = row is not None and row.state == EmbeddingState.INDEXED
    entry.image_id = image_id
    entry.state = EntryState.UNCHANGED if searchable else EntryState.ACCEPTED


def finish_imports(services: Services) -> None:
    """Finish imports whose every entry is settled, once a search is sure to see their vectors."""
    with services.database.reading() as session:
        settled: dict[int, list[str]] = defaultdict(list)
        for job in jobs.settled_imports(session, JOBS_AT_ONCE):
            settled[job.catalog_id].append(job.id)
        collections = {catalog_id: catalogs.live_index(session, catalog_id).collection for catalog_id in settled}
    for catalog_id, job_ids in settled.items():
        # What Milvus acknowledged may not be visible to a search yet; after one Strong query it is.
        try:
            services.vectors.barrier(collections[catalog_id])
        except NotFound:
            pass  # no picture was ever embedded: the imports only had failures
        except Unavailable as error:
            logger.warning("%d imports wait for their barrier: %s", len(job_ids), error)
            continue
        with services.database.transaction() as session:
            jobs.finish_imports(session, job_ids)
