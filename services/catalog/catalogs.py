"""Catalogs and the switch that names each one's live index."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from services.catalog.models import Catalog, Image, IndexRow, Item
from services.errors import NotFound

DEFAULT = "default"
# First key of the advisory locks, which all of a PostgreSQL database shares; the second is the catalog.
LOCK_SPACE = 0x616B


def by_name(session: Session, name: str) -> Catalog:
    """Find a catalog.

    Raises:
        NotFound: there is none of that name.
    """
    catalog = session.scalar(select(Catalog).where(Catalog.name == name))
    if catalog is None:
        raise NotFound(f"there is no catalog {name!r}", code="catalog_not_found")
    return catalog


def all_of(session: Session, only: int | None) -> Sequence[Catalog]:
    """Every catalog, or the one that a key is bound to."""
    query = select(Catalog).order_by(Catalog.id)
    return session.scalars(query if only is None else query.where(Catalog.id == only)).all()


def lock_shared(session: Session, catalog_id: int) -> None:
    """Keep indexes from starting or going live until this transaction ends (uploads hold this).

    On PostgreSQL an advisory lock, which is given in the order of asking: with row locks a steady stream of
    uploads would keep a switch waiting for ever. On SQLite the transaction is the only writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock_shared(LOCK_SPACE, catalog_id)))


def lock_exclusive(session: Session, catalog_id: int) -> Catalog:
    """Wait for uploads in flight and keep new ones out until this transaction ends (switches hold this)."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, catalog_id)))
    return session.get_one(Catalog, catalog_id, populate_existing=True)


def live_index(session: Session, catalog_id: int) -> IndexRow:
    """The index that searches read, with its encoder loaded."""
    return session.scalars(
        select(IndexRow)
        .join(Catalog, Catalog.live_index_id == IndexRow.id)
        .where(Catalog.id == catalog_id)
        .options(joinedload(IndexRow.encoder))
    ).one()


def sizes(session: Session, catalog_id: int) -> tuple[int, int]:
    """How many items and living images a catalog has."""
    items = session.scalar(select(func.count()).select_from(Item).where(Item.catalog_id == catalog_id))
    images = session.scalar(
        select(func.count()).select_from(Image).where(Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
    )
    return items or 0, images or 0
