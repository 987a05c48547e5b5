"""What SQL says that the vector store and the blob store should hold, a bounded piece at a time, for audits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, exists, func, select, update
from sqlalchemy.orm import Session, joinedload

from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow, JobEntry, OrphanBlob
from services.catalog.states import MAINTAINED, EmbeddingState, EntryState, IndexState, Priority


@dataclass(frozen=True)
class Row:
    """A living image and what the ledger says of it in one index; `state` is None where it has no row."""

    image_id: int
    embedding_id: int | None
    state: EmbeddingState | None
    updated_at: datetime | None


def next_index(session: Session, at_least: int) -> IndexRow | None:
    """The maintained index with the next id, of a catalog that is not deleted, with catalog and encoder loaded."""
    return session.scalar(
        select(IndexRow)
        .join(Catalog, Catalog.id == IndexRow.catalog_id)
        .where(IndexRow.id >= at_least, IndexRow.state.in_(MAINTAINED), Catalog.deleted_at.is_(None))
        .order_by(IndexRow.id)
        .limit(1)
        .options(joinedload(IndexRow.encoder), joinedload(IndexRow.catalog))
    )


def is_maintained(session: Session, index_id: int) -> bool:
    """Whether the index is still filled, and its catalog there."""
    index = next_index(session, index_id)
    return index is not None and index.id == index_id


def any_indexed(session: Session, index_id: int) -> bool:
    """Whether the ledger says that a vector of the index is in the vector store."""
    row = select(Embedding.id).where(Embedding.index_id == index_id, Embedding.state == EmbeddingState.INDEXED)
    return session.scalar(row.limit(1)) is not None


def page(session: Session, index: IndexRow, after: int, limit: int) -> list[Row]:
    """The next living images of an index's catalog in id order, with their rows: one statement, so one moment."""
    found = session.execute(
        select(Image.id, Embedding.id, Embedding.state, Embedding.updated_at)
        .outerjoin(Embedding, and_(Embedding.image_id == Image.id, Embedding.index_id == index.id))
        .where(Image.catalog_id == index.catalog_id, Image.id > after, Image.deleted_at.is_(None))
        .order_by(Image.id)
        .limit(limit)
    )
    return [Row(*row) for row in found]


def unexplained(session: Session, index: IndexRow, image_ids: Collection[int]) -> set[int]:
    """Those of the ids whose vector nothing accounts for: without a row, and of no living image of the catalog."""
    rows = select(Embedding.image_id).where(Embedding.image_id.in_(image_ids), Embedding.index_id == index.id)
    living = select(Image.id).where(
        Image.id.in_(image_ids), Image.catalog_id == index.catalog_id, Image.deleted_at.is_(None)
    )
    return set(image_ids) - set(session.scalars(rows)) - set(session.scalars(living))


def still_indexed(session: Session, rows: Collection[Row]) -> list[Row]:
    """Those of the rows that nobody has touched since they were read, locked."""
    found = session.execute(
        select(Embedding.id, Embedding.updated_at)
        .where(Embedding.id.in_([row.embedding_id for row in rows]), Embedding.state == EmbeddingState.INDEXED)
        .order_by(Embedding.id)
        .with_for_update(skip_locked=True)
    )
    unchanged = {(embedding_id, moment) for embedding_id, moment in found}
    return [row for row in rows if (row.embedding_id, row.updated_at) in unchanged]


def put_back(session: Session, rows: Collection[Row]) -> None:
    """Indexed → pending: their pictures are encoded again."""
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_([row.embedding_id for row in rows]), Embedding.state == EmbeddingState.INDEXED)
        .values(
            state=EmbeddingState.PENDING,
            priority=Priority.IMPORT,
            attempts=0,
            error_code=None,
            error_detail=None,
            updated_at=now(),
        )
        .execution_options(synchronize_session=False)
    )


def still_without_row(session: Session, index_id: int, image_ids: Collection[int]) -> list[int]:
    """Those of the images that live and have no row in the index, locked against deletion."""
    row = exists().where(Embedding.image_id == Image.id, Embedding.index_id == index_id)
    return list(
        session.scalars(
            select(Image.id)
            .where(Image.id.in_(image_ids), Image.deleted_at.is_(None), ~row)
            .order_by(Image.id)
            .with_for_update(read=True)
        )
    )


def should_have_row(index: IndexRow, row: Row) -> bool:
    """Whether a row is due by now: the backfill of a building index may not have come so far."""
    return index.state != IndexState.BUILDING or row.image_id <= index.backfilled_to


def index_collections(session: Session) -> set[str]:
    """The collections of all indexes."""
    return set(session.scalars(select(IndexRow.collection)))


@dataclass(frozen=True)
class Wanted:
    """Bytes that living images refer to; `image_id` is the oldest of `images`."""

    image_id: int
    size_bytes: int
    images: int
    since: datetime


def wanted(session: Session, prefix: str, after: str, limit: int | None) -> dict[str, Wanted]:
    """The bytes of living images whose SHA-256 begins so and comes after another, in order.

    Catalogs that are deleted, or not restored to their end, want nothing.
    """
    catalogs = select(Catalog.id).where(Catalog.deleted_at.is_(None))
    rows = session.execute(
        select(Image.sha256, func.min(Image.id), func.min(Image.size_bytes), func.count(), func.min(Image.created_at))
        # "g" comes after every hexadecimal digit.
        .where(Image.sha256 > after, Image.sha256 >= prefix, Image.sha256 < prefix + "g")
        .where(Image.catalog_id.in_(catalogs), Image.deleted_at.is_(None))
        .group_by(Image.sha256)
        .order_by(Image.sha256)
        .limit(limit)
    )
    return {sha256: Wanted(image_id, size, images, since) for sha256, image_id, size, images, since in rows}


def unreferenced(session: Session, hashes: Collection[str]) -> set[str]:
    """Those of the hashes whose bytes nothing refers to, not even the list of what is to be collected."""
    images = select(Image.sha256).where(Image.sha256.in_(hashes))
    pending = select(JobEntry.sha256).where(JobEntry.sha256.in_(hashes), JobEntry.state == EntryState.PENDING)
    orphans = select(OrphanBlob.sha256).where(OrphanBlob.sha256.in_(hashes))
    return set(hashes) - {one for query in (images, pending, orphans) for one in session.scalars(query)}


def catalog_names(session: Session, image_ids: Collection[int]) -> dict[int, str]:
    """The catalog of each image."""
    found = session.execute(
        select(Image.id, Catalog.name).join(Catalog, Catalog.id == Image.catalog_id).where(Image.id.in_(image_ids))
    )
    return {row.id: row.name for row in found}
