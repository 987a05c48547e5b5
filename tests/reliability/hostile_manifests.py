"""Manifests that say what nothing can hold, in more than may be said; each with what is to become of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from services.sources.records import MAX_LINE

JSON_LINES, CSV = "application/x-ndjson", "text/csv"
_GOOD = '{"item_id": "said well"}'


@dataclass(frozen=True)
class Manifest:
    """A manifest and the outcome of its import: entries taken, entries failed by code, and the job's own error."""

    name: str
    media_type: str
    data: bytes
    taken: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


def manifests() -> Iterator[Manifest]:
    """JSON Lines and CSV."""
    yield from _json_lines()
    yield from _csv()


def _of_bad_lines(name: str, *bad: str) -> Manifest:
    """Each of these lines is a problem of its own, and the one after them is taken."""
    data = "\n".join([*bad, _GOOD]).encode()
    return Manifest(name, JSON_LINES, data, 1, {"entry_invalid": len(bad)})


def _json_lines() -> Iterator[Manifest]:
    yield _of_bad_lines(
        "text that no database holds",
        *(f'{{"item_id": "a", "{text}": 1}}' for text in ("x\\ud800", "y\\u0000", "\\u001b[2J")),
        *(f'{{"item_id": "a", "{name}": "x{text}"}}' for name in ("title", "url", "image") for text in _UNHELD),
        *(f'{{"item_id": "a{text}"}}' for text in (*_UNHELD, "\\u0085")),
        *(f'{{"item_id": "a", "attributes": {{"x{text}": 1}}}}' for text in _UNHELD),
        *(f'{{"item_id": "a", "attributes": {{"x": ["{text}"]}}}}' for text in _UNHELD),
    )
    yield _of_bad_lines(
        "numbers that JSON lacks",
        *(f'{{"item_id": "a", "attributes": {{"x": {number}}}}}' for number in ("NaN", "-Infinity", "1e999")),
        '{"item_id": "a", "attributes": {"x": ' + "9" * 5_000 + "}}",
    )
    large = '{"item_id": "many digits", "attributes": {"x": ' + "9" * 4_000 + ', "y": 1e-999}}'
    yield Manifest("numbers of many digits", JSON_LINES, large.encode(), 1)
    yield _of_bad_lines(
        "nested without end",
        *('{"item_id": "a", "attributes": ' + opened * 100_000 for opened in ("[", '{"a":')),
        '{"item_id": "a", "attributes": {"x": ' + "[" * 100 + "]" * 100 + "}}",
        "[" * 100_000 + "]" * 100_000,
    )
    yield _of_bad_lines(
        "lines of a megabyte",
        *(_padded(size) for size in (MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE)),
        "x" * 2 * MAX_LINE,
        '{"item_id": "' + "a" * 1_000_000 + '"}',
    )
    wrong = ["1", "true", '"text"', "[[]]", "{}"]
    yield _of_bad_lines(
        "other types",
        *(f'{{"item_id": {value}}}' for value in wrong if value != '"text"'),
        *(f'{{"item_id": "a", "title": {value}}}' for value in wrong if value != '"text"'),
        *(f'{{"item_id": "a", "image": {value}}}' for value in wrong),
        *(f'{{"item_id": "a", "images": {value}}}' for value in wrong),
        *(f'{{"item_id": "a", "attributes": {value}}}' for value in wrong if value != "{}"),
        *wrong,
        "\\",
        "{",
    )
    twice = '{"item_id": "first", "item_id": "second", "title": 1, "title": "T", "attributes": {"a": 1, "a": 2}}'
    yield Manifest("names twice", JSON_LINES, twice.encode(), 1)
    many = json.dumps({"item_id": "a", "attributes": {"x": "x" * 60_000}, "images": ["http://127.1/"] * 50_000})
    yield _of_bad_lines("pictures without end", many)
    places = ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "C:\\x.jpg", "s3://bucket/x.jpg", "x.jpg"]
    yield _of_bad_lines("paths", *(json.dumps({"item_id": "a", "image": place}) for place in places))
    hosts = ["127.0.0.1", "169.254.169.254", "[::1]", "2130706433", "user:password@example.org", "x.example:99999"]
    inner = [json.dumps({"item_id": "a", "image": f"http://{host}/x.jpg"}) for host in hosts]
    yield Manifest("addresses within", JSON_LINES, "\n".join(inner).encode(), 0, {"fetch_refused": len(hosts)})
    yield Manifest("blank lines", JSON_LINES, b'{"item_id": "a"}\n' + b" \r\n" * 200_000 + b'{"item_id": "b"}', 2)
    yield Manifest("bytes that are no text", JSON_LINES, b'{"item_id": "\xff\xfe"}\n\xed\xa0\x80\n', 0, _invalid(2))
    for name, data in (
        ("an array", b'[{"item_id": "a"}]'),
        ("text of two bytes a character", _GOOD.encode("utf-16")),
        ("nothing but blanks", b" \n" * 10),
        ("zeros", bytes(10_000)),
    ):
        yield Manifest(name, JSON_LINES, data, error="manifest_unreadable")


# As JSON writes half of a pair of UTF-16, and the end of a string of C.
_UNHELD = ("\\ud800", "\\udfff", "\\u0000")


def _padded(size: int) -> str:
    """A record of so many bytes, of which its attributes have too many."""
    start, end = '{"item_id": "a", "attributes": {"x": "', '"}}'
    return start + "x" * (size - len(start) - len(end)) + end


def _invalid(count: int) -> dict[str, int]:
    return {"entry_invalid": count}


def _csv() -> Iterator[Manifest]:
    head = b"item_id,title,attributes,attributes.x\n"
    for name, rows, taken, failed in (
        ("a mark that is never closed", b'a,"open,,\nb,,,\nc,,,\n', 0, 1),
        ("marks in the wrong places", b'a,"T"x,,\nb,T"x,,\n"c"d,,,\ne,,,\n', 2, 2),
        ("a cell of 200,000 characters", b"a," + b"x" * 200_000 + b",,\nb,,,\n", 1, 1),
        ("a row of three megabytes", b'a,"' + b"x" * 3 * MAX_LINE + b'",,\nb,,,\n', 1, 1),
        ("too many cells", b"a" + b"," * 100_000 + b"\nb,,,\n", 1, 1),
        ("bytes that are no text", b"\xff,,,\na,\xc3\x28,,\nb,,,\n", 1, 2),
        ("control characters", b"a\x00,,,\nb,\x00,,\nc\x1b[2J,,,\nd,,,\n", 1, 3),
        ("attributes that are none", b"a,,[1],\nb,,{,\nc,," + b"[" * 100_000 + b",\nd,,,NaN\n", 1, 3),
        ("half of a pair", b'a,,"{""x"": ""\\ud800""}",\nb,,,"""\\ud800"""\n', 1, 1),
        ("digits", b"a,,," + b"9" * 5_000 + b"\nb,,,1e999\n", 2, 0),
        ("rows that end differently", b"a,,,\r\nb,,,\rc,,,\n", 1, 1),
    ):
        yield Manifest(name, CSV, head + rows, taken, _invalid(failed) if failed else {})
    for name, data in (
        ("columns that are none", b"item_id," + b"x" * 100_000 + b"\na,b\n"),
        ("columns with zeros", b"item_id,a\x00b\na,b\n"),
        ("columns twice", b"item_id,item_id\na,b\n"),
        ("columns without end", b'"item_id\n' * 500_000),
        ("columns in two bytes a character", "item_id,title\na,b\n".encode("utf-16")),
        ("columns that are no text", b"item_id,\xff\xfe\na,b\n"),
    ):
        yield Manifest(name, CSV, data, error="manifest_unreadable")
