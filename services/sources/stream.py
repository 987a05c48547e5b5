"""Bytes in one direction: a file, or what a gzip file unpacks to, with offsets that only grow."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from services.errors import InvalidRequest

BOMB: Final = "archive_bomb"
UNREADABLE_ARCHIVE: Final = "archive_unreadable"
# What an archive may unpack to: this much, or so many times its own size.
MIN_UNPACKED: Final = 1024**3
MAX_RATIO: Final = 50
GZIP_MAGIC: Final = b"\x1f\x8b"
# What is left of the input is copied for each piece of output.
_CHUNK: Final = 32 * 1024
_PIECE: Final = 256 * 1024
# So many pieces are passed over, or come to nothing, in one step.
_PIECES_A_STEP: Final = 128
_MOST_EMPTY: Final = 10_000


def unreadable(why: str) -> InvalidRequest:
    """The error of an archive that cannot be read, or any further."""
    return InvalidRequest(f"The archive cannot be read: {why}.", code=UNREADABLE_ARCHIVE)


def bomb(packed: int, unpacked: int) -> InvalidRequest:
    """The error of an archive that unpacks to far more than it is."""
    return InvalidRequest(f"{packed} bytes of the archive unpack to {unpacked} or more: too many.", code=BOMB)


class Plain:
    """A file from its beginning."""

    def __init__(self, reader: BinaryIO) -> None:
        self._size = reader.seek(0, 2)
        reader.seek(0)
        self._reader = reader
        self.at = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        data = self._reader.read(size)
        self.at += len(data)
        return data

    def skip_to(self, offset: int) -> Iterator[None]:
        """Go forward, at most to the end, at once."""
        self.at = self._reader.seek(min(offset, self._size))
        return iter(())


class Gunzipped:
    """What a gzip file (RFC 1952, of one or more members) unpacks to, a piece at a time.

    Its methods raise InvalidRequest where the file is damaged, or unpacks to nothing for long, and (code archive_bomb)
    as soon as it unpacked to more than MAX_RATIO times what was read of it and MIN_UNPACKED.
    """

    def __init__(self, reader: BinaryIO) -> None:
        reader.seek(0)
        self._reader = reader
        self._packed = 0
        self._member: zlib._Decompress | None = None
        self._input = b""
        self._empty = 0
        self.at = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._piece(min(size - len(pieces), _PIECE))
            if piece is None:
                break
            pieces += piece
        return bytes(pieces)

    def skip_to(self, offset: int) -> Iterator[None]:
        """Go forward, at most to the end, as far as it is iterated over: in steps of some megabytes."""
        while self.at < offset:
            for _ in range(_PIECES_A_STEP):
                if self.at >= offset or self._piece(min(offset - self.at, _PIECE)) is None:
                    return
            yield

    def _piece(self, size: int) -> bytes | None:
        """Some bytes, perhaps none; None at the end."""
        piece = self._unpack(size)
        self._empty = 0 if piece else self._empty + 1
        if self._empty > _MOST_EMPTY:  # members or padding without end
            raise unreadable("a large part of it is empty")
        return piece

    def _unpack(self, size: int) -> bytes | None:
        if not self._input:
            self._input = self._reader.read(_CHUNK)
            self._packed += len(self._input)
            if not self._input and self._member is not None:
                raise unreadable("it is cut off")
            if not self._input:
                return None
        if self._member is None:
            self._input = self._input.lstrip(b"\0")  # padding between members, and at the end
            self._member = zlib.decompressobj(zlib.MAX_WBITS | 16) if self._input else None
            return b""
        try:
            piece = self._member.decompress(self._input, size)
        except zlib.error as error:
            raise unreadable(str(error)) from error
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        if self._member.eof:
            self._member = None
        self.at += len(piece)
        if self.at > max(MIN_UNPACKED, MAX_RATIO * self._packed):
            raise bomb(self._packed, self.at)
        return piece
