"""Records of JSON Lines and CSV files, each known by where it begins, so that reading can go on anywhere."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from services.catalog.fields import parse_json
from services.errors import InvalidRequest
from services.sources.names import ITEM_FIELDS
from services.sources.records import MAX_LINE, UNREADABLE_MANIFEST, lines, parse_object

ATTRIBUTE: Final = "attributes."
_COLUMNS: Final = (*ITEM_FIELDS, "image")
_MEMBERS: Final = (*_COLUMNS, "images")
_DELIMITERS: Final = ",;\t"


@dataclass(frozen=True, slots=True)
class Record:
    """A record: the line, from 1, and the offset where it begins, those after it, its members or what is wrong.

    A blank one has neither.
    """

    line: int
    start: int
    next_line: int
    end: int
    members: dict[str, Any] | ValueError | None


def json_records(reader: BinaryIO, start: int, line: int) -> Iterator[Record]:
    """The objects of a JSON Lines file from an offset on, at which line `line` begins."""
    for found in lines(reader, start, line):
        members: dict[str, Any] | ValueError | None
        try:
            members = parse_object(found)
            if unknown := (members or {}).keys() - set(_MEMBERS):
                members = ValueError(f"has unknown members: {', '.join(map(repr, sorted(unknown)))[:200]}")
        except ValueError as error:
            members = error
        yield Record(found.number, found.start, found.number + 1, found.end, members)


def csv_records(reader: BinaryIO, head: int, start: int, line: int) -> Iterator[Record]:
    """The rows of a CSV file (RFC 4180, or with semicolons or tabs) from an offset on, at which line `line` begins.

    Args:
        head: the offset of the header; rows from before its end are those from there on.

    Raises:
        InvalidRequest: the header does not fit (code manifest_unreadable).
    """
    reader.seek(head)
    counts = Counter(reader.readline(MAX_LINE).decode(errors="replace"))
    delimiter = max(_DELIMITERS, key=lambda character: counts[character])
    rows = _rows(reader, delimiter, head, 1)
    header = next(rows, None)
    names = _names([] if header is None else header.cells)
    if header is not None and start >= header.end:
        rows = _rows(reader, delimiter, start, line)
    for row in rows:
        try:
            members: dict[str, Any] | ValueError | None = _members(names, row.cells) or None
        except ValueError as error:
            members = error
        yield Record(row.line, row.start, row.next_line, row.end, members)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    start: int
    next_line: int
    end: int
    cells: list[str] | ValueError


class _Feed:
    """The lines that csv asks for, one at a time, as long as the record that it is at is not too long."""

    def __init__(self, reader: BinaryIO, start: int, line: int) -> None:
        self._lines = lines(reader, start, line)
        self.line = line
        self.end = start
        self.begin = start

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.line, self.end = line.number + 1, line.end
        if line.data is None or line.end - self.begin > MAX_LINE:
            raise ValueError(f"is longer than {MAX_LINE} bytes: perhaps a quotation mark is not closed")
        return line.data.decode()


def _rows(reader: BinaryIO, delimiter: str, start: int, line: int) -> Iterator[_Row]:
    feed = _Feed(reader, start, line)
    rows = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        start, line = feed.end, feed.line
        feed.begin = start
        cells: list[str] | ValueError
        try:
            cells = next(rows)
        except StopIteration:
            return
        # After each of them csv begins a new record with the next line.
        except ValueError as error:
            cells = error
        except csv.Error as error:
            cells = ValueError(f"is not valid CSV: {error}")
        yield _Row(line, start, feed.line, feed.end, cells)


def _names(header: list[str] | ValueError) -> list[str]:
    if isinstance(header, ValueError):
        raise InvalidRequest(f"The header {header}", code=UNREADABLE_MANIFEST)
    names = [name.strip() for name in header]
    for name in names:
        if name not in _COLUMNS and not (name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)):
            raise InvalidRequest(
                f"The column {name[:100]!r} is none of {', '.join(_COLUMNS)} and {ATTRIBUTE}NAME",
                code=UNREADABLE_MANIFEST,
            )
    if not names or len(set(names)) < len(names):
        raise InvalidRequest("The header is empty or has a column twice", code=UNREADABLE_MANIFEST)
    return names


def _members(names: list[str], cells: list[str] | ValueError) -> dict[str, Any]:
    """The members of a row; empty cells give none.

    Raises:
        ValueError: it does not fit the header, or its attributes are no JSON object.
    """
    if isinstance(cells, ValueError):
        raise cells
    if len(cells) > len(names):
        raise ValueError(f"has {len(cells)} fields, and the header {len(names)}")
    given = {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
    members: dict[str, Any] = {name: cell for name, cell in given.items() if name in _COLUMNS}
    attributes = parse_json(given["attributes"]) if "attributes" in given else {}
    if not isinstance(attributes, dict):
        raise ValueError("attributes: must be a JSON object")
    attributes |= {name.removeprefix(ATTRIBUTE): _value(cell) for name, cell in given.items() if name not in _COLUMNS}
    return members | {"attributes": attributes} if attributes else members


def _value(cell: str) -> object:
    """A number, true or false as JSON writes them, else text."""
    try:
        value = parse_json(cell)
    except ValueError:
        return cell
    return value if isinstance(value, (int, float)) and abs(value) != float("inf") else cell
