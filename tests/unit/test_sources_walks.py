"""All sources alike: walked in pieces as in one go, and in bounded memory."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from services.catalog.fields import check_item_id
from services.sources.archive import open_archive
from services.sources.base import Cursor, Reference, Source
from services.sources.folder import Folder
from services.sources.manifest import Manifest
from services.sources.names import item_id_of
from services.sources.prefix import Prefix

LIMIT = 50

segments = st.text("ab-.é", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
names = st.builds(
    lambda folders, name, suffix: "/".join([*folders, name + suffix]),
    st.lists(segments, max_size=2),
    segments,
    st.sampled_from([".jpg", ".png", ".JPG", ".txt", ""]),
)
contents = st.dictionaries(names, st.binary(max_size=60), max_size=12).filter(
    lambda files: not any(other.startswith(f"{name}/") for name in files for other in files)
)
described_lines = st.lists(st.sampled_from(['{"file": "a.jpg", "title": "A"}', "bad", "", "[]"]), max_size=5)
manifests = st.one_of(st.none(), described_lines.map(lambda lines: "\n".join(lines).encode()))


def as_zip(files: dict[str, bytes], folder: Path) -> Source:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return open_archive(data, LIMIT)


def tar_bytes(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def as_tar(files: dict[str, bytes], folder: Path) -> Source:
    return open_archive(io.BytesIO(tar_bytes(files)), LIMIT)


def as_gzipped_tar(files: dict[str, bytes], folder: Path) -> Source:
    return open_archive(io.BytesIO(gzip.compress(tar_bytes(files), 1)), LIMIT)


def as_folder(files: dict[str, bytes], folder: Path) -> Source:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Folder(folder, Path())


def as_prefix(files: dict[str, bytes], folder: Path) -> Source:
    store = MemoryStore()
    for name, content in files.items():
        obstore.put(store, f"shop/{name}", content)
    return Prefix(lambda: store, "shop")


def as_json_lines(files: dict[str, bytes], folder: Path) -> Source:
    lines = [json.dumps({"images": [name] * (len(content) % 4)}) for name, content in files.items()]
    data = "\n".join([*lines, "bad", '{"item_id": "A"}']).encode()
    return Manifest(io.BytesIO(data), "application/json", Folder(folder, Path()))


def as_csv(files: dict[str, bytes], folder: Path) -> Source:
    rows = [f'A,"{name}","two\n{len(content)} lines"' for name, content in files.items()]
    return Manifest(
        io.BytesIO("\r\n".join(["item_id,image,title", *rows, 'x,"y"z']).encode()), base=Folder(folder, Path())
    )


@pytest.mark.parametrize("make", [as_zip, as_tar, as_gzipped_tar, as_folder, as_prefix, as_json_lines, as_csv])
@given(files=contents, manifest=manifests, cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_walk_in_pieces_yields_what_one_walk_does(
    make: Callable[[dict[str, bytes], Path], Source],
    files: dict[str, bytes],
    manifest: bytes | None,
    cuts: list[int],
) -> None:
    described = {} if manifest is None else {"items.jsonl": manifest}
    with tempfile.TemporaryDirectory() as folder:
        source = make(described | files, Path(folder))
        whole = [reference for reference, _ in source.walk({})]

        pieces: list[Reference] = []
        cursor: Cursor = {}
        for cut in itertools.cycle(cuts):
            steps = list(itertools.islice(source.steps(json.loads(json.dumps(cursor))), cut))
            pieces += [reference for reference, _ in steps if reference is not None]
            if len(steps) < cut:
                break
            cursor = steps[-1][1]

    assert pieces == whole


@pytest.mark.parametrize("make", [as_tar, as_gzipped_tar, as_folder, as_prefix])
def test_a_walk_stops_by_each_file_that_it_passes_over(
    make: Callable[[dict[str, bytes], Path], Source], tmp_path: Path
) -> None:
    files = {f"{number:03}.txt": b"1" for number in range(200)} | {"last.jpg": b"2"}

    steps = list(make(files, tmp_path).steps({}))

    assert [reference.ref for reference, _ in steps if reference is not None] == ["last.jpg"]
    assert len(steps) >= 201


@pytest.mark.parametrize(("record", "media_type"), [('{"item_id": "A"}', "application/json"), ("A", "text/csv")])
def test_a_walk_stops_by_blank_lines(record: str, media_type: str) -> None:
    header = "item_id\n" if media_type == "text/csv" else ""
    text = f"{header}{record}\n" + " \n" * 200 + record

    steps = list(Manifest(io.BytesIO(text.encode()), media_type).steps({}))

    assert [reference.item.item_id for reference, _ in steps if reference is not None] == ["A", "A"]
    assert len(steps) == 202


def test_a_walk_stops_in_the_middle_of_what_is_large(tmp_path: Path) -> None:
    data = gzip.compress(tar_bytes({"1.jpg": b"1", "film.bin": bytes(100_000_000), "2.jpg": b"2"}), 1)
    source = open_archive(io.BytesIO(data), LIMIT)

    steps = list(source.steps({}))
    cursor = next(after for reference, after in reversed(steps) if reference is None)
    rest = list(source.steps(cursor))

    assert [reference.ref for reference, _ in steps if reference is not None] == ["1.jpg", "2.jpg"]
    assert len(steps) >= 5
    assert [reference.ref for reference, _ in rest if reference is not None] == ["2.jpg"]
    assert len(rest) >= 3, "what is unpacked again is as well"


@given(st.text(max_size=600))
@settings(max_examples=200)
def test_the_id_of_any_file_name_is_valid(name: str) -> None:
    check_item_id(item_id_of(name))
    check_item_id(item_id_of(f"{name}/similar.jpg"))


@pytest.mark.parametrize(
    ("name", "item_id"),
    [
        ("shoes/red.jpg", "shoes/red"),
        ("../../etc/passwd.jpg", "etc/passwd"),
        ("/abs//x.png", "abs/x"),
        ("x/similar.jpg", "x/similar-"),
        (".jpg", ".jpg"),
        ("..jpg", "file"),
        ("", "file"),
        ("a" * 600 + ".jpg", "a" * 511),
        ("photo\x01.jpg", "photo"),
    ],
)
def test_an_item_is_named_as_its_file(name: str, item_id: str) -> None:
    assert item_id_of(name) == item_id


def growth(program: str, path: Path) -> int:
    """By how many megabytes a process grows that walks an archive, once it has imported what it needs."""
    source = f"""
import resource, sys
from services.sources.archive import open_archive
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
{program}
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", source, path], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_of_300_megabytes_is_walked_in_20(tmp_path: Path, mode: str) -> None:
    picture = bytes(range(256)) * 4096
    with tarfile.open(tmp_path / "a.tar", mode, **({"compresslevel": 1} if mode == "w:gz" else {})) as archive:  # type: ignore[call-overload]
        for number in range(300):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    program = """
source = open_archive(open(sys.argv[1], "rb"), 2**20)
assert sum(len(reference.data) for reference, _ in source.walk({})) == 300 * 2**20
"""

    assert growth(program, tmp_path / "a.tar") < 20


def test_a_zip_of_100000_entries_is_walked_in_40_megabytes(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("00000.jpg", b"1")
        archive.writestr("items.jsonl", "\n".join(f'{{"file": "{number:05}.jpg"}}' for number in range(10_000)))
    start, end = data.getvalue().index(b"PK\x01\x02"), data.getvalue().rindex(b"PK\x05\x06")
    files, directory = data.getvalue()[:start], data.getvalue()[start:end]
    # The entry of the picture a hundred thousand times, each with another name.
    entries = b"".join(directory.replace(b"00000.jpg", b"%05d.jpg" % number)[:55] for number in range(100_000))
    directory = entries + directory[55:]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), start, 0)
    (tmp_path / "a.zip").write_bytes(files + directory + tail)
    program = """
source = open_archive(open(sys.argv[1], "rb"), 2**20)
for count, (reference, _) in enumerate(source.walk({}), 1):
    if count % 10 == 0:
        assert source.read(reference.place, 2**20) == b"1"
assert count == 100_000
"""

    assert growth(program, tmp_path / "a.zip") < 40
