"""Tar files, plain or gzipped: read forward once, each picture carried with its reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from services.catalog.items import ItemFields
from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.sources.base import (
    INVALID,
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
from services.sources.stream import GZIP_MAGIC, Gunzipped, Plain, unreadable
from services.sources.tar_members import BLOCK, Kind, Member, is_header, members, next_member

_PROBLEMS: Final = {
    Kind.LINK: Problem(NOT_A_FILE, "It is a link."),
    Kind.OTHER: Problem(NOT_A_FILE, "It is a device, a pipe, or of an unknown kind."),
    Kind.SPARSE: Problem(UNSUPPORTED, "Sparse files are not supported."),
}


def is_tar(reader: BinaryIO) -> bool:
    """Say whether a file begins as a tar or a gzip file does."""
    reader.seek(0)
    head = reader.read(BLOCK)
    return head.startswith(GZIP_MAGIC) or is_header(head)


class Tar(Source):
    """The pictures of a tar file, in its order.

    An items.jsonl that comes before the first picture describes them, and names them from where it lies. To go on
    from a cursor, a gzipped file is unpacked again up to there.
    """

    def __init__(self, reader: BinaryIO, limit: int) -> None:
        self.skipped: Counter[str] = Counter()
        self._reader = reader
        self._limit = limit

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """As `Source` says; references carry their bytes."""
        self._reader.seek(0)
        zipped = self._reader.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream = Gunzipped(self._reader) if zipped else Plain(self._reader)
        descriptions = Descriptions()
        described: int | None = cursor.get("described")
        if described is not None:
            for _ in stream.skip_to(described):
                yield None, cursor
            descriptions = _read_descriptions(stream, next_member(stream))
        if "line" in cursor:
            for reference, done in descriptions.problems(cursor):
                yield reference, cursor | done
        for _ in stream.skip_to(cursor.get("offset", 0)):
            yield None, cursor
        if stream.at < cursor.get("offset", 0):
            raise unreadable("it is cut off")
        early = not cursor or "early" in cursor
        position = cursor
        for member in members(stream):
            if member is None:
                yield None, position
                continue
            position = {"offset": member.next, "described": described}
            if early and _is_manifest(member) and described is None:
                descriptions, described = _read_descriptions(stream, member), member.start
                position["described"] = described
                for reference, done in descriptions.problems({}):
                    yield reference, position | done
                continue
            found = self._reference(stream, member, descriptions)
            if found is not None:
                early = False
            elif early:
                position["early"] = True
            yield found, position

    def read(self, place: str, limit: int) -> bytes:
        """Refuse: references carry their bytes."""
        raise ImageRejected(ImageReason.MISSING, "The files of a tar archive are read once, in their order.")

    def close(self) -> None:
        """As `Source` says."""
        self._reader.close()

    def _reference(self, stream: Plain | Gunzipped, member: Member, descriptions: Descriptions) -> Reference | None:
        """The reference of a member; None for folders and what is passed over."""
        ref = clean_ref(member.name)
        if member.kind is Kind.FOLDER:
            return None
        if ref is not None and (member.kind in (Kind.LINK, Kind.OTHER) or _is_manifest(member)):
            problem = _PROBLEMS.get(member.kind) or Problem(
                INVALID, f"{MANIFEST_NAME} must come once, before all pictures."
            )
            return Reference(ref, ItemFields(item_id_of(ref)), problem=problem)
        if is_passed_over(ref, self.skipped):
            return None
        assert ref is not None
        item = descriptions.item(ref)
        if member.kind is Kind.SPARSE:
            return Reference(ref, item, problem=_PROBLEMS[Kind.SPARSE])
        if member.size > self._limit:
            problem = Problem(ImageReason.TOO_MANY_BYTES, f"The file has more than {self._limit} bytes.")
            return Reference(ref, item, problem=problem)
        return Reference(ref, item, data=_read(stream, member))


def _read(stream: Plain | Gunzipped, member: Member) -> bytes:
    data = stream.read(member.size)
    if len(data) < member.size:
        raise unreadable("it is cut off")
    return data


def _read_descriptions(stream: Plain | Gunzipped, member: Member | None) -> Descriptions:
    if member is None:
        raise unreadable("it is cut off")
    if member.size > MAX_DESCRIPTIONS_BYTES:
        raise InvalidRequest(f"{MANIFEST_NAME} has more than {MAX_DESCRIPTIONS_BYTES} bytes", code=UNREADABLE_MANIFEST)
    return Descriptions(_read(stream, member), (clean_ref(member.name) or "").removesuffix(MANIFEST_NAME))


def _is_manifest(member: Member) -> bool:
    ref = clean_ref(member.name) if member.kind is Kind.FILE else None
    return ref is not None and PurePosixPath(ref).name == MANIFEST_NAME
