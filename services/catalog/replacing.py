"""What an import replaces: pictures that gave way to others from the same place, and all that it does not name."""

from __future__ import annotations

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session, aliased

from services.catalog import removal
from services.catalog.models import Image, Item, Job, JobEntry
from services.catalog.states import EntryState

_SEARCHABLE = [EntryState.INDEXED, EntryState.UNCHANGED]


def remove_replaced(session: Session, job: Job, limit: int) -> int:
    """Tombstone pictures whose place holds others by now, once these are searchable; returns how many.

    A picture that the import found in another place stays: two files may have changed their names.
    """
    other = aliased(JobEntry)
    still_named = exists().where(other.job_id == job.id, other.image_id == JobEntry.replaces)
    found = session.execute(
        select(JobEntry.id, JobEntry.replaces)
        .where(JobEntry.job_id == job.id, JobEntry.state.in_(_SEARCHABLE), JobEntry.replaces.is_not(None))
        .where(~still_named)
        .limit(limit)
    ).all()
    if not found:
        return 0
    session.execute(
        update(JobEntry)
        .where(JobEntry.id.in_([row.id for row in found]))
        .values(replaces=None)
        .execution_options(synchronize_session=False)
    )
    removal.delete_images(session, [row.replaces for row in found if row.replaces is not None])
    return len(found)


def remove_unnamed_images(session: Session, job: Job, limit: int) -> int:
    """Tombstone the next pictures that were there before the import and that it does not name; returns how many."""
    named = exists().where(JobEntry.job_id == job.id, JobEntry.image_id == Image.id)
    images = session.scalars(
        select(Image.id)
        .where(Image.catalog_id == job.catalog_id, Image.deleted_at.is_(None), Image.created_at < job.created_at)
        .where(~named)
        .order_by(Image.id)
        .limit(limit)
    ).all()
    return removal.delete_images(session, images)


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
