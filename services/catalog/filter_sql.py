"""Filters over items as SQL, on SQLite and PostgreSQL alike. What they mean is said in services/catalog/filters.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Float,
    Select,
    String,
    TableValuedAlias,
    and_,
    case,
    exists,
    literal,
    not_,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from services.catalog.filters import (
    BOUNDS,
    MOMENTS,
    Among,
    And,
    Exists,
    Filter,
    Leaf,
    Member,
    Not,
    Or,
    Scalar,
    Within,
    typed,
)
from services.catalog.models import Item


def to_sql(wanted: Filter) -> ColumnElement[bool]:
    """The condition on `Item` that holds for the same items; it is never NULL, and never fails in the database."""
    match wanted:
        case And(parts):
            return and_(*map(to_sql, parts))
        case Or(parts):
            return or_(*map(to_sql, parts))
        case Not(part):
            return not_(to_sql(part))
    if isinstance(wanted.field, Member):
        return _on_member(wanted.field.name, wanted)
    return _on_attribute(wanted.field.path, wanted)


def _on_member(name: str, leaf: Leaf) -> ColumnElement[bool]:
    column: ColumnElement[Any] = getattr(Item, name)
    match leaf:
        case Exists():
            return column.is_not(None)
        case Among(_, values):
            return and_(column.is_not(None), column.in_(values if name in MOMENTS else _texts(values)))
        case Within(_, bounds):
            left = column if name in MOMENTS else _ByCodePoint(column)
            return and_(column.is_not(None), *(BOUNDS[bound](left, value) for bound, value in bounds))


# JSON is read as rows of key, type and value, which SQLite's json_each gives: by a path, releases such as 3.40 do not
# find keys that are escaped in the text, as é and quotes are. A row's value is asked about where its type is known.
# Lists of values travel as one JSON parameter: databases limit how many parameters there may be, and numbers are
# then read from text on both sides. SQLite 3.51 reads one in seven 17-digit decimals as the double beside the nearest.


def _on_attribute(path: tuple[str, ...], leaf: Leaf) -> ColumnElement[bool]:
    # One row of each, joined: as subqueries in one another, long paths would overflow SQLite's parser.
    rows: list[TableValuedAlias] = []
    parent: ColumnElement[Any] = type_coerce(Item.attributes, JSON)
    for _ in path:
        row = _Members(parent).table_valued("key", "type", "value", joins_implicitly=True)
        parent = case((row.c.type == "object", row.c.value), else_="{}")
        rows.append(row)
    keys = [row.c.key == name for row, name in zip(rows, path, strict=True)]
    return exists().select_from(*rows).where(*keys, _test(rows[-1], leaf))


def _test(row: TableValuedAlias, leaf: Leaf) -> ColumnElement[bool]:
    match leaf:
        case Exists():
            return row.c.type != "null"
        case Among(_, values):
            element = _elements(case((row.c.type == "array", row.c.value), else_="[]"))
            inside = exists().select_from(element).where(_is_among(element, values))
            return or_(_is_among(row, values), inside)
        case Within(_, bounds) if isinstance(bounds[0][1], str):
            left = _ByCodePoint(row.c.value)
            return and_(row.c.type == "text", *(BOUNDS[name](left, value) for name, value in bounds))
        case Within(_, bounds):
            return and_(*(BOUNDS[name](_Double(row), _numbers([value]).scalar_subquery()) for name, value in bounds))


def _is_among(row: TableValuedAlias, values: tuple[Scalar, ...]) -> ColumnElement[bool]:
    tests: list[ColumnElement[bool]] = []
    if texts := [value for value in values if isinstance(value, str)]:
        tests.append(and_(row.c.type == "text", row.c.value.in_(_texts(texts))))
    if numbers := [value for value in values if typed(value)[0] is float]:
        tests.append(_Double(row).in_(_numbers(numbers)))
    tests += [row.c.type == str(value).lower() for value in (True, False) if any(value is each for each in values)]
    return or_(*tests)


def _texts(values: Sequence[Scalar]) -> Select[str]:
    return select(_elements(literal(json.dumps(values))).c.value)


def _numbers(values: Sequence[Scalar]) -> Select[float]:
    return select(_Double(_elements(literal(json.dumps(values)))))


def _elements(array: ColumnElement[Any]) -> TableValuedAlias:
    return _Elements(array).table_valued("type", "value")


class _Members(FunctionElement[Any]):
    """The members of a JSON object as rows of key, type and value; the type of a boolean is its value."""

    inherit_cache = True


class _Elements(FunctionElement[Any]):
    """The elements of a JSON array as rows of type and value."""

    inherit_cache = True


class _Double(FunctionElement[float]):
    """The number in such a row, NULL if it holds something else."""

    inherit_cache = True
    type = Float()

    def __init__(self, row: TableValuedAlias) -> None:
        super().__init__(row.c.type, row.c.value)


class _ByCodePoint(FunctionElement[str]):
    """Text that compares by code point, whatever the database's collation is."""

    inherit_cache = True
    type = String()


@compiles(_Members, "sqlite")
@compiles(_Elements, "sqlite")
def _sqlite_rows(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Members, "postgresql")
def _postgres_members(element: _Members, compiler: SQLCompiler, **options: Any) -> str:
    return _postgres_rows("key, ", f"json_each(CAST({compiler.process(element.clauses, **options)} AS json))")


@compiles(_Elements, "postgresql")
def _postgres_elements(element: _Elements, compiler: SQLCompiler, **options: Any) -> str:
    return _postgres_rows("", f"json_array_elements(CAST({compiler.process(element.clauses, **options)} AS json))")


def _postgres_rows(key: str, source: str) -> str:
    value = "value #>> '{}'"
    kind = f"CASE json_typeof(value) WHEN 'string' THEN 'text' WHEN 'boolean' THEN {value} ELSE json_typeof(value) END"
    return f"LATERAL (SELECT {key}{kind} AS type, {value} AS value FROM {source})"  # noqa: S608 - values are parameters


@compiles(_Double, "sqlite")
def _sqlite_double(element: _Double, compiler: SQLCompiler, **options: Any) -> str:
    kind, value = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CASE WHEN {kind} IN ('integer', 'real') THEN CAST({value} AS REAL) END"


@compiles(_Double, "postgresql")
def _postgres_double(element: _Double, compiler: SQLCompiler, **options: Any) -> str:
    kind, value = (compiler.process(clause, **options) for clause in element.clauses)
    # What rounds to infinity cannot be converted: integers from 2**1024 - 2**970 on.
    return (
        f"CASE WHEN {kind} <> 'number' THEN NULL"
        f" WHEN abs(CAST({value} AS numeric)) < 2.0 ^ 1024 - 2.0 ^ 970 THEN CAST({value} AS float8)"
        f" WHEN left({value}, 1) = '-' THEN float8 '-Infinity' ELSE float8 'Infinity' END"
    )


@compiles(_ByCodePoint, "sqlite")
def _sqlite_by_code_point(element: _ByCodePoint, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(_ByCodePoint, "postgresql")
def _postgres_by_code_point(element: _ByCodePoint, compiler: SQLCompiler, **options: Any) -> str:
    return f'({compiler.process(element.clauses, **options)} COLLATE "C")'
