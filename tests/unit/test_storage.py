"""Bytes by name, in a directory, in memory and behind an address that does not answer."""

from __future__ import annotations

import hashlib
import io
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.errors import ConfigurationError, NotFound, TooLarge, Unavailable
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


@pytest.mark.parametrize("size", [0, 1, 20_000_000])
def test_what_is_streamed_in_is_got(store: BlobStore, size: int) -> None:
    chunks = [b"x" * min(1_000_000, size - at) for at in range(0, size, 1_000_000)]

    assert store.put_stream("uploads/a", iter(chunks), max_bytes=size) == size
    assert store.get("uploads/a") == b"x" * size


def test_streaming_replaces_what_was_there(store: BlobStore) -> None:
    store.put("uploads/a", b"former")

    store.put_stream("uploads/a", iter([b"newer!"]), max_bytes=6)

    assert store.get("uploads/a") == b"newer!"


@pytest.mark.parametrize("error", [RuntimeError("cut off"), OSError("reset"), NotFound("gone")])
def test_a_stream_that_breaks_raises_its_own_error_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 20_000_000
        raise error

    store = BlobStore(tmp_path.as_uri())

    with pytest.raises(type(error)) as caught:
        store.put_stream("uploads/a", chunks(), max_bytes=10**9)

    assert caught.value is error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_stream_over_the_limit_is_too_large_and_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path.as_uri())

    with pytest.raises(TooLarge):
        store.put_stream("uploads/a", iter([b"x" * 1000] * 11), max_bytes=10_000)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_opened_object_is_read_at_random(store: BlobStore) -> None:
    data = bytes(range(256)) * 10_000
    store.put(KEY, data)

    with store.open(KEY) as reader:
        assert reader.read(10) == data[:10]
        assert reader.seek(-5, io.SEEK_END) == len(data) - 5
        assert reader.read(10) == data[-5:]
        assert reader.seek(2_000_001) == 2_000_001
        assert reader.read(600_000) == data[2_000_001:2_600_001]
        assert reader.seek(10**12) == 10**12
        assert reader.read(1) == b""
        reader.seek(0)
        assert reader.read() == data


def test_an_empty_object_is_read(store: BlobStore) -> None:
    store.put(KEY, b"")

    assert store.open(KEY).read() == b""


def test_opening_what_is_not_there_or_reading_what_went_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        store.open(KEY)
    store.put(KEY, DATA)
    reader = store.open(KEY)

    store.delete(KEY)

    with pytest.raises(NotFound):
        reader.read()


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

    uses: list[Callable[[], object]] = [
        store.check,
        lambda: store.put(KEY, DATA),
        lambda: store.get(KEY),
        lambda: store.exists(KEY),
        lambda: store.open(KEY),
        lambda: store.put_stream(KEY, iter([DATA]), max_bytes=100),
    ]
    for use in uses:
        with pytest.raises(Unavailable):
            use()


@pytest.mark.parametrize(
    "url", ["", "pictures", "ftp://host/pictures", "file:pictures", "file://host/pictures", "s3://"]
)
def test_an_address_of_no_known_storage_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BlobStore(url)

    assert "\n" not in caught.value.detail
