"""Versions of what filters see of an item, and the rows whose vectors were written with an older one.

A change of an item raises `wanted_rev` of its pictures' rows; whoever writes a vector sets `indexed_rev` to the
version that it wrote. A stale row, `indexed` with `indexed_rev` behind, stays searchable: a worker claims it under a
lease of the kind of services/catalog/ledger.py, where the table of races is, and writes its vector again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, literal, or_, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.ledger import Lease, lease_of, leave, rev_of, want_rewritten
from services.catalog.models import Embedding, Image, Item
from services.catalog.states import EmbeddingState, Priority


@dataclass(frozen=True)
class Described:
    """The item of a ledger row's picture, and the version that it is of; the item may be newer, never older."""

    rev: int
    item: Item


def stale() -> ColumnElement[bool]:
    """The condition of stale rows, as their partial index spells it."""
    indexed = literal(EmbeddingState.INDEXED.value, literal_execute=True)
    return and_(Embedding.state == indexed, Embedding.indexed_rev < Embedding.wanted_rev)


def claimable() -> ColumnElement[bool]:
    """The condition of stale rows that no worker holds."""
    return and_(stale(), or_(Embedding.lease.is_(None), Embedding.lease_until < now()))


def change(session: Session, item_pks: Collection[int]) -> None:
    """Want the vectors of changed items written again; the caller holds the locks of the items."""
    of_items = select(Image.id).where(Image.item_pk.in_(item_pks), Image.deleted_at.is_(None))
    want_rewritten(session, Embedding.image_id.in_(of_items))


def described(session: Session, embedding_ids: Collection[int]) -> dict[int, Described]:
    """What filters are to see of each row's picture; rows of deleted ones are missing.

    A row that was made while its item was being changed missed the new version: hence the shared locks, which wait
    for such a change. They are taken in the order in which uploads lock items.
    """
    found = session.execute(
        select(Embedding.id, Embedding.wanted_rev, Item)
        .join(Image, Image.id == Embedding.image_id)
        .join(Item, Item.id == Image.item_pk)
        .where(Embedding.id.in_(embedding_ids))
        .order_by(Item.item_id)
        .with_for_update(read=True, of=Item)
    )
    return {row.id: Described(row.wanted_rev, row.Item) for row in found}


def claim(session: Session, index_id: int, *, limit: int, lease: timedelta) -> Lease | None:
    """Lease up to `limit` stale rows of an index; None where there are none that nobody holds."""
    moment = now()
    rows = session.execute(
        select(Embedding.id, Embedding.image_id, Image.sha256)
        .join(Image, Image.id == Embedding.image_id)
        .where(Embedding.index_id == index_id, claimable())
        .order_by(Embedding.id)
        .limit(limit)
        .with_for_update(of=Embedding, skip_locked=True)
    ).all()
    if not rows:
        return None
    held = lease_of(session, index_id, rows, moment, lease)
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_([row.id for row in rows]))
        .values(lease=held.token, lease_until=held.until, updated_at=moment)
        .execution_options(synchronize_session=False)
    )
    return held


def mark(session: Session, lease: Lease, revs: Mapping[int, int]) -> set[int]:
    """Compare-and-set the version that was written, by embedding id; returns the ids that the lease still held."""
    return leave(session, lease, revs, EmbeddingState.INDEXED, indexed_rev=rev_of(revs), lease_until=None)


def put_back(session: Session, lease: Lease, embedding_ids: Collection[int]) -> set[int]:
    """Compare-and-set indexed → pending where there is no vector; returns the ids that the lease still held."""
    return leave(
        session,
        lease,
        embedding_ids,
        EmbeddingState.INDEXED,
        state=EmbeddingState.PENDING,
        priority=Priority.IMPORT,
        attempts=0,
        lease_until=None,
    )


def give_back(session: Session, lease: Lease) -> None:
    """Leave rows stale; a delete still waits for the end of the lease, for a write may be on its way."""
    leave(session, lease, [claim.embedding_id for claim in lease.claims], EmbeddingState.INDEXED)
