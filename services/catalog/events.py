"""What visitors of a shop did with similar items, as the widget of its pages reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from services.catalog.database import now
from services.catalog.models import Event
from services.catalog.states import EventKind


@dataclass(frozen=True)
class Seen:
    """One event, in the client's ids.

    Args:
        item_id: whose page it was.
        shown: what was shown there, in order; of a click the one item.
        rank: of a click, the place of the item among those shown, from 1.
        index_id: the index that had ranked them.
    """

    kind: EventKind
    item_id: str
    shown: list[str]
    rank: int | None
    index_id: int | None


def record(session: Session, catalog_id: int, events: Sequence[Seen]) -> None:
    """Keep events of this moment. They are what visitors' browsers say, and nothing vouches for it."""
    moment = now()
    rows = [
        {
            "catalog_id": catalog_id,
            "kind": event.kind,
            "item_id": event.item_id,
            "shown": event.shown,
            "rank": event.rank,
            "index_id": event.index_id,
            "created_at": moment,
        }
        for event in events
    ]
    session.execute(insert(Event), rows)


def forget_old(session: Session, days: int, limit: int) -> int:
    """Delete events that are older than so many days, so many at a time; returns how many."""
    old = select(Event.id).where(Event.created_at < now() - timedelta(days=days)).limit(limit)
    return len(session.scalars(delete(Event).where(Event.id.in_(old)).returning(Event.id)).all())
