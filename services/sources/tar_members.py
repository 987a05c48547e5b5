"""The headers of a tar file (POSIX pax, GNU, ustar, v7), read forward with bounds on everything."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from services.sources.stream import Gunzipped, Plain, unreadable

BLOCK: Final = tarfile.BLOCKSIZE
# Long names and pax records; their size is the archive's to claim.
_MAX_EXTENSION: Final = 1024 * 1024
_PAX_TYPES: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_IGNORED_TYPES: Final = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK, b"V")
_MAX_DIGITS: Final = 20
# Headers that only describe the next one.
_MAX_EXTENSIONS: Final = 100


class Kind(Enum):
    """What a member is."""

    FILE = auto()
    FOLDER = auto()
    LINK = auto()
    SPARSE = auto()
    OTHER = auto()


_KINDS: Final = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.LNKTYPE: Kind.LINK,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.GNUTYPE_SPARSE: Kind.SPARSE,
}
# Whatever size these claim, nothing follows their header.
_WITHOUT_DATA: Final = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member: where its first header begins, where its `size` bytes end, and where the next one begins."""

    name: str
    kind: Kind
    size: int
    start: int
    end: int
    next: int


def members(stream: Plain | Gunzipped) -> Iterator[Member | None]:
    """The members from where the stream stands, which must be a header; None now and then while one is passed over.

    When one is yielded the stream stands at its first byte; up to `size` bytes may be read before the next is taken.

    Raises:
        InvalidRequest: the file is damaged or cut off (code archive_unreadable).
    """
    while (member := next_member(stream)) is not None:
        yield member
        yield from stream.skip_to(member.end)
        if stream.at < member.end:
            raise unreadable("it is cut off")
        yield from stream.skip_to(member.next)


def next_member(stream: Plain | Gunzipped) -> Member | None:
    """The next member, with what the extensions before its header say; None at the end."""
    start = stream.at
    name: str | None = None
    pax: dict[bytes, bytes] = {}
    extensions = 0
    while (header := _header(stream)) is not None:
        extensions += 1
        if extensions > _MAX_EXTENSIONS:
            raise unreadable(f"a file has more than {_MAX_EXTENSIONS} headers")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = _extension(stream, header.size).partition(b"\0")[0].decode(errors="replace")
        elif header.type in _PAX_TYPES:
            pax = _pax_records(_extension(stream, header.size))
        elif header.type in _IGNORED_TYPES:
            _extension(stream, header.size)
        else:
            break
    if header is None:
        if stream.at > start + BLOCK:
            raise unreadable("it is cut off")
        return None
    kind = _KINDS.get(header.type, Kind.OTHER)
    if any(key.startswith(b"GNU.sparse.") for key in pax):
        kind = Kind.SPARSE
    if b"path" in pax:
        name = pax[b"path"].decode(errors="replace")
    size = 0 if header.type in _WITHOUT_DATA else _number(pax.get(b"size"), header.size)
    end = stream.at + size
    return Member(name or header.name, kind, size, start, end, end + -size % BLOCK)


def is_header(block: bytes) -> bool:
    """Say whether a tar file may begin so."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return block == bytes(BLOCK)  # the end, of an archive of nothing
    return True


def _header(stream: Plain | Gunzipped) -> tarfile.TarInfo | None:
    """The next header; None at the end, which is two blocks of zeros, one, or none."""
    block = stream.read(BLOCK)
    if not block.strip(b"\0") and len(block) in (0, BLOCK):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise unreadable(f"it is damaged or cut off ({error})") from error
    if header.size < 0:
        raise unreadable("a file of it claims a negative size")
    if header.type == tarfile.GNUTYPE_SPARSE:
        more = block[482]
        while more:
            block = stream.read(BLOCK)
            if len(block) < BLOCK:
                raise unreadable("it is cut off")
            more = block[504]
    return header


def _extension(stream: Plain | Gunzipped, size: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise unreadable(f"the name or the properties of a file have {size} bytes")
    data = stream.read(size + -size % BLOCK)
    if len(data) < size:
        raise unreadable("it is cut off")
    return data[:size]


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE` and a line feed that matter here."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + _MAX_DIGITS)
        length = _number(data[at:space] if space > 0 else b"", 0)
        if not space - at < length <= len(data) - at:
            raise unreadable("the properties of a file are damaged")
        key, _, value = data[space + 1 : at + length - 1].partition(b"=")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            records[key] = value
        at += length
    return records


def _number(digits: bytes | None, default: int) -> int:
    if digits is None:
        return default
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise unreadable("the properties of a file are damaged")
    return int(digits)
