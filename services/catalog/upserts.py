"""INSERT … ON CONFLICT, which SQLite and PostgreSQL spell alike but SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from services.catalog.models import Base


def insert(session: Session, model: type[Base]) -> sqlite.Insert:
    """The dialect's own INSERT, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if session.get_bind().dialect.name == "postgresql":
        # Both classes have the same methods with the same arguments; typing them as one keeps callers simple.
        return postgresql.insert(model)  # type: ignore[return-value]
    return sqlite.insert(model)
