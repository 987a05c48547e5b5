"""The tar file around a backup: plain ustar with regular files only, read without following what a header claims.

`tarfile` itself is not used for reading: it holds pax records of any size in memory, and knows links and devices.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from services.backup.layout import Kind, damaged, kind_of

_ZEROS = bytes(tarfile.BLOCKSIZE)


class TarWriter:
    """Appends members to a file, which need not be seekable; `digests` has the SHA-256 of each but the blobs."""

    def __init__(self, file: BinaryIO, mtime: int) -> None:
        self._file = file
        self._mtime = mtime
        self.digests: dict[str, str] = {}

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append one member."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), self._mtime, 0o600
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
        self._file.write(data)
        self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        if kind_of(name) is not Kind.BLOB:
            self.digests[name] = hashlib.sha256(data).hexdigest()

    def finish(self) -> None:
        """Write the end of the archive."""
        self._file.write(2 * _ZEROS)
        self._file.flush()


@dataclass(frozen=True)
class Member:
    """One member, read whole. `end` is the offset in the file behind it."""

    name: str
    kind: Kind
    data: bytes
    end: int

    @property
    def sha256(self) -> str:
        """SHA-256 of the data."""
        return hashlib.sha256(self.data).hexdigest()


def members(file: BinaryIO, limits: Mapping[Kind, int]) -> Iterator[Member]:
    """The members of a backup from its beginning on, one in memory at a time.

    Args:
        limits: bytes that a member of each kind may have.

    Raises:
        AkinError: the file ends early, or has a member that no backup has, or a larger one.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (header := _exactly(file, tarfile.BLOCKSIZE)) != _ZEROS:
        name, kind, size = _read_header(header)
        if size > limits[kind]:
            raise damaged(f"{name} has {size:,} bytes, and {limits[kind]:,} are allowed")
        if size > length - file.tell():
            raise damaged(f"the file ends in the middle of {name}")
        data = _exactly(file, size)
        _exactly(file, -size % tarfile.BLOCKSIZE)
        yield Member(name, kind, data, file.tell())


def _read_header(header: bytes) -> tuple[str, Kind, int]:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise damaged("it is not a tar file, or damaged") from error
    kind = kind_of(info.name)
    if info.type != tarfile.REGTYPE or kind is None or info.size < 0:
        raise damaged(f"it has {info.name[:200]!a}, which no backup has")
    return info.name, kind, info.size


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise damaged("the file ends too early")
    return data
