"""What the ledger has for workers to do, in the order in which they do it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Embedding, IndexRow
from services.catalog.revisions import claimable
from services.catalog.states import MAINTAINED, EmbeddingState, IndexState, Priority

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Turn:
    """An index with rows that wait for a worker: pending ones to embed, or stale ones to refresh."""

    index_id: int
    refreshes: bool


def turns(session: Session) -> list[Turn]:
    """Indexes with work: fresh uploads, then changed items, imports, and a reindex; catalogs take turns."""
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
    order = []
    for row in rows:
        turn = (row.state != IndexState.LIVE, row.claimed_at or _NEVER, row.id)
        if row.refreshes:
            order.append((Priority.IMPORT, False, *turn))
        if row.embeds:
            order.append((Priority.IMPORT if row.priority is None else row.priority, True, *turn))
    return [Turn(index_id, not embeds) for _, embeds, *_, index_id in sorted(order)]
