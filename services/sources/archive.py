"""Archives, read where they lie: nothing is ever unpacked to disk, and no name in them is a path here."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

from services.catalog.items import ItemFields
from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.sources.base import (
    ENCRYPTED,
    NOT_A_FILE,
    UNSUPPORTED,
    Cursor,
    Problem,
    Reference,
    Source,
    Step,
    is_passed_over,
)
from services.sources.names import MANIFEST_NAME, clean_ref, item_id_of
from services.sources.records import MAX_DESCRIPTIONS_BYTES, UNREADABLE_MANIFEST, Descriptions
from services.sources.stream import MAX_RATIO, MIN_UNPACKED, bomb
from services.sources.tar import Tar, is_tar
from services.sources.zip_directory import Directory, Entry, Stored

_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_HEADER: Final = struct.Struct("<4s5H3L2H")
_CHUNK: Final = 64 * 1024


def open_archive(reader: BinaryIO, limit: int) -> Source:
    """The pictures of a zip, tar or tar.gz file, told apart by their bytes; closing it closes the reader.

    Args:
        limit: the most bytes that one picture may have.

    Raises:
        InvalidRequest: it is none of them, damaged (code archive_unreadable), lists too many files
            (archive_too_many_entries), or unpacks to far more than it is (archive_bomb).
    """
    return Tar(reader, limit) if is_tar(reader) else Zip(reader, limit)


class Zip(Source):
    """The pictures of a zip file, in the order of its directory, each read at random.

    The items.jsonl that lies furthest up describes them and names them from where it lies.
    """

    def __init__(self, reader: BinaryIO, limit: int) -> None:
        """
        Raises:
            InvalidRequest: as `open_archive` does.
        """
        self.skipped: Counter[str] = Counter()
        self._reader = reader
        self._limit = limit
        self._directory = Directory(reader)
        self._size = reader.seek(0, 2)
        self._descriptions = self._described(self._survey())

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """As `Source` says; the directory is in memory, so that nothing takes long."""
        offset = cursor.get("entry", 0)
        if not offset:
            yield from self._descriptions.problems(cursor)
        for entry in self._directory.entries(offset):
            ref = clean_ref(entry.name)
            if entry.folder or _is_manifest(entry):
                continue
            if entry.link and ref is not None:
                problem = Problem(NOT_A_FILE, "It is a symbolic link.")
                yield Reference(ref, ItemFields(item_id_of(ref)), problem=problem), {"entry": entry.next}
            elif not is_passed_over(ref, self.skipped):
                assert ref is not None
                yield self._reference(ref, entry), {"entry": entry.next}

    def read(self, place: str, limit: int) -> bytes:
        """As `Source` says."""
        return self._unpack(Stored(*map(int, place.split())), limit)

    def close(self) -> None:
        """As `Source` says."""
        self._reader.close()

    def _reference(self, ref: str, entry: Entry) -> Reference:
        item = self._descriptions.item(ref)
        problem = _problem(entry, self._limit)
        if problem is not None:
            return Reference(ref, item, problem=problem)
        return Reference(ref, item, place=" ".join(map(str, entry.stored)))

    def _survey(self) -> Entry | None:
        """Go over the directory once: add up what there is to unpack, and find what describes it.

        Members may overlap, and one byte can be claimed by all of them. So what counts is what each would unpack to.
        """
        total = 0
        manifest: Entry | None = None
        for entry in self._directory.entries():
            if not entry.folder and _problem(entry, self._limit) is None:
                total += entry.stored.size
            if _is_manifest(entry) and (manifest is None or _depth(entry) < _depth(manifest)):
                manifest = entry
        if total > max(MIN_UNPACKED, MAX_RATIO * self._size):
            raise bomb(self._size, total)
        return manifest

    def _described(self, entry: Entry | None) -> Descriptions:
        if entry is None:
            return Descriptions()
        problem = _problem(entry, MAX_DESCRIPTIONS_BYTES)
        try:
            if problem is not None:
                raise InvalidRequest(f"{MANIFEST_NAME}: {problem.detail}", code=UNREADABLE_MANIFEST)
            data = self._unpack(entry.stored, MAX_DESCRIPTIONS_BYTES)
        except ImageRejected as error:
            raise InvalidRequest(f"{MANIFEST_NAME}: {error.detail}", code=UNREADABLE_MANIFEST) from error
        return Descriptions(data, (clean_ref(entry.name) or "").removesuffix(MANIFEST_NAME))

    def _unpack(self, stored: Stored, limit: int) -> bytes:
        if stored.size > limit:
            raise _too_large(limit)
        if not 0 <= stored.header <= self._size - _HEADER.size:
            raise _broken("it lies outside of the archive")
        self._reader.seek(stored.header)
        signature, *_, name_size, extra_size = _HEADER.unpack(self._reader.read(_HEADER.size))
        if signature != b"PK\x03\x04":
            raise _broken("the archive has no file where its directory says")
        self._reader.seek(name_size + extra_size, 1)
        try:
            data = self._inflate(_decompressor(stored.method), stored.packed, stored.size)
        except (zlib.error, OSError) as error:
            raise _broken(str(error)) from error
        if len(data) != stored.size:
            raise _broken("it is cut off, or larger than the archive says")
        if zlib.crc32(data) != stored.crc:
            raise _broken("its checksum is wrong")
        return data

    def _inflate(self, decompressor: _Decompressor | None, packed: int, size: int) -> bytes:
        """At most one byte more than `size`, of at most `packed` bytes of the archive."""
        if decompressor is None:
            return self._reader.read(min(packed, size + 1))
        data = bytearray()
        while packed > 0 and len(data) <= size and not decompressor.eof:
            chunk = self._reader.read(min(packed, _CHUNK))
            if not chunk:
                break
            packed -= len(chunk)
            data += decompressor.decompress(chunk, size + 1 - len(data))
        return bytes(data)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompressor(method: int) -> _Decompressor | None:
    """What undoes a member's compression, if it has any."""
    if method == _DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS)
    return bz2.BZ2Decompressor() if method == _BZIP2 else None


def _problem(entry: Entry, limit: int) -> Problem | None:
    """Why a member is not to be read, as far as the directory tells."""
    if entry.encrypted:
        return Problem(ENCRYPTED, "It is encrypted.")
    if entry.stored.method not in (_STORED, _DEFLATED, _BZIP2):
        return Problem(UNSUPPORTED, f"Its compression (method {entry.stored.method}) is not supported.")
    if entry.stored.size > limit:
        return _as_problem(_too_large(limit))
    # No compressor makes more of a file than this; one that claims it would have us read the archive over and over.
    if entry.stored.packed > entry.stored.size + entry.stored.size // 8 + 1024:
        return _as_problem(_broken("the archive contradicts itself about its size"))
    return None


def _as_problem(error: ImageRejected) -> Problem:
    return Problem(error.code, error.detail)


def _too_large(limit: int) -> ImageRejected:
    return ImageRejected(ImageReason.TOO_MANY_BYTES, f"The file has more than {limit} bytes.")


def _broken(why: str) -> ImageRejected:
    return ImageRejected(ImageReason.BROKEN, f"The file cannot be unpacked: {why}.")


def _is_manifest(entry: Entry) -> bool:
    return entry.name.endswith(MANIFEST_NAME) and _depth(entry) >= 0


def _depth(entry: Entry) -> int:
    """Folders above a manifest; -1 for what is none, or hidden."""
    folders, _, file = f"/{clean_ref(entry.name) or ''}".rpartition("/")
    return folders.count("/") if file == MANIFEST_NAME else -1
