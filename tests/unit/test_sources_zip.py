"""Zip files: read at random where they lie, and what hostile ones cost."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from collections.abc import Mapping

import pytest

from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.sources.archive import Zip, open_archive
from services.sources.base import Reference, Source

LIMIT = 100_000
MEBIBYTE = 1024 * 1024


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def opened(data: bytes, limit: int = LIMIT) -> Source:
    return open_archive(io.BytesIO(data), limit)


def references(data: bytes, limit: int = LIMIT) -> list[Reference]:
    return [reference for reference, _ in opened(data, limit).walk({})]


def patched(data: bytes, field: int, form: str, *values: int, local: int | None = None) -> bytes:
    """Values written over the first entry of the directory, and over its local header."""
    changed = bytearray(data)
    struct.pack_into(form, changed, changed.index(b"PK\x01\x02") + field, *values)
    if local is not None:
        struct.pack_into(form, changed, changed.index(b"PK\x03\x04") + local, *values)
    return bytes(changed)


def rejection(data: bytes) -> ImageRejected:
    source = opened(data)
    ((reference, _),) = source.walk({})
    assert reference.place is not None
    with pytest.raises(ImageRejected) as caught:
        source.read(reference.place, LIMIT)
    return caught.value


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        references(data)
    return caught.value.code


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_pictures_are_read_in_any_order(method: int) -> None:
    files = {f"shoes/{number}.jpg": bytes([number]) * number * 1000 for number in range(40)}
    source = opened(zipped(files, method))

    places = {reference.ref: reference.place for reference, _ in source.walk({})}

    assert list(places) == list(files)
    for ref in reversed(places):
        assert source.read(places[ref] or "", LIMIT) == files[ref]


def test_an_item_is_named_as_its_file_without_extension() -> None:
    (reference,) = references(zipped({"shoes/red.one.jpg": b"1"}))

    assert reference.item.item_id == "shoes/red.one"


def test_items_jsonl_describes_files_from_where_it_lies() -> None:
    lines = [
        {"file": "a.jpg", "item_id": "A", "title": "Shoe", "url": "https://shop.example/a", "attributes": {"price": 1}},
        {"file": "./sub/b.jpg", "title": "Boot"},
        {"file": "a.jpg", "item_id": "A2"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    files = {
        "shop/a.jpg": b"1",
        "shop/sub/b.jpg": b"2",
        "shop/items.jsonl": text.encode(),
        "shop/sub/items.jsonl": b"x",
    }

    a, b = references(zipped(files))

    assert (a.ref, a.item.item_id, a.item.title) == ("shop/a.jpg", "A2", None)
    assert (b.ref, b.item.item_id, b.item.title) == ("shop/sub/b.jpg", "shop/sub/b", "Boot")


def test_malformed_lines_of_items_jsonl_are_listed_and_stop_nothing() -> None:
    lines = [
        '{"file": "a.jpg", "title": "Shoe"}',
        "",
        "[1]",
        '{"file": "a", "item_id": ".."}',
        "NaN",
        '{"title": ""}',
    ]
    text = b"\xef\xbb\xbf" + "\n".join(lines).encode()
    source = opened(zipped({"a.jpg": b"1", "items.jsonl": text}))

    walked = list(source.walk({}))

    assert [reference.ref for reference, _ in walked] == [*(f"items.jsonl:{line}" for line in (3, 4, 5, 6)), "a.jpg"]
    assert [reference.problem is not None for reference, _ in walked] == [True] * 4 + [False]
    assert walked[-1][0].item.title == "Shoe"
    assert [reference.ref for reference, _ in source.walk(walked[1][1])] == ["items.jsonl:5", "items.jsonl:6", "a.jpg"]


def test_what_is_no_picture_is_passed_over_and_counted() -> None:
    names = ["a.jpg", ".hidden/b.jpg", "__MACOSX/._a.jpg", "notes.TXT", "more.txt", "README", "folder/"]
    source = opened(zipped(dict.fromkeys(names, b"1")))

    assert [reference.ref for reference, _ in source.walk({})] == ["a.jpg"]
    assert source.skipped == {"hidden": 2, ".txt": 2, "no extension": 1}


def test_names_never_leave() -> None:
    names = ["../../etc/cron.jpg", "/root/a.jpg", "C:\\shop\\b.jpg", "line\nbreak.jpg"]

    refs = [reference.ref for reference in references(zipped(dict.fromkeys(names, b"1")))]

    assert refs == ["etc/cron.jpg", "root/a.jpg", "shop/b.jpg", "linebreak.jpg"]


def test_names_in_utf8_are_read_though_the_archive_does_not_say_so() -> None:
    data = zipped({"Größe.jpg": b"1"})

    assert references(patched(data, 8, "<H", 0))[0].ref == "Größe.jpg"


def test_an_encrypted_file_a_link_and_an_unknown_compression_are_problems() -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(link, b"/etc/passwd")
    plain = zipped({"a.jpg": b"1"})

    (linked,) = references(data.getvalue())
    (encrypted,) = references(patched(plain, 8, "<H", 1))
    (lzma,) = references(zipped({"a.jpg": b"1"}, zipfile.ZIP_LZMA))

    assert linked.problem and linked.problem.code == "entry_not_a_file"
    assert encrypted.problem and encrypted.problem.code == "entry_encrypted"
    assert lzma.problem and lzma.problem.code == "entry_unsupported"


def test_a_file_over_the_limit_is_a_problem_before_it_is_read() -> None:
    (reference,) = references(zipped({"a.png": bytes(LIMIT + 1)}))

    assert reference.problem and reference.problem.code == ImageReason.TOO_MANY_BYTES
    assert reference.place is None


def test_sizes_of_four_gigabytes_are_problems_of_their_file_in_zip64_too() -> None:
    data = zipped({"a.png": b"1" * 100, "b.png": b"2"}, zipfile.ZIP_STORED)
    large = patched(data, 20, "<2L", 0xFFFFFFFE, 0xFFFFFFFE)
    wide = io.BytesIO()
    with zipfile.ZipFile(wide, "w") as archive:
        with archive.open(zipfile.ZipInfo("a.png"), "w", force_zip64=True) as member:
            member.write(b"1")
        info = archive.getinfo("a.png")
        info.file_size = info.compress_size = 2**63
        archive.writestr("b.png", b"2")

    for archived in (large, wide.getvalue()):
        first, second = references(archived)
        assert first.problem and first.problem.code == ImageReason.TOO_MANY_BYTES
        assert second.place is not None


def test_a_file_that_unpacks_to_more_than_it_says_is_read_no_further() -> None:
    data = zipped({"a.png": bytes(60 * MEBIBYTE)})

    error = rejection(patched(data, 24, "<L", 60_000, local=22))

    assert error.reason is ImageReason.BROKEN


def test_a_damaged_file_is_its_own_problem() -> None:
    data = zipped({"a.png": b"picture" * 50}, zipfile.ZIP_STORED)

    flipped = data.replace(b"picture", b"Picture", 1)
    elsewhere = patched(data, 42, "<L", len(data) + 1000)
    onto_nothing = patched(data, 42, "<L", 7)
    deflated = zipped({"a.png": b"picture" * 50})
    garbled = deflated[:36] + b"\xff" * 8 + deflated[44:]

    for damaged in (flipped, elsewhere, onto_nothing, garbled):
        assert rejection(damaged).reason is ImageReason.BROKEN


def test_a_file_that_claims_far_more_packed_bytes_than_its_size_is_a_problem() -> None:
    (reference,) = references(patched(zipped({"a.png": b"1"}), 20, "<L", 3_000_000_000))

    assert reference.problem and reference.problem.code == ImageReason.BROKEN


def test_an_archive_with_a_program_before_it_is_read() -> None:
    source = opened(b"#!/bin/sh\nexit\n" + zipped({"a.jpg": b"1"}))

    ((reference, _),) = source.walk({})

    assert source.read(reference.place or "", LIMIT) == b"1"


def test_a_comment_at_the_end_hides_nothing() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.jpg", b"1")
        archive.comment = b"PK\x05\x06" * 5000

    assert [reference.ref for reference in references(data.getvalue())] == ["a.jpg"]


@pytest.mark.parametrize("cut", [1, 10, 30, 100])
def test_an_archive_without_its_end_is_unreadable(cut: int) -> None:
    data = zipped({f"{number}.jpg": b"1" for number in range(5)})

    assert refusal(data[:-cut]) == "archive_unreadable"


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive", b"PK\x05\x06" + bytes(17), b"\xff\xd8\xff" + bytes(5000)])
def test_what_is_no_archive_is_unreadable(data: bytes) -> None:
    assert refusal(data) == "archive_unreadable"


def test_a_directory_that_lies_about_itself_is_unreadable() -> None:
    data = bytearray(zipped({"a.jpg": b"1"}))
    end = data.rindex(b"PK\x05\x06")

    longer, elsewhere = bytearray(data), bytearray(data)
    struct.pack_into("<L", longer, end + 12, end + 1)
    struct.pack_into("<L", elsewhere, end + 16, 0xFFFFFFF0)

    assert refusal(bytes(longer)) == refusal(bytes(elsewhere)) == "archive_unreadable"


def test_a_huge_directory_is_refused_before_it_is_read() -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 40 * MEBIBYTE, 0, 0)

    class Sparse(io.BytesIO):
        longest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.longest = max(self.longest, len(data))
            return data

    reader = Sparse(bytes(41 * MEBIBYTE) + end)

    with pytest.raises(InvalidRequest) as caught:
        Zip(reader, LIMIT)

    assert caught.value.code == "archive_too_many_entries"
    assert reader.longest < MEBIBYTE


def overlapping(count: int, size: int) -> bytes:
    """Many entries that are all the same bytes of the archive."""
    data = zipped({"a.png": bytes(size)})
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    directory = data[start:end] * count
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), start, 0)
    return data[:start] + directory + tail


def test_an_archive_that_would_unpack_to_far_more_than_it_is_is_refused_though_its_files_overlap() -> None:
    data = overlapping(200_000, LIMIT - 1)
    began = time.monotonic()

    assert refusal(data) == "archive_bomb"
    assert time.monotonic() - began < 20


def test_an_archive_that_repeats_a_file_within_reason_is_read() -> None:
    assert len(references(overlapping(1000, LIMIT - 1))) == 1000


def test_items_jsonl_that_cannot_be_unpacked_fails_the_whole() -> None:
    data = zipped({"items.jsonl": b'{"file": "a.jpg"}'}, zipfile.ZIP_STORED)

    assert refusal(data.replace(b"file", b"fold", 1)) == "manifest_unreadable"
    assert refusal(patched(data, 8, "<H", 1)) == "manifest_unreadable"
