"""Manifests: JSON Lines and CSV that list pictures by address or path."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from services.catalog.items import ItemFields
from services.errors import ImageRejected, InvalidRequest
from services.sources.base import Cursor, Reference
from services.sources.folder import Folder
from services.sources.manifest import Manifest
from services.sources.records import MAX_LINE

URL = "https://shop.example/a.jpg"


def references(data: str | bytes, cursor: Cursor | None = None, media_type: str = "", base: Folder | None = None):  # type: ignore[no-untyped-def]
    source = Manifest(io.BytesIO(data.encode() if isinstance(data, str) else data), media_type, base)
    return list(source.walk(cursor or {}))


def listed(data: str | bytes, base: Folder | None = None) -> list[Reference]:
    return [reference for reference, _ in references(data, base=base)]


def refusal(data: bytes, media_type: str = "") -> str:
    with pytest.raises(InvalidRequest) as caught:
        references(data, media_type=media_type)
    assert caught.value.code == "manifest_unreadable"
    return caught.value.detail


def test_json_lines_name_items_and_their_pictures() -> None:
    record = {"item_id": "A", "title": "Shoe", "url": "https://shop.example/a", "attributes": {"price": 9.5}}
    fields = ItemFields("A", "Shoe", "https://shop.example/a", {"price": 9.5})
    text = "\n\n".join(
        json.dumps(line)
        for line in (
            record | {"image": URL},
            record | {"images": [URL, URL.upper()]},
            record,
            {"item_id": "B"},
        )
    )

    found = listed(text)

    assert [(reference.ref, reference.url) for reference in found] == [
        (URL, URL),
        (URL, URL),
        (URL.upper(), URL.upper()),
        ("line 5", None),
        ("line 7", None),
    ]
    assert [reference.item for reference in found] == [fields] * 4 + [ItemFields("B")]
    assert all(reference.problem is None for reference in found)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_csv_names_items_and_their_pictures(delimiter: str, end: str, bom: str) -> None:
    rows = [
        ["item_id", "image", "title", "attributes", "attributes.price", "attributes.brand", "attributes.new"],
        ["A", URL, '"A ""good"" shoe\nfor, you;"', '"{""size"": [1]}"', "9.50", "Northwick", "true"],
        ["B", "", "", "", "", "007", "NaN"],
    ]

    a, b = listed(bom + end.join(delimiter.join(row) for row in rows) + end)

    title = 'A "good" shoe\nfor, you;'
    assert a.item == ItemFields("A", title, None, {"size": [1], "price": 9.5, "brand": "Northwick", "new": True})
    assert (b.item, b.ref, b.url) == (ItemFields("B", None, None, {"brand": "007", "new": "NaN"}), "line 4", None)


def test_paths_lie_in_the_base_and_name_items_that_have_no_id(tmp_path: Path) -> None:
    (tmp_path / "shoes").mkdir()
    (tmp_path / "shoes/100% red.jpg").write_bytes(b"1")
    base = Folder(tmp_path, Path())
    source = Manifest(io.BytesIO(b'{"image": "./shoes\\\\100% red.jpg"}'), base=base)

    ((reference, _),) = source.walk({})

    assert (reference.ref, reference.item.item_id) == ("shoes/100% red.jpg", "shoes/100% red")
    assert source.read(reference.place or "", 10) == b"1"


@pytest.mark.parametrize(
    "path", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "file:///etc/passwd", "s3://x/y", "", "\0.jpg"]
)
def test_a_path_that_leaves_the_base_is_a_problem(tmp_path: Path, path: str) -> None:
    (found,) = listed(json.dumps({"item_id": "A", "image": path}), Folder(tmp_path, Path()))

    assert found.problem and found.problem.code == "entry_invalid"
    assert found.ref == "line 1"


def test_a_path_without_a_base_is_a_problem() -> None:
    (found,) = listed('{"item_id": "A", "image": "a.jpg"}')

    assert found.problem and "address" in found.problem.detail
    with pytest.raises(ImageRejected):
        Manifest(io.BytesIO(b"{}")).read("a.jpg", 10)


BAD = [
    "{",
    "[]",
    "{}",
    '{"item_id": 7}',
    '{"item_id": ""}',
    '{"item_id": "a/../b"}',
    '{"item_id": "A", "titel": "x"}',
    '{"item_id": "A", "title": "a\\u0000b"}',
    '{"item_id": "A", "title": "\\ud800"}',
    '{"item_id": "A", "title": ["x"]}',
    '{"item_id": "A", "title": "' + "x" * 2001 + '"}',
    '{"item_id": "A", "url": "' + "x" * 4001 + '"}',
    '{"item_id": "A", "attributes": {"a": NaN}}',
    '{"item_id": "A", "attributes": {"a": 1e999}}',
    '{"item_id": "A", "attributes": {"a": ' + "[" * 40 + "]" * 40 + "}}",
    '{"item_id": "A", "attributes": ' + "[" * 100_000,
    '{"item_id": "A", "attributes": {"a": "' + "x" * 70_000 + '"}}',
    '{"item_id": "A", "attributes": []}',
    '{"item_id": "A", "image": 1}',
    '{"item_id": "A", "images": "x"}',
    '{"item_id": "A", "images": [], "image": "x"}',
    '{"item_id": "A", "image": "https://x.example/' + "x" * 4000 + '"}',
    '{"image": "https://x.example/a.jpg"}',
    '{"item_id": "A", "title": "' + "x" * MAX_LINE + '"}',
    "9" * 5000,
    '{"item_id": "A", "x\\ud800": 1}',
    '{"item_id": "A", "x\\u0000": 1}',
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_malformed_line_is_a_problem_and_the_walk_goes_on(bad: str) -> None:
    data = b'{"item_id": "before"}\n' + bad.encode() + b'\n{"item_id": "after"}'

    before, problem, after = listed(data)

    assert (before.item.item_id, after.item.item_id) == ("before", "after")
    assert problem.problem and problem.problem.code == "entry_invalid"
    assert problem.ref == "line 2"
    assert len(problem.problem.detail) < 500
    assert problem.problem.detail.encode().decode().isprintable()


def test_a_record_that_names_too_many_pictures_is_a_problem() -> None:
    most = {"item_id": "A", "images": [URL] * 1_000}

    found = listed("\n".join(json.dumps(record) for record in (most, most | {"images": [URL] * 1_001})))

    assert [reference.url for reference in found[:-1]] == [URL] * 1_000
    assert found[-1].problem and found[-1].problem.code == "entry_invalid" and "1,001" in found[-1].problem.detail


def test_text_that_is_not_utf8_is_a_problem_of_its_line() -> None:
    (problem, good) = listed(b'{"item_id": "\xff"}\n{"item_id": "B"}')
    (bad_row, good_row) = listed(b"item_id\n\xff\nB\n")

    assert problem.problem and bad_row.problem
    assert good.item == good_row.item == ItemFields("B")


@pytest.mark.parametrize("row", ["A,B,C,D", "A,T,[1]", "A,T,{", 'A,"T"x,{}', "A,\x00,"])
def test_a_malformed_row_is_a_problem_and_the_walk_goes_on(row: str) -> None:
    before, problem, after = listed(f"item_id,title,attributes\nbefore,,\n{row}\nafter,,\n")

    assert (before.item.item_id, after.item.item_id) == ("before", "after")
    assert problem.problem and problem.ref == "line 3"


def test_a_quotation_mark_that_is_never_closed_takes_no_more_than_a_bounded_part() -> None:
    text = 'item_id,title\nA,"open\n' + "".join(f"{number},x\n" for number in range(200_000))

    found = listed(text)

    assert found[0].problem and found[0].ref == "line 2"
    assert found[1].item.item_id > "1"
    assert found[-1].item.item_id == "199999"


def test_rows_that_each_leave_a_quotation_mark_open_take_linear_time() -> None:
    data = b"item_id,title\n" + b'A,"x\n' * 200_000
    began = time.monotonic()

    assert all(reference.problem for reference in listed(data))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf \n", ""),
        ('{"item_id": "A"}'.encode("utf-16"), ""),
        (b'[{"item_id": "A"}]', ""),
        (b'[{"item_id": "A"}]', "application/json"),
        (b"item_id,titel\nA,x\n", ""),
        (b"item_id,item_id\nA,x\n", ""),
        (b"item_id,attributes.\nA,x\n", "text/csv"),
        (b'"item_id\nA\n', "text/csv"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ""),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(data: bytes, media_type: str) -> None:
    refusal(data, media_type)


def test_the_media_type_decides_where_it_says_something() -> None:
    assert references(b"bad\n", media_type="application/x-ndjson")[0][0].problem
    assert references(b"item_id\nA\n", media_type="text/csv; charset=utf-8")[0][0].item == ItemFields("A")
