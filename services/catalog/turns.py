"""What the ledger has for workers to do, in the order in which they do it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Embedding, IndexRow
from services.catalog.revisions import claimable
from services.catalog.states import MAINTAINED, EmbeddingState, IndexState, Priority

_NEVER = datetime.min.replace(tzinfo=UTC)
# A live index that no worker has come to for so long has a turn, whatever goes before it.
PATIENCE = timedelta(seconds=5)


@dataclass(frozen=True)
class Turn:
    """An index with rows that wait for a worker: pending ones to embed, or stale ones to refresh."""

    index_id: int
    refreshes: bool


def turns(session: Session) -> list[Turn]:
    """Indexes with work: fresh uploads, then changed items, imports, and a reindex; catalogs take turns.

    A stream of uploads, or a refresh of very many items, does not stop the imports of other catalogs: each has a turn
    every PATIENCE, and of two turns one at most is such a one, so that an upload waits for one batch more.
    """
    pending = (Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.PENDING)
    expired = exists().where(
        Embedding.index_id == IndexRow.id, Embedding.state == EmbeddingState.LEASED, Embedding.lease_until < now()
    )
    # In the order of their index, without which SQLite would go through all indexed rows.
    stale = select(Embedding.id).where(Embedding.index_id == IndexRow.id, claimable()).order_by(Embedding.id).limit(1)
    rows = session.execute(
        select(
            IndexRow.id,
            IndexRow.state,
            IndexRow.claimed_at,
            select(func.min(Embedding.priority)).where(*pending).scalar_subquery().label("priority"),
            or_(exists().where(*pending), expired).label("embeds"),
            stale.scalar_subquery().is_not(None).label("refreshes"),
        ).where(IndexRow.state.in_(MAINTAINED))
    ).all()
    moment = now()
    order = []
    served = _NEVER
    for row in rows:
        # In the future it would be that of a clock that was ahead.
        since = row.claimed_at if row.claimed_at and row.claimed_at < moment + PATIENCE else _NEVER
        served = max(served, since)
        turn = (row.state != IndexState.LIVE, since, row.id)
        if row.refreshes:
            order.append((Priority.IMPORT, False, *turn))
        if row.embeds:
            order.append((Priority.IMPORT if row.priority is None else row.priority, True, *turn))
    order.sort()
    overdue = [
        (since, place)
        for place, (priority, _, not_live, since, _) in enumerate(order)
        if priority <= Priority.IMPORT and not not_live and since < moment - PATIENCE
    ]
    # Only if the last turn was none of those that wait behind the first in order.
    first = {turn[-1] for turn in order if turn[:2] == order[0][:2]}
    if overdue and all(turn[3] < served for turn in order if turn[-1] not in first):
        order.insert(0, order.pop(min(overdue)[1]))
    return [Turn(index_id, not embeds) for _, embeds, *_, index_id in order]
