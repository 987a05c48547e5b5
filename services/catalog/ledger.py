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
from datetime import UTC, datetime, timedelta

from sqlalchemy import Select, exists, func, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Item
from services.catalog.states import MAINTAINED, EmbeddingState, IndexState, Priority
from services.catalog.upserts import insert

# From this attempt on a row is claimed alone: whatever kills workers then takes no neighbour with it.
ALONE_FROM = 2
# A worker checks its lease before a write that may take this long at most; deletes wait as much longer.
WRITE_MARGIN = timedelta(seconds=60)
_NEVER = datetime.min.replace(tzinfo=UTC)


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


def open_rows(session: Session, image_ids: Collection[int], catalog_id: int, priority: Priority) -> None:
    """Give each image a pending row in every maintained index of its catalog.

    The caller holds `catalogs.lock_shared`, so that no index starts or goes live meanwhile.
    """
    index_ids = session.scalars(
        select(IndexRow.id).where(IndexRow.catalog_id == catalog_id, IndexRow.state.in_(MAINTAINED))
    ).all()
    rows = [
        {
            "image_id": image,
            "index_id": index,
            "state": EmbeddingState.PENDING,
            "priority": priority,
            "attempts": 0,
            "updated_at": now(),
        }
        for image in image_ids
        for index in index_ids
    ]
    if rows:
        session.execute(insert(session, Embedding).on_conflict_do_nothing(), rows)


def indexes_with_work(session: Session) -> Sequence[int]:
    """Ids of indexes with rows to claim: fresh uploads before imports, these before a reindex, and catalogs in turn."""
    pending = (Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.PENDING)
    expired = exists().where(
        Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.LEASED, Embedding.lease_until < now()
    )
    most_urgent = select(func.min(Embedding.priority)).where(*pending).scalar_subquery().label("priority")
    rows = session.execute(
        select(IndexRow.id, IndexRow.state, IndexRow.claimed_at, most_urgent).where(
            IndexRow.state.in_(MAINTAINED), exists().where(*pending) | expired
        )
    ).all()
    turn = sorted(
        (Priority.IMPORT if row.priority is None else row.priority, row.state != IndexState.LIVE, moment, row.id)
        for row in rows
        for moment in [row.claimed_at or _NEVER]
    )
    return [index_id for *_, index_id in turn]


def waiting(session: Session, limit: int, catalog_id: int, priority: Priority) -> int:
    """How many rows of a catalog with this priority, or a more urgent one, wait for a worker; counted up to a limit."""
    maintained = select(IndexRow.id).where(IndexRow.state.in_(MAINTAINED), IndexRow.catalog_id == catalog_id)
    some = (
        select(Embedding.id)
        .where(
            Embedding.index_id.in_(maintained),
            Embedding.state == EmbeddingState.PENDING,
            Embedding.priority <= priority,
        )
        .limit(limit)
        .subquery()
    )
    return session.scalar(select(func.count()).select_from(some)) or 0


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
        .order_by(Embedding.priority, Embedding.attempts, Embedding.id)
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
    session.execute(update(IndexRow).where(IndexRow.id == index_id).values(claimed_at=moment))
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


def searchable(session: Session, image_ids: Collection[int]) -> set[int]:
    """Those of the images that the live index of their catalog holds."""
    return set(
        session.scalars(
            select(Embedding.image_id)
            .join(Catalog, Catalog.live_index_id == Embedding.index_id)
            .where(Embedding.image_id.in_(image_ids), Embedding.state == EmbeddingState.INDEXED)
        )
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
