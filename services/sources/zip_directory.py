"""The central directory of a zip file (PKWARE APPNOTE 4.3.12 to 4.3.16), read with bounds on everything."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from services.errors import InvalidRequest
from services.sources.stream import unreadable

MAX_DIRECTORY_BYTES: Final = 32 * 1024 * 1024
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_SIZE: Final = 20
_MAX_COMMENT: Final = 0xFFFF
_ENTRY: Final = struct.Struct("<4s2B5H3L5H2L")
_NOT_HERE: Final = 0xFFFFFFFF
_EXTRA64: Final = 1
_FLAG_ENCRYPTED: Final = 0x1
_FLAG_UTF8: Final = 0x800
_UNIX: Final = 3


class Stored(NamedTuple):
    """Where a member lies and how: offset of its header, sizes in bytes, compression method, CRC-32."""

    header: int
    packed: int
    size: int
    method: int
    crc: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory claims of one member; `next` is the next entry's offset in the directory."""

    name: str
    stored: Stored
    encrypted: bool
    folder: bool
    link: bool
    next: int


class Directory:
    """The entries of a zip file, in its order.

    Raises:
        InvalidRequest: there is no directory, or it is damaged (code archive_unreadable) or too large
            (archive_too_many_entries).
    """

    def __init__(self, reader: BinaryIO) -> None:
        size, offset, end = _find(reader)
        if size > MAX_DIRECTORY_BYTES:
            raise InvalidRequest(
                f"The archive's directory has more than {MAX_DIRECTORY_BYTES} bytes: it lists too many files.",
                code="archive_too_many_entries",
            )
        # Something may stand before the archive, a program that unpacks it for example; offsets do not count it.
        self._shift = end - size - offset
        if self._shift < 0:
            raise unreadable("its directory lies outside of it")
        reader.seek(end - size)
        self._data = reader.read(size)
        if len(self._data) < size:
            raise unreadable("its directory is cut off")

    def entries(self, offset: int = 0) -> Iterator[Entry]:
        """The entries from the one at an offset in the directory on."""
        while offset < len(self._data):
            entry = self._entry(offset)
            yield entry
            offset = entry.next

    def _entry(self, offset: int) -> Entry:
        try:
            # fmt: off
            (signature, _, system, _, flags, method, _, _, crc, packed, size,
             name_size, extra_size, comment_size, _, _, mode, header) = _ENTRY.unpack_from(self._data, offset)
            # fmt: on
        except struct.error:
            raise unreadable("its directory is cut off") from None
        at = offset + _ENTRY.size
        after = at + name_size + extra_size + comment_size
        if signature != b"PK\x01\x02" or after > len(self._data):
            raise unreadable("its directory is damaged")
        extra = self._data[at + name_size : at + name_size + extra_size]
        size, packed, header = _wide(extra, [size, packed, header])
        name = _decode(self._data[at : at + name_size], flags)
        return Entry(
            name,
            Stored(header + self._shift, packed, size, method, crc),
            encrypted=bool(flags & _FLAG_ENCRYPTED),
            folder=name.endswith("/"),
            link=system == _UNIX and stat.S_ISLNK(mode >> 16),
            next=after,
        )


def _find(reader: BinaryIO) -> tuple[int, int, int]:
    """Size of the directory, its offset as the archive counts, and where it really ends."""
    total = reader.seek(0, 2)
    start = max(0, total - _END.size - _MAX_COMMENT)
    reader.seek(start)
    tail = reader.read(total - start)
    at = len(tail)
    candidates: list[int] = []
    while (at := tail.rfind(b"PK\x05\x06", 0, at)) >= 0:
        after = len(tail) - at - _END.size
        comment_size = _END.unpack_from(tail, at)[-1] if after >= 0 else 0
        if after == comment_size:
            candidates = [at]
            break
        if 0 <= comment_size < after:  # something was put behind the archive
            candidates.append(at)
    if candidates:
        size, offset = _END.unpack_from(tail, candidates[0])[5:7]
        return _find64(reader, start + candidates[0]) or (size, offset, start + candidates[0])
    raise unreadable("it has no directory at its end, so it is no zip file or cut off")


def _find64(reader: BinaryIO, end: int) -> tuple[int, int, int] | None:
    """The same of a large archive, whose own end record and its locator stand before the usual one."""
    at = end - _LOCATOR64_SIZE - _END64.size
    if at < 0:
        return None
    reader.seek(at)
    record = reader.read(_END64.size + 4)
    if record[_END64.size :] != b"PK\x06\x07":
        return None
    signature, _, _, _, _, _, _, _, size, offset = _END64.unpack_from(record)
    if signature != b"PK\x06\x06":
        raise unreadable("its directory is damaged")
    return size, offset, at


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, those that do not fit into 32 bits taken from the extra field."""
    if _NOT_HERE not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _EXTRA64:
            try:
                wide = struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length])
                return [next(wide)[0] if value == _NOT_HERE else value for value in values]
            except (StopIteration, struct.error):
                raise unreadable("its directory is damaged") from None
        at += 4 + length
    return values


def _decode(name: bytes, flags: int) -> str:
    """Names are UTF-8 where they say so, and often where they do not; else code page 437, which has every byte."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode(errors="replace") if flags & _FLAG_UTF8 else name.decode("cp437")
