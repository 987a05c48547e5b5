"""Jobs and the entries of imports. Progress is always a count over rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from services.catalog import ledger
from services.catalog.database import now
from services.catalog.models import (
    Catalog,
    Embedding,
    EmbeddingState,
    EntryState,
    Image,
    Job,
    JobEntry,
    JobState,
    OrphanBlob,
)
from services.errors import NotFound

IMPORT = "import"
REINDEX = "reindex"


def get(session: Session, job_id: str, catalog_id: int | None = None, *, lock: bool = False) -> Job:
    """Find a job, of one catalog if given; locked until the transaction ends if asked for.

    Raises:
        NotFound: there is none.
    """
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None or (catalog_id is not None and job.catalog_id != catalog_id):
        raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
    return job


def page(session: Session, catalog_id: int, limit: int) -> Sequence[Job]:
    """The latest jobs of a catalog, newest first."""
    return session.scalars(
        select(Job).where(Job.catalog_id == catalog_id).order_by(Job.created_at.desc(), Job.id).limit(limit)
    ).all()


def next_import(session: Session) -> Job | None:
    """The import of the oldest entry that nobody has looked at."""
    first = select(JobEntry.job_id).where(JobEntry.state == EntryState.PENDING).order_by(JobEntry.id).limit(1)
    return session.scalar(select(Job).where(Job.id == first.scalar_subquery()))


def settled_imports(session: Session, limit: int) -> Sequence[Job]:
    """Unfinished imports without an entry that is still on its way, oldest first."""
    waiting = exists().where(JobEntry.job_id == Job.id, JobEntry.state.in_([EntryState.PENDING, EntryState.ACCEPTED]))
    return session.scalars(
        select(Job).where(Job.kind == IMPORT, Job.finished_at.is_(None), ~waiting).order_by(Job.created_at).limit(limit)
    ).all()


def finish_imports(session: Session, job_ids: Collection[str]) -> None:
    """Finish those of the imports that are not finished yet, with errors where an entry failed."""
    failed = exists().where(JobEntry.job_id == Job.id, JobEntry.state == EntryState.FAILED)
    unfinished = (Job.id.in_(job_ids), Job.finished_at.is_(None))
    with_errors = {"state": JobState.FINISHED_WITH_ERRORS, "finished_at": now()}
    session.execute(update(Job).where(*unfinished, failed).values(**with_errors))
    session.execute(update(Job).where(*unfinished).values(state=JobState.FINISHED, finished_at=now()))


def start(job: Job) -> None:
    """Queued → running; nothing where it is running or over."""
    if job.state == JobState.QUEUED:
        job.state, job.started_at = JobState.RUNNING, now()


def finish(job: Job, *, with_errors: bool) -> None:
    """Running → finished or finished with errors."""
    job.state = JobState.FINISHED_WITH_ERRORS if with_errors else JobState.FINISHED
    job.finished_at = now()


def fail(job: Job, code: str, detail: str) -> None:
    """Running → failed, with the reason."""
    job.state, job.error_code, job.error_detail, job.finished_at = JobState.FAILED, code, detail, now()


def cancel(job: Job) -> None:
    """Queued or running → cancelled. What was accepted before becomes searchable all the same."""
    job.state, job.finished_at = JobState.CANCELLED, now()


def reopen(job: Job) -> None:
    """Over → running again."""
    job.state, job.finished_at = JobState.RUNNING, None


def cancel_entries(session: Session, job_id: str, limit: int) -> list[str]:
    """Pending → cancelled, so many at a time; returns the SHA-256 of their bytes, none when all are."""
    ids = [entry.id for entry in pending_entries(session, job_id, limit)]
    hashes = session.scalars(
        update(JobEntry)
        .where(JobEntry.id.in_(ids), JobEntry.state == EntryState.PENDING)
        .values(state=EntryState.CANCELLED)
        .returning(JobEntry.sha256)
        .execution_options(synchronize_session=False)
    )
    return list(hashes)


def retry_entries(session: Session, job_id: str) -> int:
    """Failed entries are looked at again, or encoded again where only that failed; returns how many.

    Those whose image was deleted meanwhile stay failed: a retry must not bring back what somebody removed.
    """
    failed = (JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED)
    fresh = {"error_code": None, "error_detail": None}
    encoded = (*failed, exists().where(Image.id == JobEntry.image_id, Image.deleted_at.is_(None)))
    ledger.retry_failed(session, select(JobEntry.image_id).where(*encoded))
    unread = (*failed, JobEntry.image_id.is_(None))
    session.execute(
        delete(OrphanBlob)
        .where(OrphanBlob.sha256.in_(select(JobEntry.sha256).where(*unread)))
        .execution_options(synchronize_session=False)
    )
    count = 0
    for which, state in ((encoded, EntryState.ACCEPTED), (unread, EntryState.PENDING)):
        count += len(
            session.scalars(
                update(JobEntry)
                .where(*which)
                .values(state=state, **fresh)
                .returning(JobEntry.id)
                .execution_options(synchronize_session=False)
            ).all()
        )
    return count


def failures_by_code(session: Session, job_id: str) -> dict[str, int]:
    """How many entries of an import failed for which reason, the most frequent first."""
    found = session.execute(
        select(JobEntry.error_code, func.count())
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED)
        .group_by(JobEntry.error_code)
        .order_by(func.count().desc(), JobEntry.error_code)
    )
    return {code or "": count for code, count in found}


def entry_counts(session: Session, job_id: str) -> dict[EntryState, int]:
    """Entries of an import by state; states without entries are 0."""
    found = session.execute(
        select(JobEntry.state, func.count()).where(JobEntry.job_id == job_id).group_by(JobEntry.state)
    ).all()
    return dict.fromkeys(EntryState, 0) | {EntryState(state): count for state, count in found}


def failed_entries(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[JobEntry]:
    """Failed entries of an import, from the one after id `after`."""
    return session.scalars(
        select(JobEntry)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED, JobEntry.id > after)
        .order_by(JobEntry.id)
        .limit(limit)
    ).all()


def pending_entries(session: Session, job_id: str, limit: int) -> Sequence[JobEntry]:
    """Entries nobody has looked at yet."""
    return session.scalars(
        select(JobEntry)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.PENDING)
        .order_by(JobEntry.id)
        .limit(limit)
    ).all()


def still_pending(session: Session, entry_ids: Collection[int]) -> Sequence[JobEntry]:
    """Those of the entries that are pending and that no other worker is settling, locked."""
    return session.scalars(
        select(JobEntry)
        .where(JobEntry.id.in_(entry_ids), JobEntry.state == EntryState.PENDING)
        .order_by(JobEntry.id)
        .with_for_update(skip_locked=True)
    ).all()


def settle(session: Session, image_ids: Collection[int] | None = None) -> None:
    """Bring accepted entries (of these images, or all) in line with the live index.

    An entry is indexed when its image is in whatever index is live now: asking the live index, instead of
    remembering the one at the time of upload, is what keeps an import true across a reindex.
    """
    accepted = JobEntry.state == EntryState.ACCEPTED
    if image_ids is not None:
        accepted &= JobEntry.image_id.in_(image_ids)
    live = (
        select(Embedding.state, Embedding.error_code, Embedding.error_detail)
        .join(Catalog, Catalog.live_index_id == Embedding.index_id)
        .where(Embedding.image_id == JobEntry.image_id)
    )
    indexed = live.where(Embedding.state == EmbeddingState.INDEXED).exists()
    failed = live.where(Embedding.state == EmbeddingState.FAILED)
    code = failed.with_only_columns(Embedding.error_code).scalar_subquery()
    detail = failed.with_only_columns(Embedding.error_detail).scalar_subquery()
    alive = exists().where(Image.id == JobEntry.image_id, Image.deleted_at.is_(None))
    session.execute(update(JobEntry).where(accepted, indexed).values(state=EntryState.INDEXED))
    session.execute(
        update(JobEntry)
        .where(accepted, failed.exists())
        .values(state=EntryState.FAILED, error_code=code, error_detail=detail)
    )
    session.execute(
        update(JobEntry)
        .where(accepted, ~alive)
        .values(
            state=EntryState.FAILED,
            error_code="image_deleted",
            error_detail="the image was deleted before it was searchable",
        )
    )


def forget_old(session: Session, kept: timedelta, limit: int) -> int:
    """Delete imports that were over so long ago, entries first, so many rows at a time; returns how many."""
    old = (Job.kind == IMPORT, Job.finished_at < now() - kept)
    entries = select(JobEntry.id).join(Job, Job.id == JobEntry.job_id).where(*old).limit(limit)
    deleted = session.scalars(delete(JobEntry).where(JobEntry.id.in_(entries)).returning(JobEntry.id)).all()
    if deleted:
        return len(deleted)
    empty = select(Job.id).where(*old, ~exists().where(JobEntry.job_id == Job.id)).limit(limit)
    return len(session.scalars(delete(Job).where(Job.id.in_(empty)).returning(Job.id)).all())


def bytes_awaited(session: Session, sha256: str) -> bool:
    """Whether a pending entry or an image row still refers to these bytes."""
    pending = exists().where(JobEntry.sha256 == sha256, JobEntry.state == EntryState.PENDING)
    image = exists().where(Image.sha256 == sha256)
    return bool(session.scalar(select(or_(pending, image))))
