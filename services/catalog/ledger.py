"""The ledger: which image must be embedded into which index, claimed under leases.

A row moves pending → leased → indexed | failed; a delete moves it to deleting from anywhere, then it goes.
A lease is a random token with an end. Every transition out of `leased` compares the token (compare-and-set),
so of two workers that hold a row one after the other only the present holder can mark it. The races:

| what meets                                   | what happens                                                    |
| -------------------------------------------- | --------------------------------------------------------------- |
| worker dies holding rows                     | the lease ends, `recover` takes the rows back                   |
| worker is slow, another claims after the end | both write the same vector under the same id; the slow one's    |
|                                              | mark fails and it leaves the vector, which the other needs, but |
|                                              | has it refreshed: what filters see may be from before a change  |
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

An item may change while its vectors are in somebody's hands. What filters see of it is read, with its version, just
before the write (services/catalog/revisions.py); a row whose vector has an older version than wanted is refreshed:
claimed while it stays `indexed`, and its vector is written again, not encoded. The races of that:

| what meets                                   | what happens                                                    |
| -------------------------------------------- | --------------------------------------------------------------- |
| item changed while embedded or refreshed     | before the read: written as it is now; after it: `wanted_rev`   |
|                                              | is ahead of the version that is marked, so it is refreshed      |
| item changed while a row of it is made by a  | the change may miss the row, but the read before the write      |
| backfill                                     | waits for the change (a shared lock of the item)                |
| image deleted while refreshed                | as while leased: the row keeps `lease_until`                    |
| two refreshers                               | each row goes to one of them; after the end of a lease as above |
| worker dies while refreshing                 | the lease ends, and the row is claimable again, as stale as it  |
|                                              | was; it was searchable all the time                             |
| the vector is not there                      | a Strong read says so: the row goes back to pending             |
| an audit puts the row back meanwhile         | the mark fails, since the row is not indexed; who embeds it     |
|                                              | writes later, and it is refreshed once more                     |
| index retired while refreshed                | as while leased; one that is building or standby is refreshed   |
| Milvus is away                               | `give_back` leaves the rows stale; a delete waits for the lease |
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, case, func, literal, select, update
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.locking import in_order
from services.catalog.models import Catalog, Embedding, Image, IndexRow, Item
from services.catalog.states import MAINTAINED, EmbeddingState, Priority
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
    ended = (Embedding.state == EmbeddingState.LEASED, Embedding.lease_until < now())
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_(_free(index_id, *ended)))
        .values(state=EmbeddingState.PENDING, lease=None)
        .execution_options(synchronize_session=False)
    )
    exhausted = (Embedding.state == EmbeddingState.PENDING, Embedding.attempts >= max_attempts)
    return session.scalars(
        update(Embedding)
        .where(Embedding.id.in_(_free(index_id, *exhausted)))
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


def _free(index_id: int, *conditions: ColumnElement[bool]) -> Select[int]:
    """Ids of rows that nobody else is changing; the next look sees the others."""
    return select(Embedding.id).where(Embedding.index_id == index_id, *conditions).with_for_update(skip_locked=True)


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
    held = lease_of(session, index_id, rows, moment, lease)
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
        .execution_options(synchronize_session=False)
    )
    return held


def lease_of(
    session: Session, index_id: int, rows: Sequence[Row[*tuple[Any, ...]]], since: datetime, length: timedelta
) -> Lease:
    """A new lease of rows with `id`, `image_id` and `sha256`; whose turn it is next is noted with the index."""
    session.execute(update(IndexRow).where(IndexRow.id == index_id).values(claimed_at=since))
    claims = tuple(Claim(row.id, row.image_id, row.sha256) for row in rows)
    return Lease(token=uuid.uuid4().hex, index_id=index_id, until=since + length, claims=claims)


def mark_indexed(session: Session, lease: Lease, revs: Mapping[int, int]) -> set[int]:
    """Compare-and-set leased → indexed, with the versions that were written, by embedding id.

    Returns the ids that the lease still held.
    """
    done = {"state": EmbeddingState.INDEXED, "indexed_rev": rev_of(revs), "error_code": None, "error_detail": None}
    return _leave_lease(session, lease, revs, **done)


def mark_failed(session: Session, lease: Lease, embedding_id: int, code: str, detail: str) -> None:
    """Compare-and-set leased → failed, with the reason."""
    _leave_lease(session, lease, [embedding_id], state=EmbeddingState.FAILED, error_code=code, error_detail=detail)


def mark_for_retry(session: Session, lease: Lease, embedding_id: int, code: str, detail: str) -> None:
    """Compare-and-set leased → pending, keeping the attempt and its reason."""
    _leave_lease(session, lease, [embedding_id], state=EmbeddingState.PENDING, error_code=code, error_detail=detail)


def retry_failed(session: Session, image_ids: Select[int | None] | Collection[int]) -> None:
    """Failed → pending for images that were uploaded again, or are retried: bytes or decoder may be better now."""
    failed = in_order(Embedding, Embedding.image_id.in_(image_ids), Embedding.state == EmbeddingState.FAILED)
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_(failed))
        .values(state=EmbeddingState.PENDING, attempts=0, error_code=None, error_detail=None, updated_at=now())
        .execution_options(synchronize_session=False)
    )


def release(session: Session, lease: Lease) -> None:
    """Give all rows back as if never claimed: the fault was not theirs."""
    ids = {claim.embedding_id for claim in lease.claims}
    held = _leave_lease(session, lease, ids, state=EmbeddingState.PENDING, attempts=Embedding.attempts - 1)
    lost(session, lease, ids - held)  # a write that failed may have been done


def _leave_lease(session: Session, lease: Lease, embedding_ids: Iterable[int], **values: object) -> set[int]:
    return leave(session, lease, embedding_ids, EmbeddingState.LEASED, lease_until=None, **values)


def leave(
    session: Session, lease: Lease, embedding_ids: Iterable[int], held_in: EmbeddingState, **values: object
) -> set[int]:
    """Compare-and-set: rows that the lease holds, in this state, leave it with these values; returns their ids."""
    # All of the lease, for the transaction may go on with others of its rows.
    session.execute(in_order(Embedding, Embedding.id.in_([claim.embedding_id for claim in lease.claims])))
    held = session.scalars(
        update(Embedding)
        .where(Embedding.id.in_(list(embedding_ids)), Embedding.state == held_in, Embedding.lease == lease.token)
        .values(lease=None, updated_at=now(), **values)
        .returning(Embedding.id)
        .execution_options(synchronize_session=False)
    )
    return set(held)


def rev_of(revs: Mapping[int, int]) -> ColumnElement[int]:
    """The version of a row, given by embedding ids."""
    of: defaultdict[int, list[int]] = defaultdict(list)
    for embedding_id, rev in revs.items():
        of[rev].append(embedding_id)
    if len(of) <= 1:
        return literal(next(iter(of), 0))
    return case(*((Embedding.id.in_(ids), rev) for rev, ids in of.items()), else_=Embedding.indexed_rev)


def lost(session: Session, lease: Lease, embedding_ids: Collection[int]) -> list[int]:
    """Rows whose vectors were written under a lease that no longer held them.

    Those that others write too are refreshed: nobody knows whose version came last. Returns the image ids of those
    that nobody will write again: deleted, or their index is retired.
    """
    if not embedding_ids:
        return []
    want_rewritten(session, Embedding.id.in_(embedding_ids))
    wanted = set(
        session.scalars(
            select(Embedding.id).where(Embedding.id.in_(embedding_ids), Embedding.state != EmbeddingState.DELETING)
        )
    )
    return [c.image_id for c in lease.claims if c.embedding_id in embedding_ids and c.embedding_id not in wanted]


def want_rewritten(session: Session, condition: ColumnElement[bool]) -> None:
    """Raise the version of what filters see that the vector store should hold of some rows."""
    session.execute(
        update(Embedding)
        .where(Embedding.id.in_(in_order(Embedding, condition, Embedding.state != EmbeddingState.DELETING)))
        .values(wanted_rev=Embedding.wanted_rev + 1)
        .execution_options(synchronize_session=False)
    )


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
