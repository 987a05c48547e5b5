"""Indexes: generations of vectors, their backfill and the switch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session, aliased, joinedload

from services.catalog import ledger
from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow
from services.catalog.states import MAINTAINED, EmbeddingState, IndexState, Priority


def create(session: Session, catalog_id: int, encoder_id: int, state: IndexState, job_id: str | None) -> IndexRow:
    """Add an index; the collection's name is random, so a lost database cannot meet an old collection."""
    index = IndexRow(
        catalog_id=catalog_id,
        encoder_id=encoder_id,
        collection=f"akin_{catalog_id}_{secrets.token_hex(8)}",
        state=state,
        job_id=job_id,
        activated_at=now() if state is IndexState.LIVE else None,
    )
    session.add(index)
    session.flush()
    return index


def get(session: Session, index_id: int) -> IndexRow | None:
    """An index with its encoder loaded."""
    return session.scalar(select(IndexRow).where(IndexRow.id == index_id).options(joinedload(IndexRow.encoder)))


def of_job(session: Session, job_id: str) -> IndexRow | None:
    """The index that a reindex builds or built."""
    return session.scalar(select(IndexRow).where(IndexRow.job_id == job_id))


def of_catalog(session: Session, catalog_id: int) -> Sequence[IndexRow]:
    """Every index of a catalog, newest first, with its encoder loaded."""
    return session.scalars(
        select(IndexRow)
        .where(IndexRow.catalog_id == catalog_id)
        .order_by(IndexRow.id.desc())
        .options(joinedload(IndexRow.encoder))
    ).all()


def in_states(session: Session, states: Sequence[IndexState]) -> Sequence[IndexRow]:
    """Indexes of every catalog in these states, with their encoders loaded."""
    return session.scalars(
        select(IndexRow).where(IndexRow.state.in_(states)).order_by(IndexRow.id).options(joinedload(IndexRow.encoder))
    ).all()


def cast_off(session: Session) -> Sequence[IndexRow]:
    """Retired and failed indexes that still have ledger rows or may still have a collection."""
    return session.scalars(
        select(IndexRow).where(IndexRow.state.not_in(MAINTAINED), IndexRow.collection.not_like("dropped_%"))
    ).all()


def mark_dropped(index: IndexRow) -> None:
    """Remember that nothing of the index is left in the vector store."""
    index.collection = f"dropped_{index.id}"


def backfill(session: Session, index: IndexRow, limit: int) -> int:
    """Open ledger rows for the next images in id order; returns how many images were looked at.

    The share lock makes a delete of one of them wait and then see the new row; a delete that came first
    makes the image fall out of the SELECT.
    """
    image_ids = session.scalars(
        select(Image.id)
        .where(Image.catalog_id == index.catalog_id, Image.id > index.backfilled_to, Image.deleted_at.is_(None))
        .order_by(Image.id)
        .limit(limit)
        .with_for_update(read=True)
    ).all()
    ledger.open_rows(session, image_ids, index.catalog_id, Priority.REINDEX)
    if image_ids:
        index.backfilled_to = image_ids[-1]
    return len(image_ids)


def missing(session: Session, index: IndexRow) -> int | None:
    """Lowest id of a living image without a row in the index; None proves that there is none."""
    row = exists().where(Embedding.image_id == Image.id, Embedding.index_id == index.id)
    return session.scalar(
        select(func.min(Image.id)).where(Image.catalog_id == index.catalog_id, Image.deleted_at.is_(None), ~row)
    )


def newly_failed(session: Session, index: IndexRow, live_index_id: int) -> int:
    """How many pictures are searchable in the live index and failed in this one."""
    live = aliased(Embedding)
    return (
        session.scalar(
            select(func.count())
            .select_from(Embedding)
            .join(live, (live.image_id == Embedding.image_id) & (live.index_id == live_index_id))
            .where(
                Embedding.index_id == index.id,
                Embedding.state == EmbeddingState.FAILED,
                live.state == EmbeddingState.INDEXED,
            )
        )
        or 0
    )


def switch(session: Session, catalog: Catalog, index: IndexRow) -> None:
    """Make `index` live. The former live index stays current as standby; an older standby is retired."""
    session.execute(
        update(IndexRow)
        .where(IndexRow.catalog_id == catalog.id, IndexRow.state == IndexState.STANDBY)
        .values(state=IndexState.RETIRED)
    )
    session.execute(update(IndexRow).where(IndexRow.id == catalog.live_index_id).values(state=IndexState.STANDBY))
    index.state, index.activated_at = IndexState.LIVE, now()
    catalog.live_index_id = index.id
