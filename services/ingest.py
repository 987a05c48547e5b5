"""Taking pictures in: one whose answer can say what is wrong with it, or an import that a worker goes through.

An import is a job with entries. Those of uploaded files and of lists of addresses are made at once; those of an
archive, a folder, an object-store prefix or a manifest are listed by a worker (services/listing.py). Workers then
look at each (services/accepting.py), and finish the job (services/finishing.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from services import content
from services.additions import add, entry_states
from services.catalog import catalogs, entries, jobs, ledger, removal
from services.catalog.database import now
from services.catalog.items import ItemFields, Picture
from services.catalog.models import Job, JobEntry, Webhook
from services.catalog.states import EntryState, ImportMode, JobState, Priority
from services.errors import Overloaded
from services.queue import Task
from services.wiring import Services

# What a full backlog tells clients to wait.
RETRY_SECONDS = 10


@dataclass(frozen=True)
class Upload:
    """One picture of a request. `ref` is what the client calls it, such as a file name."""

    ref: str
    data: bytes
    item: ItemFields


@dataclass(frozen=True)
class Address:
    """One picture that is to be fetched."""

    url: str
    item: ItemFields


@dataclass(frozen=True)
class Options:
    """How an import treats what is there, and who is told of its end."""

    mode: ImportMode = ImportMode.UPSERT
    webhook: str | None = None


@dataclass(frozen=True)
class Accepted:
    """What became of a single upload. `created` is False where the item had these bytes before."""

    image_id: int
    job_id: str
    created: bool


def check_backlog(services: Services, catalog_id: int, priority: Priority) -> None:
    """Refuse further uploads while too many pictures of the catalog wait before them.

    Single uploads go before imports and what an audit embeds anew, and do not wait for these.

    Raises:
        Overloaded: they do.
    """
    most = services.settings.max_backlog
    with services.database.reading() as session:
        waiting = ledger.waiting(session, most, catalog_id, priority)
        if priority >= Priority.IMPORT and waiting < most:
            waiting += entries.waiting(session, catalog_id, most - waiting)
    if waiting >= most:
        raise Overloaded(
            f"{most:,} pictures of this catalog wait to be embedded: try again later", retry_after=RETRY_SECONDS
        )


def accept(services: Services, catalog_id: int, upload: Upload) -> Accepted:
    """Take one picture in; it is searchable once its job has finished.

    Raises:
        ImageRejected: the bytes are not a picture that can be embedded.
        Overloaded: too many single uploads wait.
    """
    check_backlog(services, catalog_id, Priority.UPLOAD)
    info = services.decoder.verify(upload.data)
    sha256 = content.store(services, upload.data)
    picture = Picture(sha256, info.format, info.media_type, info.width, info.height, len(upload.data))
    with services.database.transaction() as session:
        job = _open_job(session, catalog_id, {"kind": "files"}, Options(), total=1)
        (added,) = add(session, catalog_id, [(upload.item, picture)], Priority.UPLOAD)
        removal.keep_orphans(session, [sha256])
        jobs.start(job)
        (state,) = entry_states(session, [added])
        session.add(
            JobEntry(
                job_id=job.id,
                ref=upload.ref,
                item=asdict(upload.item),
                sha256=sha256,
                state=state,
                item_pk=added.item_pk,
                image_id=added.image_id,
            )
        )
        if state is EntryState.UNCHANGED:
            jobs.finish(job, with_errors=False)
    content.ensure_stored(services, {sha256: upload.data})
    services.queue.wake(Task.EMBED)
    return Accepted(added.image_id, job.id, added.created)


def start_import(services: Services, catalog_id: int, uploads: Iterable[Upload], options: Options | None = None) -> str:
    """Store the bytes of many pictures and open a job for them; returns the job's id.

    Raises:
        Overloaded: too many pictures wait.
    """
    check_backlog(services, catalog_id, Priority.IMPORT)
    uploads = list(uploads)
    hashes = [content.store(services, upload.data) for upload in uploads]
    rows = [
        {"ref": upload.ref, "item": asdict(upload.item), "sha256": sha256}
        for upload, sha256 in zip(uploads, hashes, strict=True)
    ]
    job_id = _open_listed(services, catalog_id, {"kind": "files"}, rows, options or Options())
    content.ensure_stored(services, dict(zip(hashes, (upload.data for upload in uploads), strict=True)))
    return job_id


def start_fetching(
    services: Services, catalog_id: int, addresses: Sequence[Address], options: Options | None = None
) -> str:
    """Open a job for pictures that workers are to fetch; returns its id.

    Raises:
        Overloaded: too many pictures wait.
    """
    check_backlog(services, catalog_id, Priority.IMPORT)
    rows = [{"ref": address.url, "item": asdict(address.item), "url": address.url} for address in addresses]
    return _open_listed(services, catalog_id, {"kind": "urls"}, rows, options or Options())


def start_stored(
    services: Services, catalog_id: int, chunks: Iterator[bytes], source: Mapping[str, Any], options: Options
) -> str:
    """Store an archive or a manifest as it arrives, and open a job for what it names; returns the job's id.

    Args:
        source: `form` is "archive" or "manifest"; a manifest may have a `media_type`, and a `base` for its paths.

    Raises:
        Overloaded: too many pictures wait.
        TooLarge: it is over AKIN_MAX_ARCHIVE_BYTES.
    """
    check_backlog(services, catalog_id, Priority.IMPORT)
    _check_places(services, source)
    job_id = uuid.uuid4().hex
    services.blobs.put_stream(content.source_key(job_id), chunks, services.settings.max_archive_bytes)
    try:
        return _open_unlisted(services, catalog_id, {"kind": "stored", **source}, options, job_id)
    except BaseException:
        services.blobs.delete(content.source_key(job_id))
        raise


def start_located(services: Services, catalog_id: int, source: Mapping[str, Any], options: Options) -> str:
    """Open a job for what lies at a place that workers read: a folder, a prefix, or the address of a manifest.

    Args:
        source: `kind` "location" with a `location` under a configured root; or `kind` "url" with the `url` of a
            manifest or an archive, and a `base` for the paths of a manifest.

    Raises:
        Forbidden: no configured root holds the place.
        Overloaded: too many pictures wait.
    """
    check_backlog(services, catalog_id, Priority.IMPORT)
    _check_places(services, source)
    return _open_unlisted(services, catalog_id, source, options, uuid.uuid4().hex)


def _check_places(services: Services, source: Mapping[str, Any]) -> None:
    for place in (source.get("location"), source.get("base")):
        if place is not None:
            services.roots.open(place).close()


def _open_unlisted(
    services: Services, catalog_id: int, source: Mapping[str, Any], options: Options, job_id: str
) -> str:
    with services.database.transaction() as session:
        _open_job(session, catalog_id, source, options, job_id=job_id)
    services.queue.wake(Task.IMPORTS)
    return job_id


def _open_listed(
    services: Services, catalog_id: int, source: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], options: Options
) -> str:
    with services.database.transaction() as session:
        job = _open_job(session, catalog_id, source, options, total=len(rows))
        session.execute(insert(JobEntry), [{"job_id": job.id, "due_at": now(), **row} for row in rows])
        removal.keep_orphans(session, {row["sha256"] for row in rows if "sha256" in row})
    services.queue.wake(Task.IMPORTS)
    return job.id


def _open_job(
    session: Session,
    catalog_id: int,
    source: Mapping[str, Any],
    options: Options,
    *,
    job_id: str | None = None,
    total: int | None = None,
) -> Job:
    """An import's row. With a total all its entries are known.

    Raises:
        NotFound: the catalog was deleted.
    """
    catalogs.lock_shared(session, catalog_id)
    job = Job(
        id=job_id or uuid.uuid4().hex,
        catalog_id=catalog_id,
        kind=jobs.IMPORT,
        state=JobState.QUEUED,
        mode=options.mode,
        source=dict(source),
        total=total or 0,
        listed_at=None if total is None else now(),
    )
    session.add(job)
    session.flush()
    if options.webhook is not None:
        session.add(Webhook(job_id=job.id, url=options.webhook, due_at=now()))
        session.flush()
    return job
