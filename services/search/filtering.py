"""Who applies a filter: the vector store, by ids or by a condition, or SQL alone. SQL has the last word always."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from services.caching import Recent
from services.catalog import found
from services.catalog.filter_sql import to_sql
from services.catalog.filters import Filter
from services.errors import NotFound
from services.facets import condition
from services.vectors.conditions import Condition
from services.wiring import Services

# So many ids are searched among exactly, and in less time than the vector store would take to filter.
MOST_IDS: Final = 1000
PROBE_SECONDS: Final = 0.15
# Instructions of SQLite's machine between two looks at the clock: some tens of microseconds.
_INSTRUCTIONS = 10_000

_LIMITS = text("SELECT set_config('statement_timeout', :milliseconds, true), set_config('jit', 'off', true)")

FilteredBy = Literal["none", "ids", "vectors", "database"]


@dataclass(frozen=True)
class Plan:
    """How a search keeps to its filter.

    Attributes:
        sql: what every hit has to meet; None without a filter.
        among: the ids of all pictures that match.
        where: what the vector store leaves out hits by; some that pass it may not match.
    """

    by: FilteredBy = "none"
    sql: ColumnElement[bool] | None = None
    among: tuple[int, ...] | None = None
    where: Condition | None = None


# Filters that more pictures match than are searched among, by collection: probing again would take the longest where it
# says least.
_broad: Recent[tuple[str, Filter], Literal[True]] = Recent(1000, seconds=60)


def plan(services: Services, catalog_id: int, collection: str, wanted: Filter | None) -> Plan:
    """Choose how to search with a filter."""
    if wanted is None:
        return Plan()
    sql = to_sql(wanted)
    if not _broad.get((collection, wanted)):
        among = _matching(services, catalog_id, sql)
        if among is not None:
            return Plan("ids", sql, among=among)
        _broad.put((collection, wanted), True)
    where = condition(wanted) if _filters(services, collection) else None
    return Plan("database", sql) if where is None else Plan("vectors", sql, where=where)


def _filters(services: Services, collection: str) -> bool:
    try:
        return services.vectors.filters(collection)
    except NotFound:  # no picture was ever embedded
        return False


def _matching(services: Services, catalog_id: int, sql: ColumnElement[bool]) -> tuple[int, ...] | None:
    """The ids of all living pictures that match, None where there are more than MOST_IDS or it takes too long."""
    with services.database.reading() as session:
        try:
            ids = _within(session, found.matching(catalog_id, sql, MOST_IDS + 1), PROBE_SECONDS)
        except OperationalError as error:
            if not _cut_short(error):
                raise
            session.rollback()
            return None
    return tuple(ids) if len(ids) <= MOST_IDS else None


def _within(session: Session, statement: Any, seconds: float) -> list[int]:
    """The numbers that a statement selects; the database ends it when the time is over."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        # Compiling the statement, as PostgreSQL does for those that look expensive, can take all the time there is.
        session.execute(_LIMITS, {"milliseconds": str(round(seconds * 1000))})
        return list(session.scalars(statement))
    until = time.monotonic() + seconds
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > until, _INSTRUCTIONS)
    try:
        return list(session.scalars(statement))
    finally:
        driver.set_progress_handler(None, 0)


def _cut_short(error: OperationalError) -> bool:
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    return getattr(error.orig, "sqlstate", None) == "57014"  # query_canceled
