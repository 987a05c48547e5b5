"""What an import replaces: pictures that gave way to others from the same place, and all that it does not name."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, delete, exists, literal, select, update
from sqlalchemy.orm import Session, aliased

from services.catalog import removal
from services.catalog.models import Catalog, Image, Item, Job, JobEntry
from services.catalog.states import EntryState, JobState

_SEARCHABLE = [EntryState.INDEXED, EntryState.UNCHANGED]


def remove_replaced(session: Session, job: Job, limit: int) -> int | None:
    """Tombstone pictures whose place holds others by now, once these are searchable; how many, None at the end.

    A picture that the import, or a later job, found in another place or found again stays: two files may have changed
    their names, and a cancelled import comes to this late.
    """
    found = session.execute(
        select(JobEntry.id, JobEntry.image_id, JobEntry.replaces)
        .where(JobEntry.job_id == job.id, JobEntry.state.in_(_SEARCHABLE), JobEntry.replaces.is_not(None))
        .order_by(JobEntry.id)
        .limit(limit)
    ).all()
    if not found:
        return None
    entry_ids = [row.id for row in found]
    replaced = {row.replaces for row in found if row.replaces is not None}
    # An upload that names one of them comes before, and is seen, or after.
    removal.lock_items(session, [*replaced, *(row.image_id for row in found if row.image_id is not None)])
    replaced.update(session.scalars(_older(entry_ids)))
    unnamed = session.scalars(
        select(Image.id).where(Image.id.in_(replaced), Image.deleted_at.is_(None), ~_named_since(job))
    ).all()
    session.execute(
        update(JobEntry)
        .where(JobEntry.id.in_(entry_ids))
        .values(replaces=None)
        .execution_options(synchronize_session=False)
    )
    return removal.delete_images(session, unnamed)


def left_by_cancelled(session: Session, limit: int) -> Sequence[Job]:
    """Cancelled imports, nothing of which is on its way, some of whose pictures may have taken the places of others."""
    replaces = exists().where(JobEntry.job_id == Job.id, JobEntry.replaces.is_not(None))
    on_the_way = exists().where(
        JobEntry.job_id == Job.id, JobEntry.state.in_([EntryState.PENDING, EntryState.ACCEPTED])
    )
    # Spelt out, as a partial index is used for a literal only.
    cancelled = Job.state == literal(JobState.CANCELLED.value, literal_execute=True)
    return session.scalars(
        select(Job)
        .join(Catalog, Catalog.id == Job.catalog_id)
        .where(cancelled, Catalog.deleted_at.is_(None), replaces, ~on_the_way)
        .limit(limit)
    ).all()


def go_on_for_cancelled(session: Session, job: Job, limit: int) -> bool:
    """Remove the next pictures whose places a cancelled import's took; False when there are none left."""
    if remove_replaced(session, job, limit) is not None:
        return True
    session.execute(
        update(JobEntry)
        .where(JobEntry.job_id == job.id, JobEntry.replaces.is_not(None))
        .values(replaces=None)
        .execution_options(synchronize_session=False)
    )
    return False


def _older(entry_ids: Sequence[int]) -> Select[int]:
    """Living images of a place that came before the latest that an entry replaces.

    They stayed because those after them failed, or because nobody saw to them once their import was cancelled.
    """
    replaced = aliased(Image)
    return (
        select(Image.id)
        .join(JobEntry, JobEntry.item_pk == Image.item_pk)
        .join(replaced, (replaced.id == JobEntry.replaces) & (replaced.origin == Image.origin))
        .where(JobEntry.id.in_(entry_ids), Image.id < replaced.id, Image.deleted_at.is_(None))
    )


def _named_since(job: Job) -> ColumnElement[bool]:
    """Whether the import, or a later job, names an image."""
    entry, its_job = aliased(JobEntry), aliased(Job)
    return (
        select(entry.id)
        .join(its_job, its_job.id == entry.job_id)
        .where(entry.image_id == Image.id, its_job.created_at >= job.created_at)
        .exists()
    )


def remove_unnamed_images(session: Session, job: Job, limit: int) -> int:
    """Tombstone the next pictures that were there before the import and that neither it nor a later job names.

    Pictures of an item that the import names without any are left alone. Returns how many.
    """
    fields_only = exists().where(
        JobEntry.job_id == job.id, JobEntry.image_id.is_(None), JobEntry.item_pk == Image.item_pk
    )
    unnamed = (
        select(Image.id)
        .where(Image.catalog_id == job.catalog_id, Image.deleted_at.is_(None), Image.created_at < job.created_at)
        .where(~_named_since(job), ~fields_only)
        .order_by(Image.id)
    )
    while True:
        further = unnamed.where(Image.id > job.cursor.get("removed_to", 0))
        found = session.scalars(further.limit(limit)).all()
        if not found:
            return 0
        # An upload of the same picture comes before, and is seen by the second look, or after.
        removal.lock_items(session, found)
        job.cursor = {**job.cursor, "removed_to": found[-1]}
        if removed := removal.delete_images(session, session.scalars(unnamed.where(Image.id.in_(found))).all()):
            return removed


def remove_unnamed_items(session: Session, job: Job, limit: int) -> int:
    """Delete the next items without pictures that nobody has touched since the import began and that it does not name.

    Returns how many.
    """
    pictured = exists().where(Image.item_pk == Item.id)
    # Entries without an image name items only.
    mentioned = exists().where(JobEntry.job_id == job.id, JobEntry.image_id.is_(None), JobEntry.item_pk == Item.id)
    empty = session.scalars(
        select(Item.id)
        .where(Item.catalog_id == job.catalog_id, Item.updated_at < job.created_at, ~pictured, ~mentioned)
        .order_by(Item.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(delete(Item).where(Item.id.in_(empty)))
    return len(empty)
