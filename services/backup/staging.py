"""A catalog that is being restored: out of sight until it is whole, then published in one transaction.

It carries `deleted_at`, so that nobody finds it, under a name that no request can ask for, made of the backup and of
where it goes: the same restore, given again after it was interrupted, finds it and goes on.

Its ledger rows are `failed` with UNFINISHED until their vectors are in Milvus. No worker touches such rows, so the
restore is the only one who writes to its collection, as Milvus Lite wants it: its server takes writes to different
collections at the same time, each has its own log and files, but not two to one. Rows of pictures that have to be
embedded anew become `pending` after the last vector was written.

| what meets                                | what happens                                                        |
| ----------------------------------------- | ------------------------------------------------------------------- |
| a restore dies anywhere                   | nobody sees what it wrote; the next one repeats what has no row     |
|                                           | `indexed`: every write has the same key and the same value          |
| two of the same restore at once           | likewise; the later one finds at its next write that the other has  |
|                                           | published, and stops                                                |
| an upload into the empty catalog whose    | it holds the catalog's lock: it comes first, and the restore is     |
| place the restored one takes              | refused, or it finds that catalog retired                           |
| bytes that were waiting to be collected   | their orphan rows go when the image rows come; those collected      |
|                                           | before are found missing at the end                                 |
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session

from services.catalog import catalogs, indexes, removal
from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Item, Job, Key
from services.catalog.states import EmbeddingState, IndexState
from services.errors import Conflict, NotFound
from services.wiring import Services

# Code of ledger rows whose vector is not written yet.
UNFINISHED: Final = "restore_unfinished"
DISCARD_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class Staging:
    """The hidden catalog of one restore."""

    catalog_id: int
    index_id: int
    collection: str


def staging_name(backup_id: str, name: str, encoder_sha256: str) -> str:
    """The hidden catalog's name for this backup, restored under `name` with this encoder."""
    return "restoring/" + hashlib.sha256(f"{backup_id} {name} {encoder_sha256}".encode()).hexdigest()


def find_staging(session: Session, hidden: str) -> Staging | None:
    """The hidden catalog of this name."""
    catalog = session.scalar(select(Catalog).where(Catalog.name == hidden))
    if catalog is None:
        return None
    index = catalogs.live_index(session, catalog.id)
    return Staging(catalog.id, index.id, index.collection)


def open_staging(session: Session, hidden: str, encoder_id: int) -> Staging:
    """The hidden catalog of this name, made if there is none."""
    found = find_staging(session, hidden)
    if found is not None:
        return found
    catalog = Catalog(name=hidden, deleted_at=now())
    session.add(catalog)
    session.flush()
    index = indexes.create(session, catalog.id, encoder_id, IndexState.LIVE, None)
    catalog.live_index_id = index.id
    return Staging(catalog.id, index.id, index.collection)


def check_unpublished(session: Session, staging: Staging) -> None:
    """
    Raises:
        Conflict: the catalog is published, or discarded.
    """
    hidden = select(Catalog.id).where(Catalog.id == staging.catalog_id, Catalog.deleted_at.is_not(None))
    if session.scalar(hidden) is None:
        raise Conflict("another restore of this backup was quicker, or discarded what was restored")


def unfinished_rows(staging: Staging) -> tuple[ColumnElement[bool], ...]:
    """The ledger rows that wait for the end of a restore."""
    return (
        Embedding.index_id == staging.index_id,
        Embedding.state == EmbeddingState.FAILED,
        Embedding.error_code == UNFINISHED,
    )


def check_free(session: Session, name: str) -> Catalog | None:
    """The empty catalog of this name whose place a restored one may take; None where there is no such catalog.

    Every installation has an empty `default`, so that a backup of that name could otherwise go nowhere.

    Raises:
        Conflict: there is one that is not empty, or at work.
    """
    catalog = session.scalar(select(Catalog).where(Catalog.name == name))
    if catalog is None:
        return None
    catalogs.lock_exclusive(session, catalog.id)
    used = (
        exists().where(Item.catalog_id == catalog.id),
        exists().where(Image.catalog_id == catalog.id),
        exists().where(Job.catalog_id == catalog.id, Job.finished_at.is_(None)),
    )
    if any(session.scalar(select(condition)) for condition in used):
        raise Conflict(f"there is a catalog {name!r} already, and it is not empty", code="catalog_exists")
    return catalog


def publish(services: Services, staging: Staging, name: str) -> None:
    """Give the hidden catalog its name. An empty one of that name goes; its keys and jobs stay with the name.

    Raises:
        Conflict: the name was taken meanwhile, or the catalog is published already.
    """
    with services.database.transaction() as session:
        check_unpublished(session, staging)
        former = check_free(session, name)
        if former is not None:
            for model in (Key, Job):
                session.execute(
                    update(model).where(model.catalog_id == former.id).values(catalog_id=staging.catalog_id)
                )
            catalogs.retire(session, former.id)
            session.flush()
        catalog = session.get_one(Catalog, staging.catalog_id)
        catalog.name, catalog.deleted_at = name, None


def discard(services: Services, hidden: str) -> None:
    """Remove what an unfinished restore left.

    Raises:
        NotFound: there is nothing.
    """
    with services.database.reading() as session:
        staging = find_staging(session, hidden)
    if staging is None:
        raise NotFound("there is no unfinished restore of this backup under this name", code="restore_not_found")
    services.vectors.drop(staging.collection)
    while _discard_images(services, staging) or _discard_items(services, staging):
        pass
    with services.database.transaction() as session:
        check_unpublished(session, staging)
        catalog = session.get_one(Catalog, staging.catalog_id)
        catalog.live_index_id = None
        session.flush()
        session.execute(delete(IndexRow).where(IndexRow.catalog_id == catalog.id))
        session.delete(catalog)


def _discard_images(services: Services, staging: Staging) -> int:
    with services.database.transaction() as session:
        check_unpublished(session, staging)
        query = select(Image.id).where(Image.catalog_id == staging.catalog_id).limit(DISCARD_AT_ONCE)
        ids = session.scalars(query).all()
        session.execute(delete(Embedding).where(Embedding.image_id.in_(ids)))
        session.execute(update(Image).where(Image.id.in_(ids)).values(deleted_at=now(), item_pk=None))
        removal.purge_images(session, ids)
    return len(ids)


def _discard_items(services: Services, staging: Staging) -> int:
    with services.database.transaction() as session:
        check_unpublished(session, staging)
        query = select(Item.id).where(Item.catalog_id == staging.catalog_id).limit(DISCARD_AT_ONCE)
        ids = session.scalars(query).all()
        session.execute(delete(Item).where(Item.id.in_(ids)))
    return len(ids)
