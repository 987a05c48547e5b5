"""Bytes by name: a local directory, S3-compatible storage, Google Cloud Storage, Azure, or memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from services.errors import ConfigurationError, NotFound, Unavailable
from services.storage.streams import Metered, Ranges, answering

CLOUD_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
# A request waits for storage, so it must not be retried for minutes, which is the library's default.
_CONNECT_TIMEOUT = timedelta(seconds=3)
_TIMEOUT = timedelta(seconds=30)
_RETRIES = 3
_RETRY_TIMEOUT = timedelta(seconds=10)
_PROBE = "probe"
# One part waits in memory while the next comes in; S3 takes 10,000 of them for one object.
_PART = 8 * 1024 * 1024
_READ_AHEAD = 512 * 1024


@dataclass(frozen=True)
class Blob:
    """What a listing says of one object; `size` in bytes."""

    key: str
    size: int
    modified: datetime


def key_of(sha256: str) -> str:
    """Where the bytes of this SHA-256 (64 hexadecimal digits) are kept."""
    return f"blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"


class BlobStore:
    """Objects under one URL: file://, s3://, gs://, az:// or memory://. Safe to use from many threads.

    Credentials and endpoints come from the variables that each provider's own tools read (AWS_*, GOOGLE_*,
    AZURE_*). Every method raises Unavailable if the storage does not answer or refuses. Nothing is connected
    to, and no directory made, before it is needed.
    """

    def __init__(self, url: str) -> None:
        """
        Raises:
            ConfigurationError: the URL names no storage that is known, or lacks a part.
        """
        self._opener = opener(url)
        self._lock = threading.Lock()
        self._opened: ObjectStore | None = None

    def put(self, key: str, data: bytes) -> None:
        """Store bytes atomically; nothing is sent if an object of this name and size is there.

        Names are made from content (`key_of`), so the same name and size is the same content.
        """
        with answering():
            if self._size(key) != len(data):
                obstore.put(self._store, key, data)

    def put_stream(self, key: str, chunks: Iterator[bytes], max_bytes: int) -> int:
        """Store what an iterator yields, a few megabytes in memory at a time; returns its size.

        An object of this name is replaced. Nothing is stored if the iterator raises, which is raised on.

        Raises:
            TooLarge: more than `max_bytes` came.
        """
        stream = Metered(chunks, max_bytes)
        try:
            with answering():
                obstore.put(self._store, key, stream, chunk_size=_PART, max_concurrency=1)
        except Unavailable:
            if stream.error is not None:  # the iterator's own, not the storage's
                raise stream.error from None
            raise
        return stream.size

    def get(self, key: str) -> bytes:
        """Read an object.

        Raises:
            NotFound: there is none of this name.
        """
        with answering():
            try:
                return obstore.get(self._store, key).bytes().to_bytes()
            except FileNotFoundError:
                raise NotFound("The stored bytes are missing.") from None

    def open(self, key: str) -> io.BufferedReader:
        """A seekable reader of an object, which asks for a range at a time and holds little in memory.

        Its reads raise NotFound and Unavailable too.

        Raises:
            NotFound: there is none of this name.
        """
        with answering():
            size = self._size(key)
        if size is None:
            raise NotFound("The stored bytes are missing.")
        return io.BufferedReader(Ranges(self._store, key, size), _READ_AHEAD)

    def exists(self, key: str) -> bool:
        """Say whether there is an object of this name."""
        with answering():
            return self._size(key) is not None

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if there is none."""
        with answering(), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Stream the objects under a prefix of whole path segments, in no particular order."""
        with answering():
            for page in obstore.list(self._store, prefix or None):
                for found in page:
                    yield Blob(found["path"], found["size"], found["last_modified"])

    def check(self) -> None:
        """Prove that objects can be written, by writing a tiny one of a fixed name."""
        with answering():
            obstore.put(self._store, _PROBE, b"akin")

    @property
    def _store(self) -> ObjectStore:
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
            return self._opened

    def _size(self, key: str) -> int | None:
        try:
            return obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None


def opener(url: str) -> Callable[[], ObjectStore]:
    """How to open the storage of a URL, which makes a local directory and connects to nothing.

    Raises:
        ConfigurationError: the URL names no storage that is known, or lacks a part.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryStore
    if scheme == "file":
        folder = Path(unquote(urlsplit(url).path))
        if not folder.is_absolute() or urlsplit(url).netloc:
            raise ConfigurationError("the storage URL of a directory is file:///absolute/path")
        return lambda: _open_folder(folder)
    if scheme not in CLOUD_SCHEMES:
        raise ConfigurationError("the storage URL begins with file://, s3://, gs://, az:// or memory://")
    try:
        store = from_url(
            url,
            # No provider is reached over plain HTTP unless an endpoint was configured so.
            client_options={"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT, "allow_http": True},
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_TIMEOUT},
        )
    except (BaseError, ValueError) as error:
        # Its further lines are debugging output.
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"the storage URL cannot be used: {reason}") from error
    return lambda: store


def _open_folder(folder: Path) -> ObjectStore:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LocalStore(folder)
