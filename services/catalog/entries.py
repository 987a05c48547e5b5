"""The entries of imports: one picture each, from where its bytes are to searchable or failed with a reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update
from sqlalchemy.orm import Session

from services.catalog import ledger, removal
from services.catalog.database import now
from services.catalog.locking import in_order
from services.catalog.models import Catalog, Embedding, Image, Job, JobEntry
from services.catalog.states import EmbeddingState, EntryState

# Longer than a worker has an entry in its hands, or a server is given time: what is to wait for longer was put off by a
# clock that is ahead.
LONGEST_WAIT = timedelta(minutes=15)


def is_due() -> ColumnElement[bool]:
    """Whether an entry is to be looked at now, if it is pending."""
    moment = now()
    return or_(JobEntry.due_at <= moment, JobEntry.due_at > moment + LONGEST_WAIT)


def claim(session: Session, job_id: str, limit: int, until: datetime) -> Sequence[JobEntry]:
    """The next entries that nobody has looked at; until then no other worker takes them."""
    found = session.scalars(
        select(JobEntry)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.PENDING, is_due())
        .order_by(JobEntry.due_at, JobEntry.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(
        update(JobEntry)
        .where(JobEntry.id.in_([entry.id for entry in found]))
        .values(due_at=until)
        .execution_options(synchronize_session=False)
    )
    return found


def release(session: Session, entry_ids: Collection[int]) -> None:
    """Give claimed entries back at once."""
    session.execute(
        update(JobEntry)
        .where(JobEntry.id.in_(entry_ids), JobEntry.state == EntryState.PENDING)
        .values(due_at=now())
        .execution_options(synchronize_session=False)
    )


def still_pending(session: Session, entry_ids: Collection[int]) -> Sequence[JobEntry]:
    """Those of the entries that are pending and that no other worker is settling, locked."""
    return session.scalars(
        select(JobEntry)
        .where(JobEntry.id.in_(entry_ids), JobEntry.state == EntryState.PENDING)
        .order_by(JobEntry.id)
        .with_for_update(skip_locked=True)
    ).all()


def due(session: Session, job_id: str, limit: int) -> int:
    """How many entries of an import are to be looked at now; counted up to a limit."""
    return _count(
        session,
        select(JobEntry.id)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.PENDING, is_due())
        .limit(limit),
    )


def waiting(session: Session, catalog_id: int, limit: int) -> int:
    """How many entries of a catalog's imports nobody has looked at; counted up to a limit."""
    unfinished = select(Job.id).where(Job.catalog_id == catalog_id, Job.finished_at.is_(None))
    pending = (JobEntry.job_id.in_(unfinished), JobEntry.state == EntryState.PENDING)
    return _count(session, select(JobEntry.id).where(*pending).limit(limit))


def _count(session: Session, some: Select[int]) -> int:
    return session.scalar(select(func.count()).select_from(some.subquery())) or 0


def leave_out(session: Session, job_id: str, limit: int) -> int:
    """Pending → cancelled, so many at a time; nothing refers to their bytes any more. Returns how many."""
    some = (
        select(JobEntry.id)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.PENDING)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    hashes = session.scalars(
        update(JobEntry)
        .where(JobEntry.id.in_(session.scalars(some).all()), JobEntry.state == EntryState.PENDING)
        .values(state=EntryState.CANCELLED)
        .returning(JobEntry.sha256)
        .execution_options(synchronize_session=False)
    ).all()
    removal.note_orphans(session, {sha256 for sha256 in hashes if sha256 is not None})
    return len(hashes)


def retry(session: Session, job_id: str) -> int:
    """Failed entries are looked at again, or encoded again where only that failed; returns how many.

    Those whose image was deleted meanwhile stay failed: a retry must not bring back what somebody removed.
    """
    failed = (JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED)
    encoded = (*failed, exists().where(Image.id == JobEntry.image_id, Image.deleted_at.is_(None)))
    # What its source lists as unreadable has no bytes to look at again.
    has_bytes = or_(JobEntry.sha256.is_not(None), JobEntry.place.is_not(None), JobEntry.url.is_not(None))
    unread = (*failed, JobEntry.image_id.is_(None), has_bytes)
    ledger.retry_failed(session, select(JobEntry.image_id).where(*encoded))
    removal.keep_orphans(session, select(JobEntry.sha256).where(*unread))
    count = 0
    for which, state in ((encoded, EntryState.ACCEPTED), (unread, EntryState.PENDING)):
        count += len(
            session.scalars(
                update(JobEntry)
                .where(*which)
                .values(state=state, error_code=None, error_detail=None, attempts=0, due_at=now())
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


def counts(session: Session, job_id: str) -> dict[EntryState, int]:
    """Entries of an import by state; states without entries are 0."""
    found = session.execute(
        select(JobEntry.state, func.count()).where(JobEntry.job_id == job_id).group_by(JobEntry.state)
    ).all()
    return dict.fromkeys(EntryState, 0) | {EntryState(state): count for state, count in found}


def failed(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[JobEntry]:
    """Failed entries of an import, from the one after id `after`."""
    return session.scalars(
        select(JobEntry)
        .where(JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED, JobEntry.id > after)
        .order_by(JobEntry.id)
        .limit(limit)
    ).all()


def are_settled(session: Session, job_id: str) -> bool:
    """Whether no entry of an import is on its way."""
    on_the_way = [EntryState.PENDING, EntryState.ACCEPTED]
    row = select(JobEntry.id).where(JobEntry.job_id == job_id, JobEntry.state.in_(on_the_way)).limit(1)
    return session.scalar(row) is None


def any_failed(session: Session, job_id: str) -> bool:
    """Whether an entry of an import failed."""
    row = select(JobEntry.id).where(JobEntry.job_id == job_id, JobEntry.state == EntryState.FAILED).limit(1)
    return session.scalar(row) is not None


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
    _settle_as(session, accepted, indexed, state=EntryState.INDEXED)
    if session.scalar(select(JobEntry.id).where(accepted).limit(1)) is None:
        return
    _settle_as(session, accepted, failed.exists(), state=EntryState.FAILED, error_code=code, error_detail=detail)
    _settle_as(
        session,
        accepted,
        ~alive,
        state=EntryState.FAILED,
        error_code="image_deleted",
        error_detail="the image was deleted before it was searchable",
    )


def _settle_as(session: Session, *which: ColumnElement[bool], **values: object) -> None:
    session.execute(
        update(JobEntry)
        .where(JobEntry.id.in_(in_order(JobEntry, *which)))
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def bytes_awaited(session: Session, sha256: str) -> bool:
    """Whether a pending entry or an image row still refers to these bytes."""
    pending = exists().where(JobEntry.sha256 == sha256, JobEntry.state == EntryState.PENDING)
    image = exists().where(Image.sha256 == sha256)
    return bool(session.scalar(select(or_(pending, image))))
