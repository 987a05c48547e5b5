"""Lines that describe items: read with a bound on their length, turned into fields that are known to be valid."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from services.catalog.fields import check_item, parse_json
from services.catalog.items import ItemFields
from services.errors import InvalidRequest
from services.sources.base import INVALID, Cursor, Problem, Reference
from services.sources.names import MANIFEST_NAME, UNNAMED, clean_ref, item_id_of

UNREADABLE_MANIFEST: Final = "manifest_unreadable"
BOM: Final = b"\xef\xbb\xbf"
MAX_LINE: Final = 1024 * 1024
MAX_DESCRIPTIONS_BYTES: Final = 64 * 1024 * 1024
MAX_DESCRIPTIONS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file: its number from 1, from where to where it goes, its bytes (None if it is too long)."""

    number: int
    start: int
    end: int
    data: bytes | None


def lines(reader: BinaryIO, start: int, number: int) -> Iterator[Line]:
    """The lines from an offset on, where line `number` begins; of one that is too long nothing is kept.

    The reader stands at the end of the line that was yielded, and must stand there again for the next.
    """
    reader.seek(start)
    while data := reader.readline(MAX_LINE + 1):
        end = start + len(data)
        kept = data if len(data) <= MAX_LINE else None
        while data and not data.endswith(b"\n"):
            data = reader.readline(MAX_LINE)
            end += len(data)
        yield Line(number, start, end, kept)
        number, start = number + 1, end


def parse_object(line: Line) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is blank.

    Raises:
        ValueError: it is too long, not UTF-8, not JSON, or no object.
    """
    if line.data is None:
        raise ValueError(f"is longer than {MAX_LINE} bytes")
    text = line.data.decode().strip()
    if not text:
        return None
    record = parse_json(text)
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    return record


def item_fields(record: Mapping[str, Any], item_id: str) -> ItemFields:
    """What a record says of an item; `item_id` stands in where it names none, "" if nothing can.

    Raises:
        ValueError: a field is missing or cannot be stored.
    """
    if record.get("item_id") is not None:
        item_id = record["item_id"]
    fields = ItemFields(item_id, record.get("title"), record.get("url"), record.get("attributes"))
    check_item(fields.item_id, fields.title, fields.url, fields.attributes)
    return fields


def malformed(ref: str, error: ValueError) -> Reference:
    """The reference of a line that describes nothing."""
    return Reference(ref, ItemFields(UNNAMED), problem=Problem(INVALID, str(error)))


class Descriptions:
    """The items.jsonl of an archive or folder: what each line says of the file that it names.

    Of up to a million lines only the text and 16 bytes a line are held. The last line about a file counts.

    Args:
        folder: where the files lie that the lines name, as a prefix of references: "" or "shop/".

    Raises:
        InvalidRequest: there are too many lines (code manifest_unreadable).
    """

    def __init__(self, data: bytes = b"", folder: str = "") -> None:
        self._reader = io.BytesIO(data.removeprefix(BOM))
        self._folder = folder
        self._broken = array("q")
        hashes, starts = array("q"), array("q")
        for line in lines(self._reader, 0, 1):
            if line.number > MAX_DESCRIPTIONS:
                raise InvalidRequest(
                    f"{MANIFEST_NAME} has more than {MAX_DESCRIPTIONS} lines", code=UNREADABLE_MANIFEST
                )
            try:
                described = self._parse(line)
            except ValueError:
                self._broken.extend((line.number, line.start))
                continue
            if described is not None:
                hashes.append(hash(described[0]))
                starts.append(line.start)
        unsorted = np.frombuffer(hashes, np.int64)
        order = np.argsort(unsorted, kind="stable")
        self._hashes = unsorted[order]
        self._starts = np.frombuffer(starts, np.int64)[order]

    def problems(self, cursor: Cursor) -> Iterator[tuple[Reference, Cursor]]:
        """The malformed lines after `cursor["line"]`, each with the cursor to go on after it."""
        for number, start in zip(self._broken[::2], self._broken[1::2], strict=True):
            if number > cursor.get("line", 0):
                try:
                    self._parse(next(lines(self._reader, start, number)))
                except ValueError as error:
                    yield malformed(f"{MANIFEST_NAME}:{number}", error), {"line": number}

    def item(self, ref: str) -> ItemFields:
        """What is said of a file; an item named as the file is if no line is about it."""
        first = np.searchsorted(self._hashes, hash(ref), "left")
        last = np.searchsorted(self._hashes, hash(ref), "right")
        for start in reversed(self._starts[first:last]):
            described = self._parse(next(lines(self._reader, int(start), 1)))
            if described is not None and described[0] == ref:
                return described[1]
        return ItemFields(item_id_of(ref))

    def _parse(self, line: Line) -> tuple[str, ItemFields] | None:
        record = parse_object(line)
        if record is None:
            return None
        file = record.get("file")
        ref = clean_ref(self._folder + file) if isinstance(file, str) else None
        if ref is None:
            raise ValueError("file: must name a file")
        return ref, item_fields(record, item_id_of(ref) if record.get("item_id") is None else "")
