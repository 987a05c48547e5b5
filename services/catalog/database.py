"""The engine and its two kinds of transaction, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from services.errors import Unavailable

BUSY_SECONDS = 30
# Values stay out of logged errors; threads beyond the pool get connections of their own for a while.
# The connection that was used last is used next: SQLite keeps pages in each, PostgreSQL's process its plans.
_POOL: dict[str, Any] = {"hide_parameters": True, "pool_size": 10, "max_overflow": 30, "pool_use_lifo": True}


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


class Database:
    """Opens transactions. Connects at first use, so it may be created before a fork."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = _engine(url)
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(
            self.engine.execution_options(akin_begin="BEGIN"), expire_on_commit=False, autoflush=False
        )
        # Each statement by itself: without a transaction a round trip or two less.
        alone: dict[str, Any] = {"akin_begin": None} if _is_sqlite(self.url) else {"isolation_level": "AUTOCOMMIT"}
        self._rows = self.engine.execution_options(**alone)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work: committed at the end of the block, rolled back by any exception.

        On SQLite it is a BEGIN IMMEDIATE: writers queue up instead of failing half-way.

        Raises:
            Unavailable: the database does not answer.
        """
        with _translated(), self._write() as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view for reading; whatever it writes is rolled back.

        Raises:
            Unavailable: the database does not answer.
        """
        with _translated(), self._read() as session:
            yield session

    @contextmanager
    def rows(self) -> Iterator[Connection]:
        """For reading plain rows where that is asked very often; each statement sees what is committed by then.

        A session costs as much as a small statement, and so does a transaction around it.

        Raises:
            Unavailable: the database does not answer.
        """
        with _translated(), self._rows.connect() as connection:
            yield connection

    def check(self) -> None:
        """One round trip.

        Raises:
            Unavailable: the database does not answer.
        """
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable("the database does not answer", part="database") from error
    except PoolTimeout as error:
        raise Unavailable("every connection to the database is in use", part="database") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("the database closed the connection", part="database") from error
        raise


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if _is_sqlite(parsed):
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS}, **_POOL)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    # A connection that died while idle is replaced instead of failing the first request after a restart.
    return create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 5}, **_POOL)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling cannot say BEGIN IMMEDIATE; `_sqlite_begin` does it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    begin = connection.get_execution_options().get("akin_begin", "BEGIN IMMEDIATE")
    if begin is not None:
        connection.exec_driver_sql(begin)
