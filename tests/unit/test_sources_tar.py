"""Tar files: read forward, plain and gzipped, and what hostile ones cost."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping

import pytest

from services.errors import ImageReason, InvalidRequest
from services.sources.archive import open_archive
from services.sources.base import Cursor, Reference, Source

LIMIT = 100_000
GIBIBYTE = 1024**3


def tarred(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def opened(data: bytes) -> Source:
    return open_archive(io.BytesIO(data), LIMIT)


def references(data: bytes, cursor: Cursor | None = None) -> list[Reference]:
    return [reference for reference, _ in opened(data).walk(cursor or {})]


def until_unreadable(data: bytes) -> list[str]:
    """What is listed before the archive is found to be unreadable."""
    refs = []
    with pytest.raises(InvalidRequest) as caught:
        for reference, _ in opened(data).walk({}):
            refs.append(reference.ref)
    assert caught.value.code == "archive_unreadable"
    return refs


packings = pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])


@packings
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_pictures_come_in_their_order_with_their_bytes(form: int, pack: Callable[[bytes], bytes]) -> None:
    files = {f"shoes/{number}.jpg": bytes([number]) * number * 999 for number in range(40)}

    found = references(pack(tarred(files, form)))

    assert {reference.ref: reference.data for reference in found} == files
    assert found[7].item.item_id == "shoes/7"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_names_beyond_ascii_are_read(form: int) -> None:
    names = ["ä" * 200 + "/" + "b" * 200 + ".jpg", "Größe.jpg"]

    assert [reference.ref for reference in references(tarred(dict.fromkeys(names, b"1"), form))] == names


@packings
def test_a_walk_goes_on_after_any_picture(pack: Callable[[bytes], bytes]) -> None:
    files = {f"{number}.jpg": b"x" * number * 700 for number in range(9)} | {"notes.txt": b"1"}
    manifest = b"\n".join(json.dumps({"file": name, "title": name}).encode() for name in files) + b"\nbad\nworse\n"
    data = pack(tarred({"items.jsonl": manifest} | files))
    whole = list(opened(data).walk({}))

    assert [reference.item.title for reference, _ in whole[2:]] == list(files)[:9]
    for place, (_, cursor) in enumerate(whole):
        assert references(data, json.loads(json.dumps(cursor))) == [reference for reference, _ in whole[place + 1 :]]


def test_items_jsonl_behind_a_picture_is_a_problem() -> None:
    late = references(tarred({"a.jpg": b"1", "items.jsonl": b'{"file": "b.jpg", "title": "x"}', "b.jpg": b"2"}))

    assert [reference.ref for reference in late] == ["a.jpg", "items.jsonl", "b.jpg"]
    assert late[1].problem and late[1].problem.code == "entry_invalid"
    assert late[2].item.title is None


def test_what_is_no_file_is_a_problem_with_its_name() -> None:
    kinds = {
        "symbolic.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "device.jpg": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
    }
    data = b"".join(header(name, 0, kind) for name, kind in kinds.items()) + tarred({"a.jpg": b"1"})

    found = references(data)

    assert [reference.ref for reference in found] == [*kinds, "a.jpg"]
    assert {reference.problem.code for reference in found[:-1] if reference.problem} == {"entry_not_a_file"}
    assert found[-1].data == b"1"


def test_a_sparse_file_is_a_problem_and_what_follows_is_read() -> None:
    old = bytearray(header("old.jpg", 512, tarfile.GNUTYPE_SPARSE))
    old[482] = 1  # one more block of the map follows
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:]) + 8 * 32)
    member = tarfile.TarInfo("new.jpg")
    member.size = 512
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "new.jpg"}
    new = member.tobuf(tarfile.PAX_FORMAT)

    found = references(bytes(old) + bytes(512) + bytes(512) + new + bytes(512) + tarred({"a.jpg": b"1"}))

    assert [reference.ref for reference in found] == ["old.jpg", "new.jpg", "a.jpg"]
    assert [reference.problem.code if reference.problem else None for reference in found] == [
        "entry_unsupported",
        "entry_unsupported",
        None,
    ]


def test_names_never_leave() -> None:
    names = ["../../etc/cron.jpg", "/root/a.jpg", "a/../../b.jpg"]

    refs = [reference.ref for reference in references(tarred(dict.fromkeys(names, b"1")))]

    assert refs == ["etc/cron.jpg", "root/a.jpg", "a/b.jpg"]


def test_what_is_no_picture_is_passed_over_and_counted() -> None:
    source = opened(tarred({"a.jpg": b"1", ".hidden.jpg": b"1", "video.mp4": b"1" * 5000, "b.jpg": b"2"}))

    assert [reference.data for reference, _ in source.walk({})] == [b"1", b"2"]
    assert source.skipped == {"hidden": 1, ".mp4": 1}


@packings
def test_a_file_over_the_limit_is_a_problem_and_is_not_held(pack: Callable[[bytes], bytes]) -> None:
    data = pack(tarred({"a.png": bytes(50_000_000), "b.png": b"2"}))

    tracemalloc.start()
    found = references(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [reference.problem.code if reference.problem else None for reference in found] == [
        ImageReason.TOO_MANY_BYTES,
        None,
    ]
    assert peak < 5_000_000


@packings
@pytest.mark.parametrize("left", [1, 511, 700, 1024, 1300, 3000])
def test_what_came_before_the_end_of_a_cut_archive_is_kept(left: int, pack: Callable[[bytes], bytes]) -> None:
    data = tarred({"a.jpg": b"1", "b.jpg": b"2" * 2000, "c.jpg": b"3" * 3000})
    begin = len(tarred({"a.jpg": b"1"}).rstrip(b"\0")) // 512 * 512 + 512  # where b.jpg's header begins

    if pack is not bytes:  # stored, so that cutting it cuts what is in it
        data, begin = gzip.compress(data, compresslevel=0), begin + 20

    assert until_unreadable(data[: begin + left]) == (["a.jpg"] if left < 2512 else ["a.jpg", "b.jpg"])


def test_damage_ends_the_walk_and_keeps_what_came_before() -> None:
    data = tarred({"a.jpg": b"1", "b.jpg": b"2"})

    assert until_unreadable(data.replace(b"b.jpg", b"x.jpg")) == ["a.jpg"]
    assert until_unreadable(gzip.compress(data[:1024]) + b"\x1f\x8bdamaged") == ["a.jpg"]
    assert until_unreadable(gzip.compress(b"no tar at all" * 100)) == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_name_that_claims_gigabytes_is_not_read(kind: bytes) -> None:
    class Zeros(io.RawIOBase):
        """A file of 4 GiB: a header, then zeros."""

        def __init__(self, start: bytes) -> None:
            self._start, self._at, self.most = start, 0, 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self._at = offset + (0, self._at, 4 * GIBIBYTE)[whence]
            return self._at

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.most = max(self.most, len(buffer))
            data = self._start[self._at : self._at + len(buffer)].ljust(len(buffer), b"\0")
            buffer[:] = data
            self._at += len(data)
            return len(data)

    zeros = Zeros(header("long", 3 * GIBIBYTE, kind))

    with pytest.raises(InvalidRequest) as caught:
        list(open_archive(io.BufferedReader(zeros), LIMIT).walk({}))

    assert caught.value.code == "archive_unreadable"
    assert zeros.most < 10_000_000


@pytest.mark.parametrize(
    "records", [b"99 path=x\n", b"0 path=x\n", b"path=x\n", b"9" * 30 + b" path=x\n", b"18 size=123456789abc\n" * 2]
)
def test_damaged_pax_records_are_unreadable(records: bytes) -> None:
    data = header("pax", len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0") + tarred({"a.jpg": b"1"})

    assert until_unreadable(data) == []


@pytest.mark.parametrize(
    "data",
    [
        tarred({"a.jpg": b"1"})[:1024]
        + (header("pax", 512, tarfile.XGLTYPE) + bytes(512)) * 101
        + tarred({"b.jpg": b"2"}),
        gzip.compress(tarred({"a.jpg": b"1"})[:1024])
        + gzip.compress(b"") * 20_000
        + gzip.compress(tarred({"b.jpg": b"2"})),
    ],
    ids=["headers", "members"],
)
def test_what_leads_to_no_file_for_long_is_unreadable(data: bytes) -> None:
    assert until_unreadable(data) == ["a.jpg"]


def test_a_negative_size_is_unreadable() -> None:
    block = bytearray(header("a.jpg", 0))
    block[124:136] = b"\xff" * 11 + b"\x00"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)

    assert until_unreadable(bytes(block) + bytes(1024)) == []


def test_a_gzip_file_that_unpacks_to_far_more_than_it_is_is_refused() -> None:
    def bomb() -> Iterator[bytes]:
        with io.BytesIO() as packed, gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
            stream.write(tarred({"a.jpg": b"1"})[:1024] + header("video.mp4", 3 * GIBIBYTE))
            for _ in range(1100):
                stream.write(bytes(1024 * 1024))
            stream.flush()
            yield packed.getvalue()

    refs = []
    with pytest.raises(InvalidRequest) as caught:
        for reference, _ in opened(next(bomb())).walk({}):
            refs.append(reference.ref)

    assert caught.value.code == "archive_bomb"
    assert refs == ["a.jpg"]


def test_a_gzip_file_of_several_members_is_one_archive() -> None:
    data = tarred({"a.jpg": b"1" * 3000, "b.jpg": b"2" * 3000})

    parts = b"".join(gzip.compress(data[at : at + 1000]) for at in range(0, len(data), 1000))

    assert [reference.data for reference in references(parts + bytes(100))] == [b"1" * 3000, b"2" * 3000]
