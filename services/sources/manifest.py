"""Lists of pictures: JSON Lines or CSV, each record an item with the address or path of its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from services.catalog.fields import check_url
from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.sources.base import Base, Cursor, Reference, Source, Step
from services.sources.names import item_id_of, shown
from services.sources.records import BOM, UNREADABLE_MANIFEST, item_fields, malformed
from services.sources.tables import csv_records, json_records

_HEAD: Final = 4096
# Each becomes an entry that repeats the fields of the item.
_MAX_IMAGES: Final = 1_000


class Manifest(Source):
    """What a JSON Lines or CSV file lists, in UTF-8, in its order; closing it closes the reader and the base.

    Members and columns are item_id, title, url, attributes (JSON) and image; in JSON also images, a list; in CSV
    also attributes.NAME, a single one. An image is an http(s) address, or a path below the base. Records without
    one change an item's fields only. Malformed records are problems of `line N`.

    Args:
        media_type: what the file was said to be; what it says nothing of is told by the first byte.
        base: where paths lie; without it they are problems.

    Raises:
        InvalidRequest: it is neither, or a column is unknown (code manifest_unreadable).
    """

    def __init__(self, reader: BinaryIO, media_type: str = "", base: Base | None = None) -> None:
        self.skipped: Counter[str] = Counter()
        self._reader = reader
        self._base = base
        reader.seek(0)
        head = reader.read(_HEAD)
        self._start = len(BOM) if head.startswith(BOM) else 0
        self._csv = _is_csv(head[self._start :], media_type)

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """As `Source` says."""
        start, line = cursor.get("offset", self._start), cursor.get("line", 1)
        done = cursor.get("image", 0)
        if self._csv:
            records = csv_records(self._reader, self._start, start, line)
        else:
            records = json_records(self._reader, start, line)
        for record in records:
            after = {"offset": record.end, "line": record.next_line}
            if record.members is None:
                yield None, after
                continue
            references = self._references(record.line, record.members)
            for count, reference in enumerate(references[done:], start=done + 1):
                within = {"offset": record.start, "line": record.line, "image": count}
                yield reference, within if count < len(references) else after
            done = 0

    def read(self, place: str, limit: int) -> bytes:
        """As `Source` says, of the base."""
        if self._base is None:
            raise ImageRejected(ImageReason.MISSING, "The manifest has no folder that its paths lie in.")
        return self._base.read(place, limit)

    def close(self) -> None:
        """As `Source` says."""
        self._reader.close()
        if self._base is not None:
            self._base.close()

    def _references(self, number: int, members: dict[str, Any] | ValueError) -> list[Reference]:
        """One reference an image, or one of the record."""
        line = f"line {number}"
        try:
            if isinstance(members, ValueError):
                raise members
            images = _images(members)
            if not images:
                return [Reference(line, item_fields(members, ""))]
        except ValueError as error:
            return [malformed(line, error)]
        return [self._reference(line, image, members) for image in images]

    def _reference(self, line: str, image: object, members: dict[str, Any]) -> Reference:
        try:
            if not isinstance(image, str):
                raise ValueError("image: must be text")
            check_url(image)
            if image.lower().startswith(("http://", "https://")):
                return Reference(image, item_fields(members, ""), url=image)
            path = _relative(image)
            item = item_fields(members, item_id_of(path))
            if self._base is None:
                raise ValueError("image: must be an http or https address, as the import names no folder")
            return Reference(shown(path), item, place=self._base.locate(path))
        except ValueError as error:
            return malformed(line, error)


def _images(members: dict[str, Any]) -> list[object]:
    image, images = members.get("image"), members.get("images")
    if images is None:
        return [] if image is None else [image]
    if image is not None or not isinstance(images, list):
        raise ValueError("images: must be a list, without `image` beside it")
    if len(images) > _MAX_IMAGES:
        raise ValueError(f"images: {len(images):,} are too many for one record: name up to {_MAX_IMAGES:,} in each")
    return images


def _relative(image: str) -> str:
    path = image.replace("\\", "/").removeprefix("./")
    if "://" in image or any(segment in ("", ".", "..") for segment in path.split("/")):
        raise ValueError("image: must be an http or https address, or a relative path without `..`")
    return path


def _is_csv(head: bytes, media_type: str) -> bool:
    """Say whether the file is CSV rather than JSON Lines.

    Raises:
        InvalidRequest: it is neither.
    """
    first = head.lstrip()[:1]
    if not first or b"\0" in head[:4] or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidRequest("The manifest is empty, or no text in UTF-8.", code=UNREADABLE_MANIFEST)
    as_csv = "csv" in media_type or ("json" not in media_type and first not in b"{[")
    if not as_csv and first == b"[":
        detail = "The manifest is a JSON array; JSON Lines have one object a line."
        raise InvalidRequest(detail, code=UNREADABLE_MANIFEST)
    return as_csv
