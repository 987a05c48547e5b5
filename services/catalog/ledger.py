"""The ledger: which image must be embedded into which index, claimed under leases.

A row moves pending → leased → indexed | failed; a delete moves it to deleting from anywhere, then it goes.
A lease is a random token with an end. Every transition out of `leased` compares the token (compare-and-set),
so of two workers that hold a row one after the other only the present holder can mark it. The races:

| what meets                                   | what happens                                                    |
| -------------------------------------------- | --------------------------------------------------------------- |
| worker dies holding rows                     | the lease ends, `recover` takes the rows back                   |
| worker is slow, another claims after the end | both write the same vector under the same id; the slow one's    |
|                                              | mark fails and it leaves the vector, which the other needs      |
| image deleted while leased                   | the row is `deleting`, the mark fails, the worker deletes what  |
|                                              | it wrote; `deletable` waits for the lease to end and beyond, so |
|                                              | a worker that dies between write and mark leaves nothing either |
| image deleted while pending or indexed       | nobody holds it: deleted at once                                |
| same message twice, two workers at once      | SKIP LOCKED (PostgreSQL) or the write lock (SQLite) gives each  |
|                                              | row to one of them                                              |
| index retired while leased                   | the mark succeeds or the lease ends; `may_be_written` holds the |
|                                              | drop of its collection back until then                          |
| a picture kills the worker again and again   | attempts count claims; from the second on a row is claimed      |
|                                              | alone, so its neighbours pass; at the limit it is failed        |
| Milvus or storage is away                    | `release` gives the rows back and takes the attempt off again   |
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, Select, and_, delete, exists, func, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import (
    MAINTAINED,
    Catalog,
    Embedding,
    EmbeddingState,
    Image,
    IndexRow,
    IndexState,
    Item,
    OrphanBlob,
)
from services.catalog.upserts import insert

# From this attempt on a row is claimed alone: whatever kills workers then takes no neighbour with it.
ALONE_FROM = 2
# A worker checks its lease before a write that may take this long at most; deletes wait as much longer.
WRITE_MARGIN = timedelta(seconds=60)


@dataclass(frozen=True)
class Claim:
    """One row under lease."""

    embedding_id: int
    image_id: int
    sha256: str


@dataclass(frozen=True)
class Lease:
    """A batch of rows of one index, held until `until`."""

    token: str
    index_id: int
    until: datetime
    claims: tuple[Claim, ...]


def open_rows(session: Session, image_ids: Collection[int], catalog_id: int) -> None:
    """Give each image a pending row in every maintained index of its catalog.

    The caller holds `catalogs.lock_shared`, so that no index starts or goes live meanwhile.
    """
    index_ids = session.scalars(
        select(IndexRow.id).where(IndexRow.catalog_id == catalog_id, IndexRow.state.in_(MAINTAINED))
    ).all()
    rows = [
        {"image_id": image, "index_id": index, "state": EmbeddingState.PENDING, "attempts": 0, "updated_at": now()}
        for image in image_ids
        for index in index_ids
    ]
    if rows:
        session.execute(insert(session, Embedding).on_conflict_do_nothing(), rows)


def indexes_with_work(session: Session) -> Sequence[int]:
    """Ids of indexes with rows to claim, live ones first: a fresh upload does not wait for a reindex."""
    moment = now()
    waiting = exists().where(Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.PENDING)
    expired = exists().where(
        Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.LEASED, Embedding.lease_until < moment
    )
    rows = session.execute(
        select(IndexRow.id, IndexRow.state).where(IndexRow.state.in_(MAINTAINED), waiting | expired)
    ).all()
    return [row.id for row in sorted(rows, key=lambda row: (row.state != IndexState.LIVE, row.id))]


def recover(session: Session, index_id: int, max_attempts: int) -> Sequence[int]:
    """Take rows of ended leases back, and fail those that were tried as often as may be; returns their image ids."""
    session.execute(
        update(Embedding)
        .where(
            Embedding.index_id == index_id,
            Embedding.state == EmbeddingState.LEASED,
            Embedding.lease_until < now(),
        )
        .values(state=EmbeddingState.PENDING, lease=None)
    )
    return session.scalars(
        update(Embedding)
        .where(
            Embedding.index_id == index_id,
            Embedding.state == EmbeddingState.PENDING,
            Embedding.attempts >= max_attempts,
        )
        .values(
            state=EmbeddingState.FAILED,
            error_code=func.coalesce(Embedding.error_code, "attempts_exhausted"),
            error_detail=func.coalesce(
                Embedding.error_detail, f"{max_attempts} workers died or stalled while they held this picture"
            ),
            updated_at=now(),
        )
        .returning(Embedding.image_id)
        .execution_options(synchronize_session=False)
    ).all()


def claim(session: Session, index_id: int, *, limit: int, lease: timedelta) -> Lease | None:
    """Lease up to `limit` pending rows of an index; None where there are none. Call `recover` first."""
    moment = now()
    pending = session.execute(
        select(Embedding.id, Embedding.attempts, Embedding.image_id, Image.sha256)
        .join(Image, Image.id == Embedding.image_id)
        .where(Embedding.index_id == index_id, Embedding.state == EmbeddingState.PENDING)
        .order_by(Embedding.attempts, Embedding.id)
        .limit(limit)
        .with_for_update(of=Embedding, skip_locked=True)
    ).all()
    if not pending:
        return None
    rows = [row for row in pending if row.attempts < ALONE_FROM] or pending[:1]
    held = Lease(
        token=uuid.uuid4().hex,
        index_id=index_id,
        until=moment + lease,
        claims=tuple(Claim(row.id, row.image_id, row.sha256) for row in rows),
    )
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_([row.id for row in rows]))
        .values(
            state=EmbeddingState.LEASED,
            lease=held.token,
            lease_until=held.until,
            attempts=Embedding.attempts + 1,
            updated_at=moment,
        )
    )
    return held


def mark_indexed(session: Session, lease: Lease, embedding_ids: Iterable[int]) -> set[int]:
    """Compare-and-set leased → indexed; returns the embedding ids that the lease still held."""
    return _leave_lease(session, lease, embedding_ids, state=EmbeddingState.INDEXED, error_code=None, error_detail=None)


def mark_failed(session: Session, lease: Lease, embedding_id: int, code: str, detail: str) -> None:
    """Compare-and-set leased → failed, with the reason."""
    _leave_lease(session, lease, [embedding_id], state=EmbeddingState.FAILED, error_code=code, error_detail=detail)


def mark_for_retry(session: Session, lease: Lease, embedding_id: int, code: str, detail: str) -> None:
    """Compare-and-set leased → pending, keeping the attempt and its reason."""
    _leave_lease(session, lease, [embedding_id], state=EmbeddingState.PENDING, error_code=code, error_detail=detail)


def retry_failed(session: Session, image_ids: Select[int | None] | Collection[int]) -> None:
    """Failed → pending for images that were uploaded again, or are retried: bytes or decoder may be better now."""
    session.execute(
        update(Embedding)
        .where(Embedding.image_id.in_(image_ids), Embedding.state == EmbeddingState.FAILED)
        .values(state=EmbeddingState.PENDING, attempts=0, error_code=None, error_detail=None, updated_at=now())
    )


def release(session: Session, lease: Lease) -> None:
    """Give all rows back as if never claimed: the fault was not theirs."""
    ids = [claim.embedding_id for claim in lease.claims]
    _leave_lease(session, lease, ids, state=EmbeddingState.PENDING, attempts=Embedding.attempts - 1)


def _leave_lease(session: Session, lease: Lease, embedding_ids: Iterable[int], **values: object) -> set[int]:
    ids = list(embedding_ids)
    held = session.scalars(
        update(Embedding)
        .where(Embedding.id.in_(ids), Embedding.state == EmbeddingState.LEASED, Embedding.lease == lease.token)
        .values(lease=None, lease_until=None, updated_at=now(), **values)
        .returning(Embedding.id)
        .execution_options(synchronize_session=False)
    )
    return set(held)


def abandoned(session: Session, lease: Lease, embedding_ids: Collection[int]) -> list[int]:
    """Image ids among lost rows that nobody will write again: deleted, or their index is retired."""
    wanted = set(
        session.scalars(
            select(Embedding.id).where(Embedding.id.in_(embedding_ids), Embedding.state != EmbeddingState.DELETING)
        )
    )
    return [c.image_id for c in lease.claims if c.embedding_id in embedding_ids and c.embedding_id not in wanted]


def delete_images(session: Session, images: Select[int] | Sequence[int]) -> int:
    """Tombstone images, given by their ids or a SELECT of ids; returns how many were alive."""
    moment = now()
    ids = session.scalars(
        update(Image)
        .where(Image.id.in_(images), Image.deleted_at.is_(None))
        .values(deleted_at=moment, item_pk=None)
        .returning(Image.id)
        .execution_options(synchronize_session=False)
    ).all()
    session.execute(
        update(Embedding)
        .where(Embedding.image_id.in_(ids))
        .values(
            state=EmbeddingState.DELETING,
            lease=None,
            lease_until=func.coalesce(Embedding.lease_until, moment - 2 * WRITE_MARGIN),
            updated_at=moment,
        )
        .execution_options(synchronize_session=False)
    )
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
    session.execute(delete(Embedding).where(Embedding.id.in_(deletion.embedding_ids)))
    purge_images(session, deletion.image_ids)


def _lock_images(session: Session, image_ids: Collection[int]) -> None:
    """Of two that each drop a row of one image, the later must see that it drops the last."""
    session.execute(select(Image.id).where(Image.id.in_(image_ids)).order_by(Image.id).with_for_update())


def purge_images(session: Session, image_ids: Collection[int]) -> None:
    """Drop those of the images that are deleted and have no ledger row left; note their bytes as orphans."""
    still_used = exists().where(Embedding.image_id == Image.id)
    hashes = session.scalars(
        delete(Image)
        .where(Image.id.in_(image_ids), Image.deleted_at.is_not(None), ~still_used)
        .returning(Image.sha256)
        .execution_options(synchronize_session=False)
    ).all()
    referenced = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(hashes))))
    note_orphans(session, set(hashes) - referenced)


def note_orphans(session: Session, hashes: Collection[str]) -> None:
    """Bytes that nothing may refer to any more: their collection, after the grace period, looks again."""
    orphans = [{"sha256": sha256, "since": now()} for sha256 in hashes]
    if orphans:
        session.execute(insert(session, OrphanBlob).on_conflict_do_nothing(), orphans)


def may_be_written(session: Session, index_id: int) -> bool:
    """Whether a worker that claimed rows of the index may still write to its collection."""
    return bool(
        session.scalar(
            select(Embedding.id)
            .where(
                Embedding.index_id == index_id,
                Embedding.state == EmbeddingState.LEASED,
                Embedding.lease_until > now() - WRITE_MARGIN,
            )
            .limit(1)
        )
    )


def clear_index(session: Session, index_id: int, limit: int) -> int:
    """Drop up to `limit` ledger rows of a retired or failed index; returns how many."""
    rows = session.execute(
        select(Embedding.id, Embedding.image_id).where(Embedding.index_id == index_id).limit(limit)
    ).all()
    _lock_images(session, [row.image_id for row in rows])
    result = session.execute(delete(Embedding).where(Embedding.id.in_([row.id for row in rows])))
    assert isinstance(result, CursorResult)
    purge_images(session, [row.image_id for row in rows])
    return result.rowcount


def failed_rows(session: Session, index_id: int, *, after: int, limit: int) -> Sequence[tuple[Embedding, str | None]]:
    """Failed rows of an index with the client's id of their item, from the one after id `after`."""
    return [
        (row.Embedding, row.item_id)
        for row in session.execute(
            select(Embedding, Item.item_id)
            .join(Image, Image.id == Embedding.image_id)
            .outerjoin(Item, Item.id == Image.item_pk)
            .where(Embedding.index_id == index_id, Embedding.state == EmbeddingState.FAILED, Embedding.id > after)
            .order_by(Embedding.id)
            .limit(limit)
        )
    ]


def live_row(session: Session, image_id: int) -> Embedding | None:
    """The row of an image in its catalog's live index."""
    return session.scalar(
        select(Embedding)
        .join(Catalog, Catalog.live_index_id == Embedding.index_id)
        .where(Embedding.image_id == image_id)
    )


def is_complete(session: Session, index_id: int) -> bool:
    """Whether no row of an index is on its way."""
    on_the_way = [EmbeddingState.PENDING, EmbeddingState.LEASED]
    row = select(Embedding.id).where(Embedding.index_id == index_id, Embedding.state.in_(on_the_way)).limit(1)
    return session.scalar(row) is None


def counts(session: Session, index_id: int) -> dict[EmbeddingState, int]:
    """Rows of an index by state; states without rows are 0."""
    found = session.execute(
        select(Embedding.state, func.count()).where(Embedding.index_id == index_id).group_by(Embedding.state)
    ).all()
    return dict.fromkeys(EmbeddingState, 0) | {EmbeddingState(state): count for state, count in found}
