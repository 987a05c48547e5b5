"""Deleting many items, or a whole catalog, as a job: found by nobody at once or piece by piece, then removed.

A piece of items is deleted in one transaction together with how far the job is, so a worker that dies takes nothing
with it. A catalog is gone for its users when its deletion begins; what it held is removed afterwards. Vectors and
bytes go as they do for single deletes (services/catalog/removal.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from services.catalog import catalogs, filters, jobs, removal
from services.catalog.database import now
from services.catalog.filter_sql import to_sql
from services.catalog.models import Image, Item, Job
from services.catalog.states import JobState
from services.errors import Conflict
from services.queue import Task
from services.wiring import Services

ITEMS_AT_ONCE = 500
TASK_SECONDS = 20.0

Selection = Mapping[str, Any]
"""Which items: {"filter": …} or {"item_ids": […]}, as in requests."""


def count(services: Services, catalog_id: int, selection: Selection) -> int:
    """How many items a deletion would delete now.

    Raises:
        InvalidRequest: the filter is none.
    """
    condition = _condition(catalog_id, selection)
    with services.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Item).where(condition)) or 0


def start(services: Services, catalog_id: int, selection: Selection) -> str:
    """Begin to delete items with their pictures; returns the job's id. Items created later are left alone.

    Raises:
        InvalidRequest: the filter is none.
    """
    condition = _condition(catalog_id, selection)
    with services.database.transaction() as session:
        total, last = session.execute(select(func.count(), func.max(Item.id)).where(condition)).one()
        cursor = {"after": 0, "last": last or 0, "done": 0, "images": 0}
        job = _open(session, catalog_id, dict(selection), cursor, total)
    services.queue.wake(Task.DELETE)
    return job.id


def start_catalog(services: Services, name: str, filed_under: int) -> str:
    """Delete a catalog: nobody finds it from now on, its keys are void; returns the id of the job that removes it.

    Args:
        filed_under: the catalog that the job belongs to, which must be another.

    Raises:
        NotFound: there is none of this name.
        Conflict: it is the default catalog, or the job's own.
    """
    with services.database.transaction() as session:
        catalog = catalogs.by_name(session, name)
        if name == catalogs.DEFAULT:
            raise Conflict("the default catalog cannot be deleted; its items can", code="catalog_default")
        if catalog.id == filed_under:
            raise Conflict("ask for it in another catalog: this one will not be there to answer", code="catalog_own")
        total = session.scalar(select(func.count()).select_from(Item).where(Item.catalog_id == catalog.id)) or 0
        catalogs.retire(session, catalog.id)
        cursor = {"after": 0, "last": 0, "done": 0, "images": 0}
        job = _open(session, filed_under, {"catalog": name, "catalog_id": catalog.id}, cursor, total)
    services.queue.wake(Task.DELETE)
    return job.id


def advance(services: Services, seconds: float = TASK_SECONDS) -> None:
    """Go on with deletions until they are over or the time is up; then the next run is in the queue."""
    until = time.monotonic() + seconds
    with services.database.reading() as session:
        unfinished = [job.id for job in jobs.unfinished(session, jobs.DELETE)]
    for job_id in unfinished:
        while _delete_piece(services, job_id):
            if time.monotonic() > until:
                services.queue.wake(Task.DELETE)
                return


def _open(session: Session, catalog_id: int, source: dict[str, Any], cursor: dict[str, Any], total: int) -> Job:
    catalogs.lock_shared(session, catalog_id)
    job = Job(
        catalog_id=catalog_id,
        kind=jobs.DELETE,
        source=source,
        cursor=cursor,
        total=total,
        state=JobState.QUEUED,
        listed_at=now(),
    )
    session.add(job)
    session.flush()
    return job


def _delete_piece(services: Services, job_id: str) -> bool:
    """Delete the next items of a job; False once it is over."""
    with services.database.transaction() as session:
        job = jobs.lock(session, job_id)
        if job is None or job.finished_at is not None:
            return False
        jobs.start(job)
        whole = job.source.get("catalog_id")
        deleted, images = _delete_items(session, job) if whole is None else _empty_catalog(session, whole)
        job.cursor = {**job.cursor, "done": job.cursor["done"] + deleted, "images": job.cursor["images"] + images}
        if deleted or images:
            return True
        job.total = job.cursor["done"]
        job.result = {"items": job.cursor["done"], "images": job.cursor["images"]}
        jobs.finish(job, with_errors=False)
        return False


def _delete_items(session: Session, job: Job) -> tuple[int, int]:
    """How many items and images of the next piece were deleted; none when all are."""
    wanted = _condition(job.catalog_id, job.source)
    while found := session.scalars(
        select(Item.id)
        .where(wanted, Item.id > job.cursor["after"], Item.id <= job.cursor["last"])
        .order_by(Item.id)
        .limit(ITEMS_AT_ONCE)
    ).all():
        job.cursor = {**job.cursor, "after": found[-1]}
        deleted = _delete(session, wanted & Item.id.in_(found))
        if any(deleted):
            return deleted
    return 0, 0


def _empty_catalog(session: Session, catalog_id: int) -> tuple[int, int]:
    found = session.scalars(select(Item.id).where(Item.catalog_id == catalog_id).limit(ITEMS_AT_ONCE)).all()
    return _delete(session, Item.id.in_(found))


def _delete(session: Session, which: ColumnElement[bool]) -> tuple[int, int]:
    """Delete items and tombstone their images; returns how many of each.

    They are locked in the order in which uploads lock theirs, and only those that are wanted once they are.
    """
    item_pks = session.scalars(select(Item.id).where(which).order_by(Item.item_id).with_for_update()).all()
    images = select(Image.id).where(Image.item_pk.in_(item_pks), Image.deleted_at.is_(None))
    count = removal.delete_images(session, images)
    session.execute(delete(Item).where(Item.id.in_(item_pks)))
    return len(item_pks), count


def _condition(catalog_id: int, selection: Selection) -> ColumnElement[bool]:
    if selection.get("item_ids") is not None:
        return (Item.catalog_id == catalog_id) & Item.item_id.in_(selection["item_ids"])
    return (Item.catalog_id == catalog_id) & to_sql(filters.parse(selection["filter"]))
