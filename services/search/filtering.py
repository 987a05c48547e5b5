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
from services.catalog import found, revisions
from services.catalog.filter_sql import to_sql
from services.catalog.filters import AsWritten, Filter
from services.catalog.found import LiveIndex
from services.catalog.models import Embedding, Image
from services.errors import NotFound
from services.facets import condition
from services.vectors.base import MAX_LIMIT
from services.vectors.conditions import Condition
from services.wiring import Services

# So many ids are searched among exactly, and in less time than the vector store would take to filter.
MOST_IDS: Final = 1000
PROBE_SECONDS: Final = 0.15
# Where a page is still not full when all that is near was looked at, more ids are worth more time.
MOST_LISTED: Final = MAX_LIMIT
LIST_SECONDS: Final = 2.0
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
        changed: pictures that match and do not pass `where` yet, because their items have just changed.
    """

    by: FilteredBy = "none"
    sql: ColumnElement[bool] | None = None
    among: tuple[int, ...] | None = None
    where: Condition | None = None
    changed: tuple[int, ...] = ()


# Filters that more pictures match than so many, by collection: listing them again would take the longest where it says
# least. That it took too long once says little of the next time.
_broad: Recent[tuple[str, AsWritten, int], Literal[True]] = Recent(1000, seconds=60)


def plan(services: Services, catalog_id: int, index: LiveIndex, wanted: Filter | None, *, strong: bool) -> Plan:
    """Choose how to search with a filter.

    Args:
        strong: find also what has just been changed to match: MOST_IDS pictures at most, and none where SQL takes
            longer than PROBE_SECONDS to tell them.
    """
    if wanted is None:
        return Plan()
    sql = to_sql(wanted)
    among = _matching(services, catalog_id, index.collection, wanted, most=MOST_IDS, seconds=PROBE_SECONDS)
    if among is not None:
        return Plan("ids", sql, among=among)
    where = condition(wanted) if _filters(services, index.collection) else None
    if where is None:
        return Plan("database", sql)
    return Plan("vectors", sql, where=where, changed=_changed(services, catalog_id, index, sql) if strong else ())


def last_resort(services: Services, catalog_id: int, index: LiveIndex, wanted: Filter) -> Plan | None:
    """How to find what is too far away for other plans: by more ids. None where they are too many or take too long."""
    among = _matching(services, catalog_id, index.collection, wanted, most=MOST_LISTED, seconds=LIST_SECONDS)
    return None if among is None else Plan("ids", to_sql(wanted), among=among)


def _filters(services: Services, collection: str) -> bool:
    try:
        return services.vectors.filters(collection)
    except NotFound:  # no picture was ever embedded
        return False


def _matching(
    services: Services, catalog_id: int, collection: str, wanted: Filter, *, most: int, seconds: float
) -> tuple[int, ...] | None:
    """The ids of all living pictures that match, None where there are more than `most` or it takes too long."""
    key = (collection, AsWritten(wanted), most)
    if _broad.get(key):
        return None
    ids = _within(services, found.matching(catalog_id, to_sql(wanted), most + 1), seconds)
    if ids is not None and len(ids) > most:
        _broad.put(key, True)
        return None
    return ids


def _changed(services: Services, catalog_id: int, index: LiveIndex, sql: ColumnElement[bool]) -> tuple[int, ...]:
    """Pictures that match and whose vectors have not been written again since their items changed."""
    stale = (
        found.matching(catalog_id, sql, MOST_IDS)
        .join(Embedding, Embedding.image_id == Image.id)
        .where(Embedding.index_id == index.id, revisions.stale())
    )
    return _within(services, stale, PROBE_SECONDS) or ()


def _within(services: Services, statement: Any, seconds: float) -> tuple[int, ...] | None:
    """The numbers that a statement selects, None where the database had to end it because the time was over."""
    with services.database.reading() as session:
        try:
            return tuple(_timed(session, statement, seconds))
        except OperationalError as error:
            if not _cut_short(error):
                raise
            session.rollback()
            return None


def _timed(session: Session, statement: Any, seconds: float) -> list[int]:
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
