"""What the ledger has for workers to do, in the order in which they do it."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """An index with rows that wait for a worker: pending ones to embed, or stale ones to refresh.

    Attributes:
        overdue: it goes before others only because it has waited for PATIENCE.
    """

    index_id: int
    refreshes: bool
    overdue: bool = False


def turns(session: Session, *, in_order: bool = False) -> list[Turn]:
    """Indexes with work: fresh uploads, then changed items, imports, and a reindex; catalogs take turns.

    A stream of uploads, or a refresh of very many items, does not stop the imports of other catalogs: what is overdue
    comes first.

    Args:
        in_order: nothing does. A worker whose last turn was an overdue one wants this, so that an upload waits for one
            batch more at most.
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
    for row in rows:
        # In the future it would be that of a clock that was ahead.
        since = row.claimed_at if row.claimed_at and row.claimed_at < moment + PATIENCE else _NEVER
        turn = (row.state != IndexState.LIVE, since, row.id)
        if row.refreshes:
            order.append((Priority.IMPORT, False, *turn))
        if row.embeds:
            order.append((Priority.IMPORT if row.priority is None else row.priority, True, *turn))
    order.sort()
    found = [Turn(index_id, not embeds) for _, embeds, *_, index_id in order]
    overdue = [
        (since, place)
        for place, (priority, _, not_live, since, _) in enumerate(order)
        if priority <= Priority.IMPORT and not not_live and since < moment - PATIENCE
    ]
    if overdue and not in_order and (place := min(overdue)[1]) > 0:
        found.insert(0, replace(found.pop(place), overdue=True))
    return found
