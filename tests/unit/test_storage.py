"""Bytes by name, in a directory, in memory and behind an address that does not answer."""

from __future__ import annotations

import hashlib
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.errors import ConfigurationError, NotFound, Unavailable
from services.storage.blobs import BlobStore, key_of

DATA = b"the bytes of a picture"
KEY = key_of(hashlib.sha256(DATA).hexdigest())


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore("memory://" if request.param == "memory" else (tmp_path / "pictures of a shop").as_uri())


def test_keys_spread_over_two_levels() -> None:
    assert key_of("abcd" + "0" * 60) == "blobs/ab/cd/abcd" + "0" * 60


def test_what_was_put_is_got(store: BlobStore) -> None:
    store.put(KEY, DATA)

    assert store.get(KEY) == DATA
    assert store.exists(KEY)


@pytest.mark.parametrize("size", [0, 1, 12_000_000])
def test_any_size_is_kept(store: BlobStore, size: int) -> None:
    store.put(KEY, b"x" * size)

    assert len(store.get(KEY)) == size


def test_what_was_never_put_is_not_found(store: BlobStore) -> None:
    assert not store.exists(KEY)
    with pytest.raises(NotFound):
        store.get(KEY)


def test_putting_again_writes_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path.as_uri())
    store.put(KEY, DATA)
    written = (tmp_path / KEY).stat()

    store.put(KEY, DATA)

    assert (tmp_path / KEY).stat().st_ino == written.st_ino
    assert (tmp_path / KEY).stat().st_mtime_ns == written.st_mtime_ns


def test_an_object_of_another_size_is_replaced(store: BlobStore) -> None:
    store.put(KEY, DATA[:5])

    store.put(KEY, DATA)

    assert store.get(KEY) == DATA


def test_deleting_twice_is_no_error(store: BlobStore) -> None:
    store.put(KEY, DATA)

    store.delete(KEY)
    store.delete(KEY)

    assert not store.exists(KEY)


def test_a_listing_streams_all_below_a_prefix(store: BlobStore) -> None:
    keys = {key_of(hashlib.sha256(b"%d" % number).hexdigest()) for number in range(300)}
    for key in keys:
        store.put(key, DATA)
    store.put("other/thing", b"")

    listed = list(store.list("blobs"))

    assert {blob.key for blob in listed} == keys
    assert {blob.size for blob in listed} == {len(DATA)}
    assert all(blob.modified.tzinfo for blob in listed)
    assert len(list(store.list())) == 301
    assert list(store.list("blobs/zz")) == []


def test_many_threads_may_put_the_same_bytes(store: BlobStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.put(KEY, DATA * 1000), range(40)))

    assert store.get(KEY) == DATA * 1000
    assert [blob.key for blob in store.list()] == [KEY]


def test_the_directory_is_made_when_needed_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "blobs"
    store = BlobStore(folder.as_uri())
    assert not folder.exists()

    store.put(KEY, DATA)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_check_proves_that_writing_works(store: BlobStore) -> None:
    store.check()

    assert list(store.list("blobs")) == []


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = BlobStore((tmp_path / "file" / "blobs").as_uri())

    for use in (store.check, lambda: store.put(KEY, DATA), lambda: store.get(KEY), lambda: list(store.list())):
        with pytest.raises(Unavailable):
            use()


def test_a_server_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    store = BlobStore("s3://bucket/prefix")

    for use in (store.check, lambda: store.put(KEY, DATA), lambda: store.get(KEY), lambda: store.exists(KEY)):
        with pytest.raises(Unavailable):
            use()


@pytest.mark.parametrize(
    "url", ["", "pictures", "ftp://host/pictures", "file:pictures", "file://host/pictures", "s3://"]
)
def test_an_address_of_no_known_storage_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BlobStore(url)

    assert "\n" not in caught.value.detail
