"""Statements that are asked all the time: put into words once, then run on the driver's own cursor.

To find the text of a statement, to spread a list of ids over its parameters and to wrap its result takes SQLAlchemy
several times as long as the database takes for a small answer, for each request anew. Here it is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, Connection, Dialect, Select, bindparam
from sqlalchemy.exc import DBAPIError

from services.catalog.models import BigId

# SQLite takes 32,766 parameters in one statement.
IDS_AT_ONCE: Final = 8192
# A list of ids is filled up to one of these lengths with its last one: databases know a text again that they had
# before, so there had better be few.
LENGTHS: Final = (1, 4, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 2048, 4096, IDS_AT_ONCE)

Statement = Select[*tuple[Any, ...]]
Row = Sequence[Any]


class _Text(NamedTuple):
    """A statement in the words of one kind of database.

    Attributes:
        names: its parameters in order; None where it has them by name.
        constants: those whose values the statement has itself.
        processors: of columns whose values the driver gives otherwise than they are wanted.
    """

    text: str
    names: Sequence[str] | None
    constants: Mapping[str, Any]
    processors: tuple[tuple[int, Callable[[Any], Any]], ...]


class Prepared:
    """A SELECT whose parameters are numbers and texts, which drivers take as they are."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Row]:
        """All rows, of a connection of `Database.rows()`.

        Raises:
            DBAPIError: what SQLAlchemy makes of the driver's errors.
        """
        dialect = connection.dialect
        asked = self._texts.get(dialect.name)
        if asked is None:
            asked = self._texts[dialect.name] = _text(self._statement, dialect)
        sent: Any = {**asked.constants, **values}
        if asked.names is not None:
            sent = [sent[name] for name in asked.names]
        driver = connection.connection
        rows: list[Row]
        try:
            with closing(driver.cursor()) as cursor:
                cursor.execute(asked.text, sent)
                rows = list(cursor.fetchall())
        except dialect.loaded_dbapi.Error as error:
            gone = dialect.is_disconnect(error, driver.dbapi_connection, None)
            if gone:
                connection.invalidate(error)
            raise DBAPIError.instance(
                asked.text, None, error, dialect.loaded_dbapi.Error, connection_invalidated=gone, dialect=dialect
            ) from error
        return [_processed(row, asked.processors) for row in rows] if asked.processors else rows


class PreparedAmong:
    """Prepared statements about lists of ids.

    Args:
        make: the SELECT, given the parameters of a list.
    """

    def __init__(self, make: Callable[[Sequence[BindParameter[int]]], Statement]) -> None:
        self._make = make
        self._by_length: dict[int, Prepared] = {}

    def rows(self, connection: Connection, ids: Sequence[int], **values: Any) -> list[Row]:
        """All rows for these ids, in no order. More than IDS_AT_ONCE are asked for one part after the other."""
        found: list[Row] = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            some = ids[start : start + IDS_AT_ONCE]
            length = next(length for length in LENGTHS if length >= len(some))
            prepared = self._by_length.get(length)
            if prepared is None:
                prepared = self._by_length[length] = Prepared(self._make(_parameters(length)))
            filled = [*some, *[some[-1]] * (length - len(some))]
            found += prepared.rows(connection, values | dict(zip(_NAMES, filled, strict=False)))
        return found


_NAMES: Final = tuple(f"id_{number}" for number in range(IDS_AT_ONCE))


def _parameters(length: int) -> list[BindParameter[int]]:
    return [bindparam(name, type_=BigId) for name in _NAMES[:length]]


def _text(statement: Statement, dialect: Dialect) -> _Text:
    compiled = statement.compile(dialect=dialect)
    processors = [
        column.type.dialect_impl(dialect).result_processor(dialect, None) for column in statement.selected_columns
    ]
    return _Text(
        str(compiled),
        compiled.positiontup if compiled.positional else None,
        {name: parameter.value for parameter, name in compiled.bind_names.items() if not parameter.required},
        tuple((number, process) for number, process in enumerate(processors) if process is not None),
    )


def _processed(row: Row, processors: Sequence[tuple[int, Callable[[Any], Any]]]) -> Row:
    values = list(row)
    for number, process in processors:
        values[number] = process(values[number])
    return values
