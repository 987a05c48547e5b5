"""Objects as streams: bytes that arrive piece by piece, and reading a range at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from services.errors import NotFound, TooLarge, Unavailable

if TYPE_CHECKING:
    from typing_extensions import Buffer


@contextmanager
def answering() -> Iterator[None]:
    """Turn what the storage raises into Unavailable."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise Unavailable("The picture storage does not answer, or refuses.") from error


class Metered:
    """An iterator of bytes that counts them, stops at a limit and remembers what it raised."""

    def __init__(self, chunks: Iterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._limit = limit
        self.size = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
            self.size += len(chunk)
            if self.size > self._limit:
                raise TooLarge(f"more than {self._limit} bytes were sent")
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise
        return chunk


class Ranges(io.RawIOBase):
    """An object as a file; each read is one request for a range."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative seek position")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        end = min(self._at + len(target), self._size)
        if end <= self._at:
            return 0
        with answering():
            try:
                data = obstore.get_range(self._store, self._key, start=self._at, end=end)
            except FileNotFoundError:
                raise NotFound("The stored bytes are missing.") from None
        target[: len(data)] = memoryview(data)
        self._at += len(data)
        return len(data)
