"""Folders below configured roots and prefixes of object storage; nothing outside is ever read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from services.errors import ConfigurationError, Forbidden, ImageReason, ImageRejected, InvalidRequest, Unavailable
from services.sources import folder as folders
from services.sources.base import Cursor, Source
from services.sources.folder import Folder
from services.sources.prefix import Prefix
from services.sources.roots import Roots

LIMIT = 1000


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def walked(source: Source, cursor: Cursor | None = None) -> list[str]:
    return [reference.ref for reference, _ in source.walk(cursor or {})]


def reason(source: Source, place: str, limit: int = LIMIT) -> ImageReason:
    with pytest.raises(ImageRejected) as caught:
        source.read(place, limit)
    return caught.value.reason


def test_a_folder_is_walked_in_the_order_of_its_names_and_read_at_random(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a/z.png", "a/b/c.jpg", "a-b.jpg", "a.jpg", "100%.jpg", "ä#?.jpg")
    source = Folder(tmp_path, Path())

    found = [reference for reference, _ in source.walk({})]

    assert [reference.ref for reference in found] == [
        "100%.jpg",
        "a/b/c.jpg",
        "a/z.png",
        "a-b.jpg",
        "a.jpg",
        "b.jpg",
        "ä#?.jpg",
    ]
    for reference in reversed(found):
        assert source.read(reference.place or "", LIMIT) == reference.ref.encode()
        assert source.read(source.locate(reference.ref), LIMIT) == reference.ref.encode()


def test_names_that_are_no_unicode_are_walked_and_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"1")
    source = Folder(tmp_path, Path())

    ((reference, cursor),) = source.walk({})

    json.dumps([reference.ref, reference.place, cursor]).encode()
    reference.ref.encode()
    assert source.read(reference.place or "", LIMIT) == b"1"
    assert walked(source, cursor) == []


def test_a_walk_goes_on_though_files_came_and_went(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b/1.jpg", "b/2.jpg", "c.jpg")
    source = Folder(tmp_path, Path())
    cursor = next(cursor for reference, cursor in source.walk({}) if reference.ref == "b/1.jpg")

    (tmp_path / "b/1.jpg").unlink()
    write(tmp_path, "0.jpg", "b/1x.jpg", "d.jpg")

    assert walked(source, json.loads(json.dumps(cursor))) == ["b/1x.jpg", "b/2.jpg", "c.jpg", "d.jpg"]


def test_a_folder_of_any_size_is_listed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03}.jpg" for number in range(100)]
    write(tmp_path, *names)
    monkeypatch.setattr(folders, "_BATCH", 7)

    assert walked(Folder(tmp_path, Path())) == names


def test_links_pipes_and_closed_folders_are_problems_and_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path, "outside/secret.jpg", "root/a.jpg")
    (root / "file.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(root / "pipe.jpg")
    source = Folder(root, Path())

    found = {reference.ref: reference.problem.code if reference.problem else None for reference, _ in source.walk({})}

    assert found == {"a.jpg": None} | dict.fromkeys(["file.jpg", "folder", "gone.jpg", "pipe.jpg"], "entry_not_a_file")
    for place in ("file.jpg", "folder/secret.jpg", "gone.jpg", "pipe.jpg"):
        assert reason(source, place) is ImageReason.MISSING


@pytest.mark.parametrize(
    "place",
    ["../outside/secret.jpg", "a/../../outside/secret.jpg", "/etc/x", "", ".", "%2e%2e/x", "a%00b", "a//b"],
)
def test_a_place_never_leaves_the_folder(tmp_path: Path, place: str) -> None:
    write(tmp_path, "outside/secret.jpg", "root/a/b.jpg", "x")

    assert reason(Folder(tmp_path / "root", Path()), place) is ImageReason.MISSING


def test_a_folder_that_becomes_a_link_between_walk_and_read_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside/a.jpg", "root/shoes/a.jpg")
    source = Folder(tmp_path / "root", Path())
    ((reference, _),) = source.walk({})

    (tmp_path / "root/shoes").rename(tmp_path / "root/former")
    (tmp_path / "root/shoes").symlink_to(tmp_path / "outside")

    assert reason(source, reference.place or "") is ImageReason.MISSING


def test_the_walked_folder_itself_may_be_no_link_below_the_root(tmp_path: Path) -> None:
    write(tmp_path, "outside/a.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")

    with pytest.raises(InvalidRequest) as caught:
        walked(Folder(tmp_path / "root", Path("link")))

    assert caught.value.code == "folder_missing"


def test_a_folder_that_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        walked(Folder(tmp_path, Path("nothing")))

    assert caught.value.code == "folder_missing"
    with pytest.raises(Unavailable):
        Folder(tmp_path, Path("nothing")).read("a.jpg", LIMIT)


def test_a_file_over_the_limit_or_gone_is_its_own_problem(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")

    assert reason(Folder(tmp_path, Path()), "a.jpg", limit=4) is ImageReason.TOO_MANY_BYTES
    assert reason(Folder(tmp_path, Path()), "b.jpg") is ImageReason.MISSING


def test_items_jsonl_describes_the_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg", "notes.txt", ".hidden/c.jpg", ".d.jpg")
    (tmp_path / "items.jsonl").write_text('bad\n{"file": "b.jpg", "item_id": "B"}\n')
    source = Folder(tmp_path, Path())

    found = [(reference.ref, reference.item.item_id) for reference, _ in source.walk({})]

    assert found == [("items.jsonl:1", "file"), ("a.jpg", "a"), ("b.jpg", "B")]
    assert source.skipped == {".txt": 1, "hidden": 1}
    assert walked(source, {"line": 1}) == ["a.jpg", "b.jpg"]


def test_items_jsonl_that_is_a_link_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "outside/items.jsonl", "root/a.jpg")
    (tmp_path / "root/items.jsonl").symlink_to(tmp_path / "outside/items.jsonl")

    with pytest.raises(InvalidRequest) as caught:
        walked(Folder(tmp_path / "root", Path()))

    assert caught.value.code == "manifest_unreadable"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for name in ("shop/b.jpg", "shop/a/z.png", "shop/a.jpg", "shop/a", "shop/notes.txt", "shopping/c.jpg"):
        obstore.put(store, name, name.encode())
    return store


def test_a_prefix_is_walked_in_order_and_goes_on_though_objects_came_and_went(store: MemoryStore) -> None:
    obstore.put(store, "shop/items.jsonl", b'bad\n{"file": "a/z.png", "title": "Z"}')
    source = Prefix(lambda: store, "shop")

    found = list(source.walk({}))

    assert [reference.ref for reference, _ in found] == ["items.jsonl:1", "a.jpg", "a/z.png", "b.jpg"]
    assert found[2][0].item.title == "Z"
    assert source.read(found[2][0].place or "", LIMIT) == b"shop/a/z.png"
    obstore.delete(store, "shop/a.jpg")
    obstore.put(store, "shop/a0.jpg", b"")
    assert walked(source, found[1][1]) == ["a/z.png", "a0.jpg", "b.jpg"]


def test_a_prefix_may_be_all_of_the_storage(store: MemoryStore) -> None:
    assert walked(Prefix(lambda: store, "")) == ["shop/a.jpg", "shop/a/z.png", "shop/b.jpg", "shopping/c.jpg"]


@pytest.mark.parametrize("place", ["../shopping/c.jpg", "", "a//z.png", "nothing.jpg", "./a.jpg"])
def test_a_place_never_leaves_the_prefix(store: MemoryStore, place: str) -> None:
    assert reason(Prefix(lambda: store, "shop"), place) is ImageReason.MISSING


def test_an_object_over_the_limit_is_not_read(store: MemoryStore) -> None:
    assert reason(Prefix(lambda: store, "shop"), "a.jpg", limit=4) is ImageReason.TOO_MANY_BYTES


def test_storage_that_cannot_be_reached_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    source = Roots(["s3://bucket"]).open("s3://bucket/shop")

    with pytest.raises(Unavailable):
        walked(source)
    with pytest.raises(Unavailable):
        source.read("a.jpg", LIMIT)


def test_what_lies_below_a_root_is_opened(tmp_path: Path) -> None:
    write(tmp_path, "shop/shoes/a.jpg")
    roots = Roots(["/elsewhere", f"{tmp_path}/shop/", "s3://bucket/prefix"])

    assert walked(roots.open(f"{tmp_path}/shop/shoes")) == ["a.jpg"]
    assert walked(roots.open(f"{tmp_path}/shop")) == ["shoes/a.jpg"]
    assert isinstance(roots.open("s3://bucket/prefix/more"), Prefix)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/",
        "shop",
        "/data",
        "/data/shopping",
        "/data/shop/../other",
        "/data/shop/./x",
        "/data/shop//x",
        "/data/shop/a\x00b",
        "file:///data/shop",
        "s3://bucket",
        "s3://bucket/prefixes",
        "s3://bucket/prefix/../other",
        "s3://other/prefix",
        "gs://bucket/prefix",
        "s3:///prefix",
    ],
)
def test_what_lies_below_no_root_is_forbidden(location: str) -> None:
    with pytest.raises(Forbidden) as caught:
        Roots(["/data/shop", "s3://bucket/prefix"]).open(location)

    assert caught.value.code == "root_not_allowed"


def test_without_roots_nothing_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(Forbidden):
        Roots([]).open(str(tmp_path))


@pytest.mark.parametrize("entry", ["", "shop", "~/shop", "/data/..", "ftp://host/x", "memory://", "s3://", "s3:bucket"])
def test_a_root_that_is_no_folder_and_no_storage_is_a_configuration_error(entry: str) -> None:
    with pytest.raises(ConfigurationError):
        Roots([entry])
