"""Removing pictures: tombstones, then vectors and rows once no worker can write them any more, then bytes.

The races with workers are in the table of services/catalog/ledger.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import CursorResult, Select, and_, delete, exists, func, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.ledger import WRITE_MARGIN
from services.catalog.locking import in_order
from services.catalog.models import Embedding, Image, IndexRow, Item, OrphanBlob
from services.catalog.revisions import stale
from services.catalog.states import EmbeddingState
from services.catalog.upserts import insert


def lock_items(session: Session, image_ids: Sequence[int]) -> None:
    """Lock the items of images, in the order in which uploads lock theirs."""
    of_images = select(Image.item_pk).where(Image.id.in_(image_ids))
    session.execute(select(Item.id).where(Item.id.in_(of_images)).order_by(Item.item_id).with_for_update())


def delete_images(session: Session, images: Select[int] | Sequence[int]) -> int:
    """Tombstone images, given by their ids or a SELECT of ids; returns how many were alive.

    Those without ledger rows go at once: nobody comes to drop their last. Of a catalog that is being deleted the
    rows may be dropped with its indexes before its images are tombstoned.
    """
    moment = now()
    ids = session.scalars(
        update(Image)
        .where(Image.id.in_(in_order(Image, Image.id.in_(images), Image.deleted_at.is_(None))))
        .values(deleted_at=moment, item_pk=None)
        .returning(Image.id)
        .execution_options(synchronize_session=False)
    ).all()
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_(in_order(Embedding, Embedding.image_id.in_(ids))))
        .values(
            state=EmbeddingState.DELETING,
            lease=None,
            lease_until=func.coalesce(Embedding.lease_until, moment - 2 * WRITE_MARGIN),
            updated_at=moment,
        )
        .execution_options(synchronize_session=False)
    )
    purge_images(session, ids)
    return len(ids)


@dataclass(frozen=True)
class Deletion:
    """Vectors of one collection that must go."""

    collection: str
    image_ids: tuple[int, ...]
    embedding_ids: tuple[int, ...]


def deletable(session: Session, limit: int) -> Deletion | None:
    """Rows of one index whose vector nobody can write any more."""
    safe = and_(Embedding.state == EmbeddingState.DELETING, Embedding.lease_until < now() - WRITE_MARGIN)
    index_id = session.scalar(select(Embedding.index_id).where(safe).limit(1))
    if index_id is None:
        return None
    rows = session.execute(
        select(Embedding.id, Embedding.image_id).where(safe, Embedding.index_id == index_id).limit(limit)
    ).all()
    collection = session.scalars(select(IndexRow.collection).where(IndexRow.id == index_id)).one()
    return Deletion(collection, tuple(row.image_id for row in rows), tuple(row.id for row in rows))


def forget(session: Session, deletion: Deletion) -> None:
    """Drop the rows of vectors that are proven gone, images left without rows, and note orphaned bytes."""
    _lock_images(session, deletion.image_ids)
    _drop_rows(session, deletion.embedding_ids)
    purge_images(session, deletion.image_ids)


def _lock_images(session: Session, image_ids: Collection[int]) -> None:
    """Of two that each drop a row of one image, the later must see that it drops the last."""
    session.execute(in_order(Image, Image.id.in_(image_ids)))


def _drop_rows(session: Session, embedding_ids: Collection[int]) -> int:
    """Drop ledger rows; returns how many there were."""
    result = session.execute(
        delete(Embedding)
        .where(Embedding.id.in_(in_order(Embedding, Embedding.id.in_(embedding_ids))))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount


def purge_images(session: Session, image_ids: Collection[int]) -> None:
    """Drop those of the images that are deleted and have no ledger row left; note their bytes as orphans."""
    still_used = exists().where(Embedding.image_id == Image.id)
    hashes = session.scalars(
        delete(Image)
        .where(Image.id.in_(image_ids), Image.deleted_at.is_not(None), ~still_used)
        .returning(Image.sha256)
        .execution_options(synchronize_session=False)
    ).all()
    if hashes:
        referenced = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(hashes))))
        note_orphans(session, set(hashes) - referenced)


def note_orphans(session: Session, hashes: Collection[str]) -> None:
    """Bytes that nothing may refer to any more: their collection, after the grace period, looks again."""
    # In one order: who adds bytes waits for another who is adding the same.
    orphans = [{"sha256": sha256, "since": now()} for sha256 in sorted(hashes)]
    if orphans:
        session.execute(insert(session, OrphanBlob).on_conflict_do_nothing(), orphans)


def keep_orphans(session: Session, hashes: Select[str | None] | Collection[str]) -> None:
    """Bytes that rows of this transaction refer to: they are not collected."""
    found = select(OrphanBlob.sha256).where(OrphanBlob.sha256.in_(hashes))
    session.execute(
        delete(OrphanBlob)
        .where(OrphanBlob.sha256.in_(found.order_by(OrphanBlob.sha256).with_for_update()))
        .execution_options(synchronize_session=False)
    )


def may_be_written(session: Session, index_id: int) -> bool:
    """Whether a worker that claimed rows of the index may still write to its collection."""
    held = (
        select(Embedding.id)
        .where(Embedding.index_id == index_id, Embedding.lease_until > now() - WRITE_MARGIN)
        .limit(1)
    )
    # A row may be put back to pending while it is refreshed; of one that was deleted in a worker's hands `lease_until`
    # is still that of the lease.
    in_hands = [EmbeddingState.LEASED, EmbeddingState.PENDING, EmbeddingState.DELETING]
    queries = (held.where(Embedding.state.in_(in_hands)), held.where(stale()).order_by(Embedding.id))
    return any(session.scalar(query) is not None for query in queries)


def clear_index(session: Session, index_id: int, limit: int) -> int:
    """Drop up to `limit` ledger rows of a retired or failed index; returns how many."""
    rows = session.execute(
        select(Embedding.id, Embedding.image_id).where(Embedding.index_id == index_id).limit(limit)
    ).all()
    _lock_images(session, [row.image_id for row in rows])
    dropped = _drop_rows(session, [row.id for row in rows])
    purge_images(session, [row.image_id for row in rows])
    return dropped
