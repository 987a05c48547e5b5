"""What should have moved on long ago and did not: the loops heal all of it, where they run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from services.catalog import jobs
from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Job, JobEntry
from services.catalog.states import MAINTAINED, EmbeddingState, EntryState

# Loops that run go over everything within minutes.
LONG = timedelta(hours=1)


def leased(session: Session, after: int, limit: int) -> Sequence[Embedding]:
    """Rows whose lease ended long ago and that nobody took back, by id."""
    maintained = select(IndexRow.id).where(IndexRow.state.in_(MAINTAINED))
    return session.scalars(
        select(Embedding)
        .where(
            Embedding.index_id.in_(maintained),
            Embedding.state == EmbeddingState.LEASED,
            Embedding.lease_until < now() - LONG,
            Embedding.id > after,
        )
        .order_by(Embedding.id)
        .limit(limit)
    ).all()


def deleting(session: Session, after: int, limit: int) -> Sequence[Embedding]:
    """Rows of images that were deleted long ago and whose vectors nobody proved gone, by id."""
    return session.scalars(
        select(Embedding)
        .where(
            Embedding.state == EmbeddingState.DELETING,
            Embedding.lease_until < now() - LONG,
            Embedding.updated_at < now() - LONG,
            Embedding.id > after,
        )
        .order_by(Embedding.id)
        .limit(limit)
    ).all()


def deleted(session: Session, after: int, limit: int) -> Sequence[int]:
    """Ids of images that were deleted long ago and have no ledger row, in their order."""
    row = exists().where(Embedding.image_id == Image.id)
    return session.scalars(
        select(Image.id)
        # Spelt out, as the partial index is.
        .where(Image.deleted_at.is_not(None), Image.deleted_at < now() - LONG, ~row, Image.id > after)
        .order_by(Image.id)
        .limit(limit)
    ).all()


def remaining(session: Session, embedding_ids: Collection[int]) -> set[int]:
    """Those of the ledger rows that are still there."""
    return set(session.scalars(select(Embedding.id).where(Embedding.id.in_(embedding_ids))))


def accepted(session: Session, after: int, limit: int) -> Sequence[JobEntry]:
    """Entries that wait for an encoder although their image is indexed, failed or deleted, by id."""
    settled = (
        select(Embedding.id)
        .join(Catalog, Catalog.live_index_id == Embedding.index_id)
        .where(
            Embedding.image_id == JobEntry.image_id,
            Embedding.state.in_([EmbeddingState.INDEXED, EmbeddingState.FAILED]),
        )
    )
    alive = exists().where(Image.id == JobEntry.image_id, Image.deleted_at.is_(None))
    return session.scalars(
        select(JobEntry)
        .where(
            JobEntry.state == EntryState.ACCEPTED,
            JobEntry.due_at < now() - LONG,
            or_(settled.exists(), ~alive),
            JobEntry.id > after,
        )
        .order_by(JobEntry.id)
        .limit(limit)
    ).all()


def imports(session: Session, after: str, limit: int) -> Sequence[Job]:
    """Unfinished imports of which nothing has been on its way for long, by id."""
    recent = exists().where(
        JobEntry.job_id == Job.id,
        or_(JobEntry.state.in_([EntryState.PENDING, EntryState.ACCEPTED]), JobEntry.due_at > now() - LONG),
    )
    return session.scalars(
        select(Job)
        .where(
            Job.kind == jobs.IMPORT, Job.finished_at.is_(None), Job.listed_at < now() - LONG, ~recent, Job.id > after
        )
        .order_by(Job.id)
        .limit(limit)
    ).all()


def unfinished(session: Session, job_ids: Collection[str]) -> set[str]:
    """Those of the jobs that are not over."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.finished_at.is_(None))))
