"""Locks of many rows, always taken in the same order: two that change many rows at once do not lock each other out.

PostgreSQL locks the rows of an UPDATE or DELETE as it finds them, which is another order for everybody; of two that
wait for each other it ends one. `WHERE id IN (in_order(...))` locks them first.
"""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy import ColumnElement, Select, select

from services.catalog.models import Embedding, Image, JobEntry

Row = TypeVar("Row", Embedding, Image, JobEntry)


def in_order(kind: type[Row], *conditions: ColumnElement[bool]) -> Select[int]:
    """The ids of rows of a table, which it locks in their order."""
    return select(kind.id).where(*conditions).order_by(kind.id).with_for_update(of=kind)
