"""Objects below a prefix of object storage: s3://, gs://, az://."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import obstore
from obstore.exceptions import InvalidPathError
from obstore.store import ObjectStore

from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.sources.base import Base, Cursor, Reference, Step, is_passed_over
from services.sources.names import MANIFEST_NAME, clean_ref
from services.sources.records import MAX_DESCRIPTIONS_BYTES, UNREADABLE_MANIFEST, Descriptions
from services.storage.streams import answering

UNREADABLE_PREFIX: Final = "prefix_unreadable"
_PAGE: Final = 1000


class Prefix(Base):
    """The pictures below a prefix, in the order in which the storage lists them, which is that of their names.

    Credentials and endpoints are those of `BlobStore`. Nothing is connected to before it is needed. An items.jsonl
    at the prefix describes the pictures.

    Args:
        opener: opens the storage that was configured.
        path: the prefix in it, whole segments without `..`; "" for all.
    """

    def __init__(self, opener: Callable[[], ObjectStore], path: str) -> None:
        self.skipped: Counter[str] = Counter()
        self._opener = opener
        self._path = path
        self._opened: ObjectStore | None = None
        self._read_descriptions: Descriptions | None = None

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """As `Source` says; code prefix_unreadable if the storage lists what cannot be walked."""
        descriptions = self._descriptions()
        latest = cursor.get("after")
        if latest is None:
            yield from descriptions.problems(cursor)
        for place in self._places(latest):
            if latest is not None and place <= latest:
                raise InvalidRequest("The storage lists its objects in no order.", code=UNREADABLE_PREFIX)
            latest = place
            ref = clean_ref(place)
            if place == MANIFEST_NAME or is_passed_over(ref, self.skipped):
                yield None, {"after": place}
                continue
            assert ref is not None
            yield Reference(ref, descriptions.item(ref), place=place), {"after": place}

    def read(self, place: str, limit: int) -> bytes:
        """As `Source` says."""
        if any(part in ("", ".", "..") for part in place.split("/")):
            raise ImageRejected(ImageReason.MISSING, "There is no such object below the prefix.")
        with answering():
            try:
                found = obstore.get(self._store, f"{self._path}/{place}" if self._path else place)
            except (FileNotFoundError, InvalidPathError) as error:
                raise ImageRejected(ImageReason.MISSING, "There is no such object below the prefix.") from error
            if found.meta["size"] > limit:
                raise ImageRejected(ImageReason.TOO_MANY_BYTES, f"The object has more than {limit} bytes.")
            return found.bytes().to_bytes()

    def locate(self, path: str) -> str:
        """As `Base` says."""
        return path

    def close(self) -> None:
        """As `Source` says: nothing is held open."""

    def _places(self, after: str | None) -> Iterator[str]:
        """Names below the prefix, from the one after `after` on."""
        above = f"{self._path}/" if self._path else ""
        offset = None if after is None else above + after
        with answering():
            try:
                for page in obstore.list(self._store, self._path or None, offset=offset, chunk_size=_PAGE):
                    yield from (found["path"].removeprefix(above) for found in page)
            except InvalidPathError as error:
                reason = str(error).partition("\n")[0]
                detail = f"A name below the prefix cannot be read: {reason}"
                raise InvalidRequest(detail, code=UNREADABLE_PREFIX) from error

    def _descriptions(self) -> Descriptions:
        if self._read_descriptions is None:
            try:
                data = self.read(MANIFEST_NAME, MAX_DESCRIPTIONS_BYTES)
            except ImageRejected as error:
                if error.reason is not ImageReason.MISSING:
                    raise InvalidRequest(f"{MANIFEST_NAME}: {error.detail}", code=UNREADABLE_MANIFEST) from error
                data = b""
            self._read_descriptions = Descriptions(data)
        return self._read_descriptions

    @property
    def _store(self) -> ObjectStore:
        if self._opened is None:
            self._opened = self._opener()
        return self._opened
