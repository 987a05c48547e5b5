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
    replaced = [row.replaces for row in found if row.replaces is not None]
    removal.lock_items(session, replaced)
    removal.delete_images(session, replaced)
    return len(found)


def remove_unnamed_images(session: Session, job: Job, limit: int) -> int:
    """Tombstone the next pictures that were there before the import and that neither it nor a later job names.

    Pictures of an item that the import names without any are left alone. Returns how many.
    """
    named = (
        select(JobEntry.id)
        .join(Job, Job.id == JobEntry.job_id)
        .where(JobEntry.image_id == Image.id, Job.created_at >= job.created_at)
        .exists()
    )
    fields_only = exists().where(
        JobEntry.job_id == job.id, JobEntry.image_id.is_(None), JobEntry.item_pk == Image.item_pk
    )
    unnamed = (
        select(Image.id)
        .where(Image.catalog_id == job.catalog_id, Image.deleted_at.is_(None), Image.created_at < job.created_at)
        .where(~named, ~fields_only)
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
