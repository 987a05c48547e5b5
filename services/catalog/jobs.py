"""Jobs. The entries of imports are in services/catalog/entries.py; progress is always a count over rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from services.catalog import catalogs, entries, ledger
from services.catalog.database import now
from services.catalog.models import DuplicateImage, Job, JobEntry, Webhook
from services.catalog.states import EntryState, JobState, Priority
from services.errors import NotFound

IMPORT = "import"
REINDEX = "reindex"
DELETE = "delete"
AUDIT = "audit"
DUPLICATES = "duplicates"

_NEVER = datetime.min.replace(tzinfo=UTC)


def get(session: Session, job_id: str, catalog_id: int | None = None, *, lock: bool = False) -> Job:
    """Find a job, of one catalog if given; locked until the transaction ends if asked for.

    Raises:
        NotFound: there is none.
    """
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None or (catalog_id is not None and job.catalog_id != catalog_id):
        raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
    return job


def lock(session: Session, job_id: str) -> Job | None:
    """A job of a catalog in use, locked with it until the transaction ends; None where the catalog was deleted.

    The catalog first, as those do who delete one: in another order they would wait for each other.
    """
    catalog_id = get(session, job_id).catalog_id
    try:
        catalogs.lock_shared(session, catalog_id)
    except NotFound:
        return None
    return session.get_one(Job, job_id, with_for_update=True, populate_existing=True)


def page(session: Session, catalog_id: int, limit: int) -> Sequence[Job]:
    """The latest jobs of a catalog, newest first."""
    return session.scalars(
        select(Job).where(Job.catalog_id == catalog_id).order_by(Job.created_at.desc(), Job.id).limit(limit)
    ).all()


def take_turn(session: Session, ahead: int) -> Job | None:
    """The import that a worker is to go on with, None where no import has anything to do.

    Imports of a catalog wait while so many of its pictures are `ahead` of the encoders.

    Catalogs take turns, and so do the imports of each: the one whose last turn is the longest ago. A cancelled
    import comes along until all its entries are left out.
    """
    due = exists().where(JobEntry.job_id == Job.id, JobEntry.state == EntryState.PENDING, entries.is_due())
    unlisted = Job.listed_at.is_(None) & (Job.state != JobState.CANCELLED) & _is_free()
    found = session.execute(
        select(Job.id, Job.catalog_id, Job.state, Job.served_at, Job.created_at).where(
            Job.kind == IMPORT, or_(Job.finished_at.is_(None), Job.state == JobState.CANCELLED), unlisted | due
        )
    ).all()
    full = {
        catalog_id
        for catalog_id in {row.catalog_id for row in found}
        if ledger.waiting(session, ahead, catalog_id, Priority.IMPORT) >= ahead
    }
    candidates = [row for row in found if row.state == JobState.CANCELLED or row.catalog_id not in full]
    if not candidates:
        return None
    last: dict[int, datetime] = {}
    for row in candidates:
        last[row.catalog_id] = max(last.get(row.catalog_id, _NEVER), row.served_at or _NEVER)
    first = min(
        candidates, key=lambda row: (last[row.catalog_id], row.catalog_id, row.served_at or _NEVER, row.created_at)
    )
    job = session.get(Job, first.id, with_for_update={"skip_locked": True})
    if job is not None:
        job.served_at = now()
    return job


def unfinished(session: Session, kind: str) -> Sequence[Job]:
    """Jobs of a kind that are not over, oldest first."""
    return session.scalars(
        select(Job).where(Job.kind == kind, Job.finished_at.is_(None)).order_by(Job.created_at)
    ).all()


def take(session: Session, kind: str, held: timedelta) -> Job | None:
    """The oldest job of a kind to go on with; not one that a worker is at, or was when it died less than `held` ago."""
    job = session.scalar(
        select(Job)
        .where(Job.kind == kind, Job.finished_at.is_(None), or_(Job.served_at.is_(None), Job.served_at < now() - held))
        .order_by(Job.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job is not None:
        job.served_at = now()
        start(job)
    return job


def hold_listing(session: Session, job: Job, until: datetime) -> bool:
    """Keep other workers from listing an import's source; False where one does."""
    held = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.listed_at.is_(None), _is_free())
        .values(listing_until=until)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return held is not None


def release_listing(session: Session, job_id: str) -> None:
    """Let any worker go on with the listing."""
    session.execute(update(Job).where(Job.id == job_id).values(listing_until=None))


def _is_free() -> ColumnElement[bool]:
    """Whether nobody lists an import's source; who would for longer than may be has a clock that is ahead."""
    moment = now()
    return or_(
        Job.listing_until.is_(None), Job.listing_until <= moment, Job.listing_until > moment + entries.LONGEST_WAIT
    )


def settled_imports(session: Session, limit: int) -> Sequence[Job]:
    """Unfinished imports whose entries are all listed and none of them on its way, oldest first."""
    waiting = exists().where(JobEntry.job_id == Job.id, JobEntry.state.in_([EntryState.PENDING, EntryState.ACCEPTED]))
    return session.scalars(
        select(Job)
        .where(Job.kind == IMPORT, Job.finished_at.is_(None), Job.listed_at.is_not(None), ~waiting)
        .order_by(Job.created_at)
        .limit(limit)
    ).all()


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


def reopen(session: Session, job: Job) -> None:
    """Over → running again; who is told of its end will be told again."""
    job.state, job.finished_at = JobState.RUNNING, None
    session.execute(
        update(Webhook).where(Webhook.job_id == job.id).values(due_at=now(), attempts=0, delivered_at=None, error=None)
    )


def forget_old(session: Session, kept: timedelta, limit: int) -> int:
    """Delete jobs, other than reindexes, that were over so long ago, what they list first, so many rows at a time.

    Returns how many rows.
    """
    old = (Job.kind != REINDEX, Job.finished_at < now() - kept)
    for listed in (JobEntry, DuplicateImage):
        some = select(listed.id).join(Job, Job.id == listed.job_id).where(*old).limit(limit)
        deleted = session.scalars(delete(listed).where(listed.id.in_(some)).returning(listed.id)).all()
        if deleted:
            return len(deleted)
    lists = exists().where(JobEntry.job_id == Job.id) | exists().where(DuplicateImage.job_id == Job.id)
    empty = session.scalars(select(Job.id).where(*old, ~lists).limit(limit)).all()
    session.execute(delete(Webhook).where(Webhook.job_id.in_(empty)))
    session.execute(delete(Job).where(Job.id.in_(empty)))
    return len(empty)


def known(session: Session, job_ids: Collection[str]) -> set[str]:
    """Those of the ids that are ids of jobs."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids))))
