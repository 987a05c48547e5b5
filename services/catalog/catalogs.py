"""Catalogs and the switch that names each one's live index."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.orm import Session, joinedload

from services.catalog.database import now
from services.catalog.models import Catalog, Image, IndexRow, Item, Job, Key
from services.catalog.prepared import Prepared
from services.catalog.states import IndexState, JobState
from services.errors import NotFound

DEFAULT = "default"
# First key of the advisory locks, which all of a PostgreSQL database shares; the second is the catalog.
LOCK_SPACE = 0x616B


def by_name(session: Session, name: str) -> Catalog:
    """Find a catalog.

    Raises:
        NotFound: there is none of that name.
    """
    catalog = session.scalar(select(Catalog).where(Catalog.name == name, Catalog.deleted_at.is_(None)))
    if catalog is None:
        raise _unknown(name)
    return catalog


_catalogs = Catalog.__table__.c
_ID = Prepared(select(_catalogs.id).where(_catalogs.name == bindparam("name"), _catalogs.deleted_at.is_(None)))


def id_of(connection: Connection, name: str) -> int:
    """A catalog's primary key; for every request, so that it is a plain statement.

    Raises:
        NotFound: there is none of that name.
    """
    rows = _ID.rows(connection, {"name": name})
    if not rows:
        raise _unknown(name)
    found: int = rows[0][0]
    return found


def all_of(session: Session, only: int | None) -> Sequence[Catalog]:
    """Every catalog, or the one that a key is bound to."""
    query = select(Catalog).where(Catalog.deleted_at.is_(None)).order_by(Catalog.id)
    return session.scalars(query if only is None else query.where(Catalog.id == only)).all()


def lock_shared(session: Session, catalog_id: int) -> None:
    """Keep indexes from starting or going live until this transaction ends (uploads hold this).

    On PostgreSQL an advisory lock, which is given in the order of asking: with row locks a steady stream of
    uploads would keep a switch waiting for ever. On SQLite the transaction is the only writer anyway.

    Raises:
        NotFound: the catalog was deleted.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock_shared(LOCK_SPACE, catalog_id)))
    if session.scalar(select(Catalog.id).where(Catalog.id == catalog_id, Catalog.deleted_at.is_(None))) is None:
        raise _deleted()


def lock_exclusive(session: Session, catalog_id: int) -> Catalog:
    """Wait for uploads in flight and keep new ones out until this transaction ends (switches hold this)."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, catalog_id)))
    return session.get_one(Catalog, catalog_id, populate_existing=True)


def live_index(session: Session, catalog_id: int) -> IndexRow:
    """The index that searches read, with its encoder loaded.

    Raises:
        NotFound: the catalog was deleted.
    """
    found = session.scalar(
        select(IndexRow)
        .join(Catalog, Catalog.live_index_id == IndexRow.id)
        .where(Catalog.id == catalog_id)
        .options(joinedload(IndexRow.encoder))
    )
    if found is None:
        raise _deleted()
    return found


def retire(session: Session, catalog_id: int) -> None:
    """Take a catalog out of use: its name is free, its indexes are retired, its keys void, its jobs stopped.

    The row stays for what refers to it.
    """
    catalog = lock_exclusive(session, catalog_id)
    moment = now()
    # No name that a catalog can have.
    catalog.name, catalog.deleted_at, catalog.live_index_id = f"~{catalog_id}", moment, None
    session.execute(update(IndexRow).where(IndexRow.catalog_id == catalog_id).values(state=IndexState.RETIRED))
    session.execute(update(Key).where(Key.catalog_id == catalog_id, Key.revoked_at.is_(None)).values(revoked_at=moment))
    session.execute(
        update(Job)
        .where(Job.catalog_id == catalog_id, Job.finished_at.is_(None))
        .values(state=JobState.CANCELLED, finished_at=moment)
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no catalog {name!r}", code="catalog_not_found")


def _deleted() -> NotFound:
    return NotFound("this catalog was deleted", code="catalog_not_found")


def sizes(session: Session, catalog_id: int) -> tuple[int, int]:
    """How many items and living images a catalog has."""
    items = session.scalar(select(func.count()).select_from(Item).where(Item.catalog_id == catalog_id))
    images = session.scalar(
        select(func.count()).select_from(Image).where(Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
    )
    return items or 0, images or 0
